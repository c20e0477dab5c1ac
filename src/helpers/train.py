"""The paper's recipe (Sec. 3.4 and 4.2): one loop, a generator of metric rows, over a state that can be saved."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from helpers.config import Config
from helpers.config import Schedule as Schedule  # notebooks have both from here
from helpers.data import (
    Draw,
    Padding,
    Split,
    channel_statistics,
    draw_steps,
    gather,
    mean_image,
    normalise,
)
from helpers.models import ResNet, split_norms
from helpers.step import PROCESS_LOCK, Step, StepPath, capture, choose_path, examine, make_step, take_path

GATE_WINDOW = 100  # steps whose mean training error the warm-up's gate looks at


class NotFinite(RuntimeError):
    """The loss became infinite or not a number."""


@dataclass
class State:
    """A run between two steps: all that resuming needs."""

    config: Config
    path: StepPath
    network: ResNet
    optimiser: torch.optim.SGD
    seconds: float  # spent on the steps done, evaluations included
    clock: Tensor  # int64: steps done
    loss: Tensor  # sum over the steps since the last row, float64
    errors: Tensor  # likewise: wrongly classified images, int64
    gate: Tensor  # bool: whether the warm-up is over
    gate_errors: Tensor  # int64: wrong images in the gate's present window
    not_finite: Tensor  # int64: the first step whose loss was not finite, or -1

    @property
    def device(self) -> str:
        return self.path.device

    @property
    def step(self) -> int:
        """Steps done; reading it waits for the device."""
        return int(self.clock)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that resuming restores, by name; momentum that no step has made yet is made here, as zeros."""
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            state = self.optimiser.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            named[f"momentum.{name}"] = state["momentum_buffer"]
        counters = ("clock", "loss", "errors", "gate", "gate_errors", "not_finite")
        return named | {name: getattr(self, name) for name in counters}


def start(config: Config, device: str | None = None, path: StepPath | None = None) -> State:
    """A run at step 0: the network initialised from the seed, on the CPU and so alike on every device.

    A `path`, if given, also decides the device. Raises PathError if this machine cannot take it.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    path = path or choose_path(examine(device), config.precision, config.compiled, config.schedule.steps)
    take_path(path)
    with PROCESS_LOCK, torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = ResNet(config.spec, config.initialisation)
    if config.norm_parts > 1:
        split_norms(network, config.norm_parts)
    network.to(path.device, memory_format=torch.channels_last)
    optimiser = make_optimiser(network, config)

    zero = torch.zeros((), dtype=torch.int64, device=path.device)
    gate = torch.tensor(config.schedule.warmup_lr is None, device=path.device)
    return State(config, path, network, optimiser, 0.0, zero, zero.double(), zero.clone(), gate, zero.clone(), zero - 1)


def make_optimiser(network: ResNet, config: Config) -> torch.optim.SGD:
    """SGD with momentum. The rate is a tensor, so that the device can change it."""
    parameters = list(network.parameters())
    decayed = parameters if config.decay_all else [p for p in parameters if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}]
    if not config.decay_all:
        groups.append({"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0})
    lr = torch.tensor(0.0, device=parameters[0].device)  # one tensor, which all groups share
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def train(state: State, train_split: Split, test_split: Split, progress: bool | None = None) -> Iterator[dict]:
    """Advance `state` to the end of its schedule, yielding a row of metrics at each evaluation.

    Training loss and error are running means over the augmented batches since the last row (the paper does not say
    how it measures them); test loss and error are of the whole test split. Losses in nats, errors in percent. A bar
    is shown if `progress`, by default on a terminal and in JupyterLab. Raises NotFinite, with the step, if the loss is
    no longer finite.
    """
    begun, config = time.perf_counter(), state.config
    train_split, test_split = (split.to(state.device) for split in divide(config, train_split, test_split))
    mean, std = statistics(config, train_split)
    plans = make_plans(config, len(train_split.labels), state.step)
    plan = next(plans, None)
    if plan is None:
        return
    place, take_step = prepare(state, train_split, plan)
    state.loss.zero_()  # not zero if an interval was interrupted: a row covers the steps since this call
    state.errors.zero_()
    in_lab = "JPY_SESSION_NAME" in os.environ  # JupyterLab's kernels: no terminal, and stderr is shown in red
    shown = (in_lab or sys.stderr.isatty()) if progress is None else progress
    look = {"unit": "step", "disable": not shown, "leave": False, "file": sys.stdout if in_lab else sys.stderr}
    with tqdm(total=config.schedule.steps, initial=state.step, **look) as bar:
        try:
            while plan is not None:
                place(plan)
                for _ in range(steps := len(plan.rates)):
                    take_step()
                    bar.update()
                plan = next(plans, None)  # drawn while a GPU is still at work
                yield measure(state, test_split, (mean, std), steps, begun)
                begun = time.perf_counter()
        finally:
            with PROCESS_LOCK:  # a CUDA graph is not destroyed while another run captures its own
                del place, take_step


class Plan(NamedTuple):
    """What the steps up to the next evaluation need and the device does not know, one row per step."""

    order: Tensor  # int64 (steps, batch_size): which images
    offsets: Tensor  # int64 (steps, batch_size, 2): where they are cropped
    flips: Tensor  # bool (steps, batch_size)
    rates: Tensor  # float32 (steps,): the schedule's learning rate, ignoring warm-up


def make_plans(config: Config, count: int, first: int) -> Iterator[Plan]:
    """The plans of all intervals between evaluations from step `first` on, for a training set of `count` images."""
    schedule = config.schedule
    while first < schedule.steps:
        end = min((first // config.eval_every + 1) * config.eval_every, schedule.steps)
        rates = torch.tensor([schedule.lr_at(step) for step in range(first, end)])
        yield Plan(*draw_steps(count, config.batch_size, config.seed, first, end - first, config.sampling), rates)
        first = end


def prepare(state: State, split: Split, plan: Plan) -> tuple[Callable[[Plan], None], Callable[[], None]]:
    """Two functions: `place(plan)` copies a plan to the device, and each call of `take_step()` takes its next step.

    A step is everything: fetching and augmenting the batch, forward, backward, update, the sums for the metrics. It
    reads its place from `state.clock` and everything else from tensors that stay where they are, so that on a GPU it
    can be captured once and replayed. `plan`, the first one, gives the shapes; `state` is left as it was.
    """
    rows = min(state.config.eval_every, state.config.schedule.steps)
    held = Plan(*(part.new_zeros((rows, *part.shape[1:]), device=state.device) for part in plan))
    step = make_step(state.network, state.optimiser, state.path)
    batch = state.path.kernels(next_batch)
    constants = split, *statistics(state.config, split), state.config.padding

    def place(plan: Plan) -> None:
        first = state.step % rows  # not 0 if an interval was interrupted midway
        for rows_held, part in zip(held, plan, strict=True):
            rows_held[first : first + len(part)].copy_(part)

    def take_step() -> None:
        advance(state, step, *batch(held, state.clock, *constants))

    if not state.path.graph:
        return place, take_step
    place(plan)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    with PROCESS_LOCK:
        replay = capture(take_step)
    for name, tensor in state.tensors().items():
        tensor.detach().copy_(before[name])
    return place, replay


def next_batch(
    held: Plan, clock: Tensor, split: Split, mean: Tensor, std: Tensor | None, padding: Padding
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and rate of step number `clock`, from its row of the plan on the device."""
    row = (clock % len(held.rates)).unsqueeze(0)
    *draw, rate = (part.index_select(0, row)[0] for part in held)
    return *gather(split, mean, Draw(*draw), std, padding), rate


def divide(config: Config, train_split: Split, test_split: Split) -> tuple[Split, Split]:
    """What a run trains on and what it evaluates on: the splits, or two parts of the training split (Sec. 4.2)."""
    used = Split(*(part[: len(part) - config.left_out] for part in train_split))
    if not config.held_out:
        return used, test_split
    count = len(used.labels) - config.held_out
    return Split(*(part[:count] for part in used)), Split(*(part[count:] for part in used))


def statistics(config: Config, split: Split) -> tuple[Tensor, Tensor | None]:
    """What images are normalised with: the mean image of the training `split`; or its channels' means and stds."""
    return channel_statistics(split) if config.channel_statistics else (mean_image(split), None)


def advance(state: State, step: Step, images: Tensor, labels: Tensor, rate: Tensor) -> None:
    """One step at the schedule's `rate`, and its bookkeeping: sums, the gate, the watch for a loss that is not finite.

    Images (n, 3, h, w), labels (n,), the rate a scalar tensor; `step` is one of `make_step`'s. All of it on
    the device, and no number is read back, so that nothing waits and the whole can be captured.
    """
    schedule, lr = state.config.schedule, state.optimiser.param_groups[0]["lr"]
    lr.copy_(rate if schedule.warmup_lr is None else torch.where(state.gate, rate, schedule.warmup_lr))
    loss, errors = step(images, labels)
    add_up = state.path.kernels(tally)
    # a view with one dimension: PyTorch 2.11 takes a float64 scalar on a CPU for a constant and drops the sum
    add_up(state.clock, state.loss.view(1), state.errors, state.not_finite, loss, errors)
    if schedule.warmup_lr is not None:
        limit = schedule.gate_error / 100 * GATE_WINDOW * state.config.batch_size
        watch = state.path.kernels(watch_gate)
        watch(state.clock, state.gate, state.gate_errors, errors, limit)


def tally(clock: Tensor, losses: Tensor, wrong: Tensor, not_finite: Tensor, loss: Tensor, errors: Tensor) -> None:
    """Count a step: add its mean loss and its number of errors to the sums, and note it if the loss is not finite.

    Each has one element; the first four are changed in place.
    """
    losses += loss
    wrong += errors
    bad = ~loss.isfinite() & (not_finite < 0)
    not_finite.copy_(torch.where(bad, clock, not_finite))
    clock += 1


def watch_gate(clock: Tensor, gate: Tensor, gate_errors: Tensor, errors: Tensor, limit: float) -> None:
    """Open the gate once a whole window of steps has fewer than `limit` errors."""
    gate_errors += errors
    full = clock % GATE_WINDOW == 0
    gate |= full & (gate_errors < limit)
    gate_errors *= ~full


def measure(state: State, test_split: Split, mean_std: tuple, steps: int, begun: float) -> dict:
    """A row of metrics: means over the last `steps` steps, whose sums are then reset, and an evaluation.

    `begun` is what `perf_counter` gave when the steps began. Raises NotFinite.
    """
    lr = float(f"{float(state.optimiser.param_groups[0]['lr']):.6g}")  # as configured: float32 has no 0.1
    if (bad := int(state.not_finite)) >= 0:
        raise not_finite(bad, state.config.schedule.lr_at(bad, bool(state.gate)))
    train_loss = float(state.loss) / steps
    train_error = 100 * int(state.errors) / (steps * state.config.batch_size)
    trained = time.perf_counter()
    with PROCESS_LOCK:  # cuDNN tries its algorithms, and waits for the whole GPU: another run's capture would break
        test_loss, test_error = evaluate(state.network, test_split, *mean_std)
    if not math.isfinite(test_loss):  # the last step's update can break a net whose loss was still finite
        raise not_finite(state.step, lr)
    state.loss.zero_()
    state.errors.zero_()
    state.seconds += time.perf_counter() - begun
    return {
        "step": state.step,
        "lr": lr,
        "train_loss": train_loss,
        "train_error": train_error,
        "test_loss": test_loss,
        "test_error": test_error,
        "seconds": round(state.seconds, 3),
        "images_per_second": round(steps * state.config.batch_size / (trained - begun), 1),
    }


def not_finite(step: int, lr: float) -> NotFinite:
    where = f"at step {step} (learning rate {lr:g})"
    return NotFinite(f"the loss was no longer finite {where}: what came after the last evaluation is lost")


@torch.no_grad()
def evaluate(
    network: ResNet, split: Split, mean: Tensor, std: Tensor | None = None, batch_size: int = 500
) -> tuple[float, float]:
    """Mean loss in nats and error in percent on the single view of each image (Sec. 4.2).

    In float32 however the net is trained, so that anyone who loads its weights finds the same. The mode is restored.
    """
    mode = network.training
    network.eval()
    device = split.labels.device
    mean, std = mean.to(device), None if std is None else std.to(device)
    loss, errors = torch.zeros(2, dtype=torch.float64, device=device)
    for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
        images = normalise(images, mean, std).contiguous(memory_format=torch.channels_last)
        logits = network(images)
        loss += F.cross_entropy(logits, labels, reduction="sum")
        errors += (logits.argmax(1) != labels).sum()
    network.train(mode)
    count = len(split.labels)
    return float(loss) / count, 100 * int(errors) / count
