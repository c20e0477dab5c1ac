"""Training speed on a GPU: our step against the usual loop and against what the device allows, in one run.

    python benchmarks/gpu.py

It needs CIFAR-10 and a GPU that does nothing else, and writes `gpu.json` and, from it, `gpu.md`. Killed and called
again, it goes on with the measurement at which it was.

Each net's usual loop and each of our measures is a process of its own, so that memory is its own; where start-up is
reported nothing has been compiled yet. A step's time is the median over rounds of many steps between two
synchronisations.
"""

import dataclasses
import faulthandler
import json
import re
import shutil
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from common import BATCH, machine, measure_apart, usual

from helpers import ROOT
from helpers.analysis import count_cost
from helpers.data import Data, load_data
from helpers.experiments import EXPERIMENTS
from helpers.models import ResNet, Spec
from helpers.runs import own_stream, source_commit
from helpers.step import choose_path, examine
from helpers.train import make_plans, prepare, start

NETS = ["resnet-20", "resnet-56", "resnet-110", "plain-56"]
ROUNDS, STEPS, USUAL_STEPS, WARM_UP = 5, 200, 60, 10
WORKERS = (4, 8, 16)
FULL = "compiled, graph"
EXACT = {"precision": "float32"}  # without TF32, which the usual loop has
MEASURES = {  # but for the last, each line adds one thing to the line above it
    "float32 without TF32, data on the device, nothing waited for": EXACT | {"compiled": False, "graph": False},
    "bfloat16": {"precision": "bfloat16", "compiled": False, "graph": False},
    "compiled": {"precision": "bfloat16", "compiled": True, "graph": False},
    FULL: {"precision": "bfloat16", "compiled": True, "graph": True},
    "float32 without TF32, compiled, graph": EXACT | {"compiled": True, "graph": True},
}
STREAMS = (2, 4, 8)  # runs at once
CAP_GB = 16  # what resnet-1202 has to fit into
HANGS = 300  # seconds after which a measurement is given up, with what its threads were doing


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def memory(device: str) -> float:
    """The peak in GB that this process reserved on the device, what graphs keep included."""
    return round(torch.cuda.max_memory_reserved() / 1e9, 2) if device == "cuda" else 0.0


def time_steps(take_step, steps: int, rounds: int, device: str) -> float:
    """Milliseconds a step: the median over the rounds."""
    times = []
    for _ in range(rounds):
        wait(device)
        begun = time.perf_counter()
        for _ in range(steps):
            take_step()
        wait(device)
        times.append(1e3 * (time.perf_counter() - begun) / steps)
    return statistics.median(times)


def measure_usual(name: str, device: str, steps: int = USUAL_STEPS, rounds: int = 3, workers=WORKERS) -> dict:
    """The usual loop, cuDNN's benchmark and TF32 on, with each number of workers, then with the channels last."""
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    subjects = {f"usual, {count} workers": (count, torch.contiguous_format) for count in workers}
    subjects[f"usual, {workers[-1]} workers, channels last"] = workers[-1], torch.channels_last
    found = {}
    for subject, (count, layout) in subjects.items():
        loop = usual(ResNet(EXPERIMENTS[name].spec).to(memory_format=layout), count, device)
        time_steps(lambda loop=loop: next(loop), min(steps, WARM_UP), 1, device)
        found[subject] = time_steps(lambda loop=loop: next(loop), steps, rounds, device)
        loop.close()
    return {"step_ms": found, "memory_gb": memory(device)}


def make_run(name: str, device: str, data: Data, seed: int = 0, **changes):
    """A step of ours on a path with these changes, ready to be taken."""
    config = dataclasses.replace(EXPERIMENTS[name], seed=seed, eval_every=500)
    path = dataclasses.replace(choose_path(examine(device)), **changes)
    state = start(config, path=path)
    split = data.train.to(device)
    plan = next(make_plans(config, len(split.labels), 0))
    place, take_step = prepare(state, split, plan)
    place(plan)
    return take_step


def measure_ours(name: str, device: str, steps: int = STEPS, rounds: int = ROUNDS, **changes) -> dict:
    """Milliseconds a step, seconds from the data in main memory to the end of the first step, memory."""
    data = load_data("cifar10")
    wait(device)
    begun = time.perf_counter()
    take_step = make_run(name, device, data, **changes)
    take_step()
    wait(device)
    start_up = time.perf_counter() - begun
    time_steps(take_step, steps, 1, device)
    step_ms = time_steps(take_step, steps, rounds, device)
    return {"step_ms": step_ms, "start_up_s": round(start_up, 1), "memory_gb": memory(device)}


def measure_streams(name: str, device: str, steps: int = STEPS, rounds: int = ROUNDS, **changes) -> dict:
    """Milliseconds a step of each run, when so many are trained at once, over their number."""
    data, found = load_data("cifar10"), {}

    def go(take_step) -> None:
        for _ in range(steps):
            take_step()

    # the same threads throughout: cuDNN looks for its algorithms in each thread anew
    with ThreadPoolExecutor(max(STREAMS), initializer=own_stream) as pool:

        def at_once(function, items) -> list:
            met = threading.Barrier(len(items))  # else a quick thread might do the work of two
            return list(pool.map(lambda item: (met.wait(), function(item))[1], items))

        ready = at_once(lambda seed: make_run(name, device, data, seed, **changes), range(max(STREAMS)))
        for count in STREAMS:

            def together(count=count) -> None:
                at_once(go, ready[:count])

            time_steps(together, 1, 1, device)  # no wait for the device before: another run might be captured
            found[str(count)] = time_steps(together, 1, rounds, device) / steps / count
    return {"step_ms": found, "memory_gb": memory(device)}


def measure_1202(device: str, steps: int = 10, rounds: int = 3) -> dict:
    """resnet-1202 at a batch of 128, with no more than `CAP_GB` of the device to be had."""
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(CAP_GB * 1e9 / total)
    return measure_ours("resnet-1202", device, steps, rounds)


def measure_ceilings(device: str) -> dict:
    """Bytes a second, read and written, of a large copy; operations a second of a large bfloat16 product."""
    large = torch.randn(2**28 if device == "cuda" else 2**22, device=device)
    target, count = torch.empty_like(large), 200 if device == "cuda" else 20
    size = 8192 if device == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    time_steps(lambda: a @ b, count, 1, device)  # a device that was idle begins at a low clock
    copy_ms = time_steps(lambda: target.copy_(large), count, ROUNDS, device)
    product_ms = time_steps(lambda: a @ b, count, ROUNDS, device)
    moved = 2 * large.numel() * large.element_size()
    return {"bytes_per_s": moved / copy_ms * 1e3, "operations_per_s": 2 * size**3 / product_ms * 1e3}


def count_bytes(spec: Spec, batch: int = BATCH, width: int = 2) -> int:
    """Bytes of activations that our kernels must move in a step, each `width` bytes wide, if nothing stays in a cache.

    A layer moves its map 16 times: its convolution reads one and writes one, the statistics read it, normalising reads
    and writes it; backward, the sums read three maps, the gradient reads three and writes one, the convolution's two
    gradients read three and write one. A block with a shortcut moves five maps more: the addition reads one, its
    gradient writes one, and the sum of the block's two gradients reads two and writes one.
    """
    layers = [module for module in ResNet(spec).modules() if isinstance(module, torch.nn.BatchNorm2d)]
    sizes = {channels: 32 // 2**stage for stage, channels in enumerate(spec.widths)}
    numel = sum(norm.num_features * sizes[norm.num_features] ** 2 for norm in layers)
    joined = 0
    if spec.shortcut != "plain":
        joined = sum(n * w * sizes[w] ** 2 for n, w in zip(spec.blocks, spec.widths, strict=True))
    return batch * width * (16 * numel + 5 * joined)


def floors(name: str, ceilings: dict) -> dict:
    """The least milliseconds of a step, by bytes and by operations (forward once, backward twice)."""
    spec = EXPERIMENTS[name].spec
    operations = 3 * 2 * BATCH * count_cost(spec)["multiply_adds"]
    return {
        "bytes_ms": 1e3 * count_bytes(spec) / ceilings["bytes_per_s"],
        "operations_ms": 1e3 * operations / ceilings["operations_per_s"],
    }


def measure_all(device: str, folder: Path) -> dict:
    """Everything, a process a measurement. Each is kept in `folder`: a call that broke off is gone on with.

    One that fails does not stop the others; what it complained of is printed, and its name raised last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failed = []

    def apart(what: str, name: str = "", measure: str = "") -> dict:
        kept = folder / (re.sub(r"\W+", "-", f"{what} {name} {measure}".strip()) + ".json")
        if not kept.exists():
            options = ["--child", what, "--net", name, "--measure", measure, "--device", device]
            from_nothing = what == "1202" or (what, measure) == ("ours", FULL)  # these report their start-up
            try:
                found = measure_apart(__file__, *options, cache=None if from_nothing else str(folder / "compiled"))
            except SystemExit as error:
                print(error, flush=True)
                failed.append(kept.stem)
                return {}
            kept.write_text(json.dumps(found))
        print(kept.stem, kept.read_text(), flush=True)
        return json.loads(kept.read_text())

    results = {"machine": machine() | {"device": device_words(device)}, "ceilings": apart("ceilings")}
    results["ours"] = {name: {FULL: apart("ours", name, FULL)} for name in NETS}
    for name in ("resnet-20", "resnet-110"):
        for measure in MEASURES:
            if measure != FULL:
                results["ours"][name][measure] = apart("ours", name, measure)
    results["streams"] = {name: apart("streams", name, FULL) for name in ("resnet-20", "resnet-110")}
    results["1202"] = apart("1202")
    results["usual"] = {name: apart("usual", name) for name in NETS}
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}; the same command tries these again")
    return results


def device_words(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def child(what: str, name: str, measure: str, device: str) -> dict:
    """One measurement in this process."""
    changes = {} if device == "cpu" else MEASURES.get(measure, {})
    small = {"steps": 2, "rounds": 1} if device == "cpu" else {}  # to see that everything works; no figures
    if what == "usual":
        return measure_usual(name, device, **small, **({"workers": (0,)} if small else {}))
    if what == "ours":
        few = {} if changes.get("graph", True) else {"steps": USUAL_STEPS, "rounds": 3}  # as slow as the usual loop
        return measure_ours(name, device, **(small or few), **changes)
    if what == "streams":
        return measure_streams(name, device, **small, **changes)
    return measure_1202(device, **small) if what == "1202" else measure_ceilings(device)


def rate(step_ms: float) -> float:
    return 1e3 * BATCH / step_ms


def compare(results: dict) -> pd.DataFrame:
    """A row a net: ours beside the fastest usual loop, and beside the floors."""
    rows = []
    for name in NETS:
        ours, usual = results["ours"][name][FULL], results["usual"][name]["step_ms"]
        best, least = min(usual, key=usual.get), floors(name, results["ceilings"])
        rows.append(
            {
                "net": name,
                "usual (images/s)": f"{rate(usual[best]):,.0f} ({best.removeprefix('usual, ')})",
                "ours (images/s)": f"{rate(ours['step_ms']):,.0f}",
                "ratio": f"{usual[best] / ours['step_ms']:.1f}",
                "step (ms)": f"{ours['step_ms']:.2f}",
                "floor by bytes (ms)": f"{least['bytes_ms']:.2f}",
                "by operations (ms)": f"{least['operations_ms']:.2f}",
                "share reached": f"{100 * max(least.values()) / ours['step_ms']:.0f} %",
                "start-up (s)": f"{ours['start_up_s']:.0f}",
                "memory (GB)": f"{ours['memory_gb']:.1f}",
            }
        )
    return pd.DataFrame(rows)


def bought(results: dict, name: str) -> pd.DataFrame:
    """What each measure made of the usual loop's step."""
    steps = dict(results["usual"][name]["step_ms"])
    steps |= {measure: results["ours"][name][measure]["step_ms"] for measure in MEASURES}
    steps |= {f"{FULL}, {n} runs at once": step for n, step in results["streams"][name]["step_ms"].items()}
    best = min(step for label, step in steps.items() if label.startswith("usual"))
    rows = [(label, f"{step:.2f}", f"{rate(step):,.0f}", f"{best / step:.1f}") for label, step in steps.items()]
    return pd.DataFrame(rows, columns=["", "step (ms)", "images/s", "ratio"])


def markdown(table: pd.DataFrame) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(results: dict) -> str:
    """The page, from the recorded figures alone."""
    about, ceilings, deepest = results["machine"], results["ceilings"], results["1202"]
    parts = [
        PAGE_HEAD.format(
            bandwidth=ceilings["bytes_per_s"] / 1e12,
            product=ceilings["operations_per_s"] / 1e12,
            rounds=ROUNDS,
            **about,
        ),
        markdown(compare(results)),
        f"resnet-1202, held to {CAP_GB} GB: {deepest['step_ms']:.1f} ms a step, {deepest['memory_gb']:.1f} GB, "
        f"start-up {deepest['start_up_s']:.0f} s.",
    ]
    for name in results["streams"]:
        parts += [f"## What each measure bought: {name}", markdown(bought(results, name))]
    return "\n\n".join(parts) + "\n"


PAGE_HEAD = """# Training speed on a GPU

Written by `benchmarks/gpu.py` from `benchmarks/gpu.json`. Batches of 128 real CIFAR-10 images on one {device}, beside
{cores} CPU cores ({cpu}); {system}; Python {python}, PyTorch {torch}. Medians of {rounds} rounds, or of three
where every operation is launched by itself.

*Usual* is our network in eager float32, TF32 and cuDNN's benchmark on, torchvision's transforms on PIL images through
a `DataLoader`, `.item()` every step; the fastest of several numbers of workers counts. *Ours* is what `helpers.train`
does between two evaluations. The floor by bytes is what our kernels must move over the bandwidth of a large copy
({bandwidth:.2f} TB/s), that by operations what the convolutions must do over the rate of a large bfloat16 product
({product:.0f} Tflop/s); small maps that stay in the cache can beat the first. Start-up is from the data in main memory
to the end of the first step, with nothing compiled before. Of several runs at once, a step's time is the whole's over
their number."""


def main(
    out: Path = ROOT / "benchmarks" / "gpu.json",
    device: Annotated[str, typer.Option(help="cpu: only to see that everything works")] = "cuda",
    child_: Annotated[str, typer.Option("--child", hidden=True)] = "",
    net: Annotated[str, typer.Option(hidden=True)] = "",
    measure: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure everything; write OUT, and the page beside it."""
    if child_:
        faulthandler.dump_traceback_later(HANGS, exit=True)
        print(json.dumps(child(child_, net, measure, device)))
        return
    commit = source_commit() or "+"
    folder = ROOT / "build" / "bench-gpu" / f"{device}-{commit}"
    if commit.endswith("+"):  # the code may have changed since what lies there was measured
        shutil.rmtree(folder, ignore_errors=True)
    results = measure_all(device, folder)
    out.write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".md").write_text(report(results))
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
