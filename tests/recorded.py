"""Folders of runs: made-up ones, and what is compared of recorded ones."""

import json
from pathlib import Path

from helpers.experiments import experiment

CPU = {"device": "cpu", "precision": "bfloat16", "compiled": False, "threads": 2, "why": "as configured"}
GPU = {**CPU, "device": "cuda", "compiled": True}


def write_run(
    directory, suite, name, seed=0, path=CPU, devices=("Some CPU",), rows=((2000, 600), (4000, 1200)),
    errors=(12.0, 10.0), steps=4000, finished=True,
):  # fmt: skip
    """The folder of a run with made-up rows (step, seconds), their test errors, and a response for each layer."""
    config = experiment(name, seed, steps).config
    folder = directory / suite / name / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"name": name, "seed": seed, "config": config.as_dict(), "path": path, "finished": finished}
    about |= {"data": {"name": "cifar10", "md5": {}}}
    about["stretches"] = [{"from_step": 0, "device": device} for device in devices]
    lines = [
        {"step": step, "lr": 0.1, "train_loss": 1.0, "train_error": error - 2, "test_loss": 1.0, "test_error": error}
        | {"seconds": seconds, "images_per_second": 1.0}
        for (step, seconds), error in zip(rows, errors, strict=True)
    ]
    layers = "".join(f"layer-{number},{1 + number / 100}\n" for number in range(config.spec.depth - 1))
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "responses.csv").write_text(f"layer,std\n{layers}")
    return folder


def without_clock(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}


def lines(folder: Path) -> list[dict]:
    """The terminated lines of `metrics.jsonl`."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def contents(folder: Path):
    """What a run recorded, but for the clock's part."""
    files = ("weights.safetensors", "gradients.csv", "responses.csv")
    return [without_clock(row) for row in lines(folder)], [(folder / name).read_bytes() for name in files]
