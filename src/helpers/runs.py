"""Runs on disk: recorded so that a kill at any moment loses at most an interval, and read back as tables.

A run's folder is `<suite>/<name>/seed-<k>/`; README.md in `data/runs/` says what its files hold.
"""

import dataclasses
import functools
import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import filelock
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from helpers import ROOT
from helpers.analysis import gradient_norms, layer_responses
from helpers.data import Data, load_data, mean_image, normalise
from helpers.experiments import Run
from helpers.models import ResNet
from helpers.train import CheckpointError, Config, NotFinite, State, divide, load, save, start, train

CHECKPOINT = "checkpoint.safetensors"
GRADIENTS_AT = 4  # gradients are recorded at the start and at every quarter of the schedule


class RunError(RuntimeError):
    """A run folder that cannot be recorded into or read."""


def record(
    name: str,
    config: Config,
    directory: str | Path,
    time_limit: float | None = None,
    data: Data | None = None,
    device: str | None = None,
    half_weights: bool = False,
) -> Path:
    """Train to the end, by default on CIFAR-10, recording; return the run's folder `directory/name/seed-<k>`.

    Kill it at any moment and call it again: it goes on from the last evaluation and ends as the uninterrupted run
    would. A finished run is left as it is. With a `time_limit` in seconds it returns early, behind a checkpoint,
    once another interval would not fit. Raises RunError if the folder holds another run or another process is
    recording into it; NotFinite, CheckpointError and PathError come from below.
    """
    folder = Path(directory) / name / f"seed-{config.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "run.lock", timeout=0):
            return record_locked(folder, name, config, data or load_data("cifar10"), time_limit, device, half_weights)
    except filelock.Timeout:
        raise RunError(f"another process is recording into {folder}") from None


def record_locked(folder: Path, name, config: Config, data: Data, time_limit, device, half_weights) -> Path:
    about = read_about(folder)
    if about:
        refuse_another(folder, about, config, data)
        if about["finished"]:
            return folder
    begun = time.monotonic()
    state = resume(folder, config, device)
    if about is None or state.step == 0:
        about = describe(name, config, data, state)
    about["stretches"].append({"from_step": state.step, **surroundings(state)})
    write(folder / "run.json", json.dumps(about, indent=1))
    drop_rows_past(folder, state.step)
    train_split, test_split = divide(config, data.train, data.test)
    mean = mean_image(train_split)
    probe = normalise(train_split.images[:128], mean), train_split.labels[:128]
    if state.step == 0:
        record_gradients(folder, state, *probe)
    before = state.seconds
    for row in train(state, data.train, data.test):
        append(folder / "metrics.jsonl", row)
        if is_quarter(config, state.step):
            record_gradients(folder, state, *probe)
        save(state, folder / CHECKPOINT)
        tqdm.write(report(name, config, row))
        passed, interval, before = time.monotonic() - begun, row["seconds"] - before, row["seconds"]
        if time_limit is not None and passed + interval > time_limit and state.step < config.schedule.steps:
            return folder
    finish(folder, about, state, normalise(test_split.images, mean), half_weights)
    return folder


def report(name: str, config: Config, row: dict) -> str:
    """One line on one evaluation."""
    return (
        f"{name} seed {config.seed}  step {row['step']:,}/{config.schedule.steps:,}  lr {row['lr']:g}  "
        f"train {row['train_loss']:.3f} {row['train_error']:.2f} %  test {row['test_loss']:.3f} "
        f"{row['test_error']:.2f} %  {row['images_per_second']:,.0f} images/s"
    )


def resume(folder: Path, config: Config, device: str | None) -> State:
    """The state of the folder's checkpoint, or a new one."""
    checkpoint = folder / CHECKPOINT
    if not checkpoint.exists():
        if rows := read_rows(folder / "metrics.jsonl"):
            tqdm.write(f"{folder} has no checkpoint: its {len(rows)} recorded rows are computed again")
        return start(config, device)
    state = load(checkpoint)
    if state.config != config:
        raise CheckpointError(f"{checkpoint} is of another configuration than {folder}: delete it to start over")
    if device is not None and device != state.device:
        raise RunError(f"{folder} was begun on {state.device}: it cannot go on on {device}")
    return state


def refuse_another(folder: Path, about: dict, config: Config, data: Data) -> None:
    """Raise RunError if the folder was begun with another configuration or other data."""
    wanted = {**flat(config.as_dict()), "data": data.md5}
    found = {**flat(about["config"]), "data": about["data"]["md5"]}
    if differing := [key for key in wanted | found if wanted.get(key) != found.get(key)]:
        pairs = ", ".join(f"{key} {found.get(key)} instead of {wanted.get(key)}" for key in differing if key != "data")
        raise RunError(f"{folder} holds another run ({pairs or 'other data'}): choose another folder or remove it")


def flat(values: dict, prefix: str = "") -> dict:
    """A nested dictionary as one level, names joined by dots."""
    result = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def describe(name: str, config: Config, data: Data, state: State) -> dict:
    """The contents of `run.json` at the start."""
    return {
        "name": name,
        "seed": config.seed,
        "config": config.as_dict(),
        "data": {"name": data.name, "md5": data.md5},
        "path": dataclasses.asdict(state.path),
        "stretches": [],
        "finished": False,
    }


def surroundings(state: State) -> dict:
    """Where and with what one stretch of a run is computed."""
    return {
        "source": source_commit(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        "device": device_name(state.device),
    }


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    model = names[0].split(":")[1].strip() if names else platform.processor()
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


@functools.cache  # the code that runs is that of the process's start, whatever is committed meanwhile
def source_commit() -> str | None:
    """The commit of this package's checkout, with "+" if code differs from it; $SOURCE_COMMIT where there is no git."""
    if commit := os.environ.get("SOURCE_COMMIT"):
        return commit
    try:
        changed = git("status", "--porcelain", "--", "src", "pyproject.toml", "requirements.txt")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def is_quarter(config: Config, step: int) -> bool:
    """Whether the interval that ends at `step` crossed a quarter of the schedule."""
    begun = (step - 1) // config.eval_every * config.eval_every
    return step * GRADIENTS_AT // config.schedule.steps > begun * GRADIENTS_AT // config.schedule.steps


def record_gradients(folder: Path, state: State, images: torch.Tensor, labels: torch.Tensor) -> None:
    norms = gradient_norms(state.network, images.to(state.device), labels.to(state.device))
    table = norms.reset_index().assign(step=state.step)[["step", "layer", "norm"]]
    old = folder / "gradients.csv"
    if state.step > 0 and old.exists():
        earlier = pd.read_csv(old)
        table = pd.concat([earlier[earlier.step < state.step], table])
    write(old, table.to_csv(index=False))


def finish(folder: Path, about: dict, state: State, images: torch.Tensor, half_weights: bool) -> None:
    """Write what is known only at the end; `run.json` last, so that a finished run has everything."""
    write(folder / "responses.csv", layer_responses(state.network, images.to(state.device)).to_csv())
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.network.state_dict().items()}
    if half_weights:
        weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    part = folder / "weights.safetensors.part"
    save_file(weights, part)
    part.replace(folder / "weights.safetensors")
    rows = read_rows(folder / "metrics.jsonl")
    about["seconds"] = state.seconds
    about["images_per_second"] = float(pd.Series([row["images_per_second"] for row in rows]).median())
    about["finished"] = True
    write(folder / "run.json", json.dumps(about, indent=1))
    (folder / CHECKPOINT).unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write beside `path`, flush to the disk, then move into place."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def append(path: Path, row: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`, without a last line that a kill left unterminated."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error})") from None


def drop_rows_past(folder: Path, step: int) -> None:
    kept = [row for row in read_rows(folder / "metrics.jsonl") if row["step"] <= step]
    write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))


def read_about(folder: Path) -> dict | None:
    """The contents of a folder's `run.json`, or None if it has none."""
    path = folder / "run.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error})") from None


def load_network(folder: str | Path) -> ResNet:
    """The trained network of a recorded run, in evaluation mode, on the CPU. Raises RunError if it was not kept."""
    about, weights = read_about(Path(folder)), Path(folder) / "weights.safetensors"
    if about is None or not weights.exists():
        raise RunError(f"{folder} holds no trained network: its run.json or weights.safetensors is missing")
    network = ResNet(Config.from_dict(about["config"]).spec)
    network.load_state_dict(load_file(weights))
    return network.eval()


def run_folders(directory: str | Path = ROOT / "data" / "runs", suite: str = "*") -> list[Path]:
    """The folders of a suite's runs, or of all suites'."""
    return sorted(path.parent for path in Path(directory).glob(f"{suite}/*/seed-*/run.json"))


def load_runs(directory: str | Path = ROOT / "data" / "runs", suite: str = "*") -> pd.DataFrame:
    """All rows of metrics as one tidy table, a row per run and evaluation; empty if nothing is recorded.

    Columns: suite, network, depth, kind ("plain" or "residual"), shortcut, seed, data, precision, steps (of the
    schedule), finished, then those of the metrics: step, lr, losses in nats, errors in percent, seconds.
    """
    tables = []
    for folder in run_folders(directory, suite):
        about = read_about(folder)
        tables.append(tabulate(folder.parent.parent.name, about, read_rows(folder / "metrics.jsonl")))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def tabulate(suite: str, about: dict, rows: list[dict]) -> pd.DataFrame:
    """Rows of metrics with what identifies their run, from the contents of its `run.json`, in every row."""
    spec = Config.from_dict(about["config"]).spec
    return pd.DataFrame(rows).assign(
        suite=suite,
        network=about["name"],
        depth=spec.depth,
        kind="plain" if spec.shortcut == "plain" else "residual",
        shortcut=spec.shortcut,
        seed=about["seed"],
        data=about["data"]["name"],
        precision=about["path"]["precision"],
        steps=about["config"]["schedule"]["steps"],
        finished=about["finished"],
    )


def load_series(file: str, directory: str | Path = ROOT / "data" / "runs", suite: str = "*") -> pd.DataFrame:
    """`responses.csv` or `gradients.csv` of every run that has it, with columns suite, network, seed in front."""
    tables = []
    for folder in run_folders(directory, suite):
        if (folder / file).exists():
            table = pd.read_csv(folder / file)
            suite_name, name, seed = folder.parts[-3:]
            for position, (column, value) in enumerate(
                {"suite": suite_name, "network": name, "seed": int(seed.removeprefix("seed-"))}.items()
            ):
                table.insert(position, column, value)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def progress(run: Run, directory: str | Path) -> str:
    """How far a run has come, in words."""
    folder = Path(directory) / run.name / f"seed-{run.config.seed}"
    about = read_about(folder)
    if about is None:
        return "missing"
    if about["config"] != run.config.as_dict():
        return f"not done: another configuration is recorded in {folder}"
    if about["finished"]:
        return "done"
    rows = read_rows(folder / "metrics.jsonl")
    return f"begun, {rows[-1]['step'] if rows else 0:,} of {run.config.schedule.steps:,} steps"


def record_suite(
    runs: list[Run],
    directory: str | Path,
    data: Data,
    time_limit: float | None = None,
    half_weights: bool = False,
) -> None:
    """Record what is missing of `runs`, in their order, until done or `time_limit` seconds have passed.

    A run whose loss is no longer finite does not stop the others; NotFinite is raised at the end.
    """
    begun, failures = time.monotonic(), []
    for run in runs:
        left = None if time_limit is None else time_limit - (time.monotonic() - begun)
        if progress(run, directory) == "done":
            continue
        if left is not None and left <= 0:
            break
        try:
            record(run.name, run.config, directory, left, data, half_weights=half_weights)
        except NotFinite as error:
            failures.append(f"{run.name} seed {run.config.seed}: {error}")
            continue
        if progress(run, directory) != "done":
            break
    if failures:
        raise NotFinite("; ".join(failures))
