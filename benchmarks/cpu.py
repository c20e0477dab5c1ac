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
import resource
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from common import BATCH, machine, measure_apart, usual

from helpers import ROOT

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
    from helpers.models import ResNet, cifar_spec

    if subject in OURS:
        loop = ours(depth, **OURS[subject])
        next(loop)
    elif subject in ALONE:
        loop = convolutions(depth, ALONE[subject])
        next(loop)
    else:
        loop = usual(ResNet(cifar_spec(depth)), int(subject.split()[1]))
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
        found = measure_apart(__file__, "--child", turn[2], "--depth", str(turn[1]))
        rows.append(dict(zip(("round", "depth", "subject"), turn, strict=True)) | found)
        print(rows[-1], flush=True)
    results = {"machine": machine(), "rows": rows}
    out.write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".md").write_text(report(results))


if __name__ == "__main__":
    typer.run(main)
