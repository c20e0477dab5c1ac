"""What only a GPU can show. Where there is one this is what to run first; elsewhere it is skipped.

But for the last two tests, cuDNN chooses by rule instead of by timing, and nothing but what always sums in the same
order: runs that should agree then agree bit for bit. A difference in the last digits would be another algorithm, a
larger one memory that was not what a graph took it for.
"""

import dataclasses
import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers.analysis import gradient_norms
from helpers.checkpoint import load, save
from helpers.config import Config, Schedule
from helpers.data import Data, mean_image, normalise, synthetic
from helpers.experiments import EXPERIMENTS, Run
from helpers.models import cifar_spec
from helpers.runs import own_stream, progress, record_suite
from helpers.step import PROCESS_LOCK, take_path
from helpers.train import make_plans, prepare, start, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

CONFIG = Config(cifar_spec(8), Schedule(30, (15, 25)), batch_size=64, eval_every=10)
GATED = {
    "schedule": Schedule(120, (110, 115), lr=0.05, warmup_lr=0.01),
    "eval_every": 50,
    "decay_all": False,
    "padding": "reflect",
    "channel_statistics": True,
}


@pytest.fixture(scope="module")
def data() -> Data:
    return Data("drawn", *synthetic(1000, 200), {"train": "0", "test": "1"})


@pytest.fixture
def by_rule(monkeypatch):
    def follow(path):
        with PROCESS_LOCK:  # the other runs of this process, which go on meanwhile, never see cuDNN choose by time
            take_path(path)
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True

    monkeypatch.setattr("helpers.train.take_path", follow)
    yield
    torch.backends.cudnn.deterministic = False


def history(state, data):
    """The rows of a run without its times. After each, memory that nobody holds is written over."""
    rows = []
    for row in train(state, data.train, data.test, progress=False):
        rows.append({key: value for key, value in row.items() if key not in ("seconds", "images_per_second")})
        _ = [torch.full((size,), torch.nan, device=state.device) for size in (1, 64, 3072, 10**5, 10**6) * 10]
    return rows


def ready(config, data, **changes):
    """A state on its path with these changes, and a step of it that can be taken."""
    state = start(config, path=dataclasses.replace(start(config).path, **changes))
    plan = next(make_plans(config, len(data.train.labels), 0))
    place, take_step = prepare(state, data.train.to(state.device), plan)
    place(plan)
    return state, take_step


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "float32", "compiled": False}, GATED],
    ids=["fast path", "float32, nothing compiled", "gate, two groups, another recipe"],
)
def test_a_replayed_step_is_the_step(by_rule, data, changes):
    config = dataclasses.replace(CONFIG, **changes)
    replayed = start(config)
    assert replayed.path.graph
    stepwise = start(config, path=dataclasses.replace(replayed.path, graph=False))
    assert history(replayed, data) == history(stepwise, data)
    for ours, theirs in zip(replayed.tensors().values(), stepwise.tensors().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_fast_path_agrees_with_float32(by_rule, data):
    """The losses of eight single steps, to 3 %: bfloat16 has eight bits."""
    schedule = Schedule(8, (8, 8), lr=0.01)
    fast = dataclasses.replace(CONFIG, schedule=schedule, eval_every=1)
    exact = dataclasses.replace(fast, precision="float32", compiled=False)
    plain = start(exact, path=dataclasses.replace(start(exact).path, graph=False))
    assert start(fast).path.precision == "bfloat16" and start(fast).path.compiled, "this GPU has no fast path to check"
    losses, expected = ([row["train_loss"] for row in history(state, data)] for state in (start(fast), plain))
    assert losses == pytest.approx(expected, rel=0.03)


def test_runs_at_once_are_what_each_is_alone(by_rule, data):
    configs = [dataclasses.replace(CONFIG, seed=seed) for seed in range(3)]
    configs.append(dataclasses.replace(CONFIG, spec=cifar_spec(14, "plain")))
    alone = [history(start(config), data) for config in configs]
    with ThreadPoolExecutor(len(configs), initializer=own_stream) as pool:
        assert list(pool.map(lambda config: history(start(config), data), configs)) == alone


def test_a_run_goes_on_from_its_checkpoint(by_rule, data, tmp_path):
    whole, state = history(start(CONFIG), data), start(CONFIG)
    for _ in itertools.islice(train(state, data.train, data.test, progress=False), 1):
        save(state, tmp_path / "c")
    resumed = load(tmp_path / "c")
    assert (resumed.step, resumed.path) == (10, state.path)
    assert history(resumed, data) == whole[1:]


@pytest.mark.parametrize("graph", [True, False])
def test_nothing_is_waited_for_between_evaluations(by_rule, data, graph):
    state, take_step = ready(dataclasses.replace(CONFIG, **GATED), data, graph=graph)
    for _ in range(3):  # the first compiles
        take_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            take_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.step == 13


def test_a_suite_of_runs_at_once_comes_to_its_end(data, tmp_path):
    """More runs than threads, with everything that is recorded: some evaluate while others are captured."""
    specs = [cifar_spec(8, shortcut) for shortcut in ("plain", "A", "B", "C")]
    runs = [Run(f"run-{n}", dataclasses.replace(CONFIG, spec=spec)) for n, spec in enumerate(specs * 3)]
    record_suite(runs, tmp_path, data, jobs=4)
    assert {progress(run, tmp_path) for run in runs} == {"done"}


def test_resnet_1202_takes_steps_within_16_gb(data):
    """The paper's batch of 128, as its graph, with the steps that lead to the capture; and its gradients beside it."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 16e9 / torch.cuda.get_device_properties(0).total_memory))
    try:
        state, take_step = ready(EXPERIMENTS["resnet-1202"], data)
        take_step()
        take_step()
        assert state.step == 2 and math.isfinite(float(state.loss))
        probe = normalise(data.train.images[:128], mean_image(data.train)).to(state.device)
        assert len(gradient_norms(state.network, probe, data.train.labels[:128].to(state.device))) == 1202
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
