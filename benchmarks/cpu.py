"""Training speed on a CPU: our step against the usual loop, side by side in one run.

    python benchmarks/cpu.py

It takes about half an hour, needs CIFAR-10 and a machine that does nothing else, and writes `cpu.json` and, from it,
`cpu.md`.

Each measurement is a process of its own, so that none inherits another's memory, threads or compiled kernels. The
subjects take turns in every round, so that a machine that slows down slows all of them; medians over the rounds count.
"""

import itertools
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from helpers import ROOT

BATCH = 128
STEPS = {20: 24, 56: 10}  # timed, by the network's depth
WARM_UP = 4  # steps before the clock starts: kernels are chosen, memory is allocated, workers have begun
USUAL = [f"usual, {workers} workers" for workers in (0, 1, 2, 4)]
OURS = {
    "bfloat16, compiled": {"precision": "bfloat16", "compiled": True},
    "bfloat16": {"precision": "bfloat16", "compiled": False},
    "float32, compiled": {"precision": "float32", "compiled": True},
    "float32": {"precision": "float32", "compiled": False},
}
ALONE = {
    "convolutions alone, bfloat16": torch.bfloat16,
    "convolutions alone, float32": torch.float32,
}
SUBJECTS = [*USUAL, *OURS, *ALONE]


def usual(depth: int, workers: int):
    """The loop most reproductions have: PIL images, torchvision's transforms, float32, `.item()` every step."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    from helpers.models import ResNet, cifar_spec

    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    dataset = CIFAR10(ROOT / "data", transform=transforms.Compose(steps))
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True)
    network = ResNet(cifar_spec(depth)).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    running = 0.0
    for images, labels in loader:
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running += loss.item()
        yield


def ours(depth: int, precision: str, compiled: bool):
    """What `train` does between two evaluations, and one evaluation before, for its memory."""
    from helpers.data import load_cifar10, mean_image
    from helpers.experiments import cifar
    from helpers.train import evaluate, make_plans, prepare, start

    train, test = load_cifar10()
    state = start(cifar(depth, precision=precision, compiled=compiled), "cpu")
    evaluate(state.network, test, mean_image(train))
    yield
    plan = next(make_plans(state.config, len(train.labels), 0))
    place, take_step = prepare(state, train, plan)
    place(plan)
    for _ in plan.rates:
        take_step()
        yield


def convolutions(depth: int, dtype: torch.dtype):
    """Every convolution of the network, forward and backward, and nothing else: a step cannot take less."""
    from helpers.models import ResNet, cifar_spec
    from helpers.step import keep_freed_memory

    keep_freed_memory()
    network, calls = ResNet(cifar_spec(depth)), []

    def note(layer, inputs, output):
        x, w, g = (t.detach().to(dtype, memory_format=torch.channels_last) for t in (*inputs, layer.weight, output))
        x.requires_grad_(x.shape[1] > 3)  # nobody needs the images' gradient
        calls.append((x, w.requires_grad_(), torch.randn_like(g), layer.stride, layer.padding))

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(note)
    network(torch.randn(BATCH, 3, 32, 32))
    yield
    while True:
        for x, w, g, stride, padding in calls:
            torch.nn.functional.conv2d(x, w, None, stride, padding).backward(
                g, inputs=[t for t in (x, w) if t.requires_grad]
            )
            x.grad = w.grad = None
        yield


def measure(subject: str, depth: int) -> dict:
    """One measurement, in this process: training images per second, seconds to the first step, peak memory in GB."""
    if subject in OURS:
        loop = ours(depth, **OURS[subject])
        next(loop)
    elif subject in ALONE:
        loop = convolutions(depth, ALONE[subject])
        next(loop)
    else:
        loop = usual(depth, int(subject.split()[1]))
    begun = time.perf_counter()
    next(loop)
    first = time.perf_counter() - begun
    for _ in range(WARM_UP - 1):
        next(loop)
    begun = time.perf_counter()
    for _ in range(STEPS[depth]):
        next(loop)
    seconds = time.perf_counter() - begun
    return {
        "images_per_second": round(STEPS[depth] * BATCH / seconds, 1),
        "first_step": round(first, 2),
        "memory": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def measure_apart(subject: str, depth: int) -> dict:
    """`measure` in a new process, in which nothing has been compiled yet."""
    with tempfile.TemporaryDirectory() as cache:
        printed = subprocess.run(
            [sys.executable, __file__, "--child", subject, "--depth", str(depth)],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    return json.loads(printed.stdout)


def machine() -> dict:
    """What the figures were measured on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "instructions": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def summarise(rows: list[dict]) -> pd.DataFrame:
    """Medians over the rounds, by depth and subject, and the ratio of rates to the fastest usual loop's."""
    table = pd.DataFrame(rows).groupby(["depth", "subject"])[["images_per_second", "first_step", "memory"]].median()
    best = table.loc[(slice(None), USUAL), "images_per_second"].groupby("depth").max()
    return table.assign(ratio=table.images_per_second / best)


def break_even(table: pd.DataFrame, depth: int, precision: str) -> float:
    """Steps after which compiling has saved what it cost; infinite if it saves nothing."""
    compiled, plain = table.loc[(depth, f"{precision}, compiled")], table.loc[(depth, precision)]
    saved = BATCH / plain.images_per_second - BATCH / compiled.images_per_second
    return (compiled.first_step - plain.first_step) / saved if saved > 0 else math.inf


def describe(table: pd.DataFrame, depth: int, precision: str) -> str:
    """What bounds a step, and whether compiling pays, in a sentence each."""
    ours, alone = table.loc[(depth, precision)], table.loc[(depth, f"convolutions alone, {precision}")]
    steps = break_even(table, depth, precision)
    repaid = f"has repaid itself after {steps:,.0f} steps" if steps < math.inf else "never repays itself"
    return (
        f"- {precision}: a step takes {1e3 * BATCH / ours.images_per_second:.0f} ms, its convolutions alone "
        f"{1e3 * BATCH / alone.images_per_second:.0f} ms: were the rest free, the ratio would be {alone.ratio:.2f}. "
        f"Compiling {repaid}."
    )


def report(results: dict) -> str:
    """The page, from the recorded figures alone."""
    table, about = summarise(results["rows"]), results["machine"]
    rounds = 1 + max(row["round"] for row in results["rows"])
    lines = [PAGE_HEAD.format(rounds=rounds, **about | {"instructions": ", ".join(about["instructions"])})]
    for depth in STEPS:
        lines += [f"## ResNet-{depth}", "", TABLE_HEAD]
        for subject in SUBJECTS:
            rate, first, memory, ratio = table.loc[(depth, subject)]
            lines.append(f"| {subject} | {rate:,.0f} | {ratio:.2f} | {first:.1f} | {memory:.2f} |")
        lines += ["", *(describe(table, depth, precision) for precision in ("bfloat16", "float32"))]
        lines.append("")
    return "\n".join(lines)


PAGE_HEAD = """# Training speed on a CPU

Written by `benchmarks/cpu.py` from `benchmarks/cpu.json`. Batches of 128 real CIFAR-10 images; medians of {rounds}
rounds, in each of which every subject had its turn in a process of its own. Machine: {cpu}, {cores} cores
({instructions}), {memory_gb} GB; {system}; Python {python}, PyTorch {torch}.

- *usual*: our network, eager float32, torchvision's transforms on PIL images through a `DataLoader`, `.item()` every
  step;
- *bfloat16*, *float32*: what `helpers.train` does between two evaluations, with fused kernels (*compiled*) or without;
- *convolutions alone*: every convolution of the network forward and backward on random numbers in the layout we use,
  and nothing else: what a step spends in the vendor's kernels.

The ratio is to the fastest usual loop; *first step* is its seconds, with compiling from nothing where there is any;
memory is the peak of the main process in GB, for ours with the whole data set and an evaluation of the test set.
"""
TABLE_HEAD = "| subject | images / s | ratio | first step | memory |\n|---|---|---|---|---|"


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    out: Path = ROOT / "benchmarks" / "cpu.json",
    child: Annotated[str, typer.Option(hidden=True)] = "",
    depth: Annotated[int, typer.Option(hidden=True)] = 20,
) -> None:
    """Measure every subject in turn, `rounds` times; write OUT, and the page beside it."""
    if child:
        print(json.dumps(measure(child, depth)))
        return
    rows = []
    for turn in itertools.product(range(rounds), STEPS, SUBJECTS):
        rows.append(dict(zip(("round", "depth", "subject"), turn, strict=True)) | measure_apart(turn[2], turn[1]))
        print(rows[-1], flush=True)
    results = {"machine": machine(), "rows": rows}
    out.write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".md").write_text(report(results))


if __name__ == "__main__":
    typer.run(main)
