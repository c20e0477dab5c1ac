"""Runs recorded on disk, so that a kill at any moment loses at most an interval.

A run's folder is `<suite>/<name>/seed-<k>/`; README.md in `data/runs/` says what its files hold. `records` reads them
back; what notebooks need of it can be imported from here too.
"""

import dataclasses
import functools
import json
import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import filelock
import pandas as pd
import safetensors.torch
import torch
from tqdm import tqdm

from helpers import ROOT
from helpers.analysis import gradient_norms, layer_responses
from helpers.checkpoint import CheckpointError, load, save, write
from helpers.config import Config
from helpers.data import Data, load_data, normalise
from helpers.experiments import Run
from helpers.records import (
    ABOUT,
    CHECKPOINT,
    METRICS,
    WEIGHTS,
    RunError,
    read_about,
    read_rows,
    read_table,
    run_folder,
    tabulate,
)
from helpers.records import load_network as load_network
from helpers.records import load_runs as load_runs
from helpers.records import load_series as load_series
from helpers.step import PROCESS_LOCK, PathError
from helpers.train import NotFinite, State, divide, start, statistics, train


def record(
    name: str,
    config: Config,
    directory: str | Path,
    time_limit: float | None = None,
    data: Data | None = None,
    half_weights: bool = False,
    at_once: int = 1,
) -> Path:
    """Train to the end, by default on CIFAR-10, and record it; return the run's folder `directory/name/seed-<k>`.

    Kill it at any moment and call it again: it goes on from the last evaluation and ends as the uninterrupted run
    would. A finished run is left as it is. With a `time_limit` in seconds it stops early, after a checkpoint,
    once another interval would not fit. `at_once`, how many runs may share the device, is recorded, since it decides
    how fast each is. Raises RunError if the folder holds another run, cannot be written or is being recorded into by
    another process, or if this machine cannot go on with it; PathError, NotFinite, CheckpointError and, from CIFAR-10's
    files, DataError pass through.
    """
    folder, data = run_folder(directory, name, config.seed), data or load_data("cifar10")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / "run.lock", timeout=0):
            return record_locked(folder, name, config, data, time_limit, half_weights, at_once)
    except filelock.Timeout:
        raise RunError(f"another process is recording into {folder}: wait for it or choose another folder") from None
    except BrokenPipeError:  # from the reports, as in `| head`: nothing is wrong with the folder
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise RunError(
            f"recording into {folder} broke off: {error.strerror or error}{where}; "
            "nothing recorded is lost, and once this is mended the same command goes on"
        ) from error


def record_locked(folder: Path, name, config: Config, data: Data, time_limit, half_weights, at_once) -> Path:
    """`record`, for the process that holds the folder's lock."""
    about = read_about(folder)
    if about:
        refuse_another(folder, about, config, data)
        if about["finished"]:
            return folder
    begun = time.monotonic()
    state, rows = resume(folder, config)
    if state.step == 0:
        about = describe(name, data, state)
    about["stretches"].append({"from_step": state.step, "at_once": at_once, **surroundings(state.device)})
    write_about(folder, about)
    write_rows(folder, rows)
    train_split, test_split = divide(config, data.train, data.test)
    mean_std = statistics(config, train_split)
    probe = normalise(train_split.images[:128], *mean_std), train_split.labels[:128]
    if state.step == 0:
        record_gradients(folder, state, *probe)
    before = state.seconds
    for row in train(state, data.train, data.test):
        append(folder / METRICS, row)
        if is_quarter(config, state.step):
            record_gradients(folder, state, *probe)
        save(state, folder / CHECKPOINT)
        tqdm.write(report(name, config, row))
        sys.stdout.flush()  # a line per evaluation, into a file or pipe too
        passed, interval, before = time.monotonic() - begun, row["seconds"] - before, row["seconds"]
        if time_limit is not None and passed + interval > time_limit and state.step < config.schedule.steps:
            return folder
    finish(folder, about, state, normalise(test_split.images, *mean_std), half_weights)
    return folder


def report(name: str, config: Config, row: dict) -> str:
    """One line on one evaluation."""
    return (
        f"{name} seed {config.seed}  step {row['step']:,}/{config.schedule.steps:,}  lr {row['lr']:g}  "
        f"train {row['train_loss']:.3f} {row['train_error']:.2f} %  test {row['test_loss']:.3f} "
        f"{row['test_error']:.2f} %  {row['images_per_second']:,.0f} images/s"
    )


def resume(folder: Path, config: Config) -> tuple[State, list[dict]]:
    """The state of the folder's checkpoint, or a new one, and the rows recorded up to it."""
    checkpoint, rows = folder / CHECKPOINT, read_rows(folder)
    if not checkpoint.exists():
        if rows:
            tqdm.write(f"{folder} has no checkpoint: its {len(rows)} recorded rows are computed again")
        return start(config), []
    try:
        state = load(checkpoint)
    except PathError as error:
        raise RunError(f"{folder} cannot go on: {error}; continue on one that can, or choose another folder") from error
    if state.config != config:
        raise CheckpointError(f"{checkpoint} is of another configuration than {folder}: delete it to start over")
    kept = [row for row in rows if row["step"] <= state.step]
    if not kept or (kept[-1]["step"], kept[-1].get("seconds")) != (state.step, round(state.seconds, 3)):
        raise CheckpointError(
            f"{checkpoint} was not saved with the rows of {folder / METRICS}: put the files of one run together, "
            "or delete the checkpoint to start over"
        )
    return state, kept


def refuse_another(folder: Path, about: dict, config: Config, data: Data) -> None:
    """Raise RunError if the folder was begun with another configuration or other data."""
    wanted = {**flat(config.as_dict()), "data": data.md5}
    found = {**flat(about["config"].as_dict()), "data": about["data"]["md5"]}
    if differing := [key for key in wanted | found if wanted.get(key) != found.get(key)]:
        pairs = ", ".join(f"{key} {found.get(key)} instead of {wanted.get(key)}" for key in differing if key != "data")
        raise RunError(f"{folder} holds another run ({pairs or 'other data'}): choose another folder or remove it")


def flat(values: dict, prefix: str = "") -> dict:
    """A nested dictionary as one level, names joined by dots."""
    result = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def describe(name: str, data: Data, state: State) -> dict:
    """The contents of `run.json` at the start."""
    return {
        "name": name,
        "seed": state.config.seed,
        "config": state.config,
        "data": {"name": data.name, "md5": data.md5},
        "path": dataclasses.asdict(state.path),
        "stretches": [],
        "finished": False,
    }


def live_table(name: str, data: Data, state: State, rows: list[dict]) -> pd.DataFrame:
    """The rows that `train` gave of a run that is not recorded, as `load_runs` has those of recorded ones."""
    return tabulate("live", describe(name, data, state) | {"finished": True}, rows)


def surroundings(device: str) -> dict:
    """Where and with what one stretch of a run is computed."""
    return {
        "source": source_commit(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        "device": device_name(device),
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
    """Whether the interval that ends at `step` crossed a quarter of the schedule, where gradients are recorded."""
    begun = (step - 1) // config.eval_every * config.eval_every
    return 4 * step // config.schedule.steps > 4 * begun // config.schedule.steps


def record_gradients(folder: Path, state: State, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Add each layer's gradient at the present step to `gradients.csv`, replacing what a kill left of it."""
    with PROCESS_LOCK:  # as in `train.measure`
        norms = gradient_norms(state.network, images.to(state.device), labels.to(state.device))
    table = norms.reset_index().assign(step=state.step)[["step", "layer", "norm"]]
    path = folder / "gradients.csv"
    if state.step > 0 and path.exists():
        earlier = read_table(path)
        table = pd.concat([earlier[earlier.step < state.step], table])
    write(path, table.to_csv(index=False).encode())


def finish(folder: Path, about: dict, state: State, images: torch.Tensor, half_weights: bool) -> None:
    """Write what is known only at the end; `run.json` last, so that a finished run has everything.

    `images` are all test images, normalised.
    """
    with PROCESS_LOCK:  # as in `train.measure`
        responses = layer_responses(state.network, images.to(state.device))
    write(folder / "responses.csv", responses.to_csv().encode())
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.network.state_dict().items()}
    if half_weights:
        # variances of a deep plain net exceed what half precision holds; convolutions are nearly all of the bytes
        weights = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in weights.items()}
    write(folder / WEIGHTS, safetensors.torch.save(weights))
    about["seconds"] = state.seconds
    about["images_per_second"] = float(pd.Series([row["images_per_second"] for row in read_rows(folder)]).median())
    about["finished"] = True
    write_about(folder, about)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def write_about(folder: Path, about: dict) -> None:
    write(folder / ABOUT, json.dumps(about | {"config": about["config"].as_dict()}, indent=1).encode())


def write_rows(folder: Path, rows: list[dict]) -> None:
    write(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())


def append(path: Path, row: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def progress(run: Run, directory: str | Path) -> str:
    """How far a run has come, in words."""
    folder = run_folder(directory, run.name, run.config.seed)
    try:
        about = read_about(folder)
        rows = read_rows(folder) if (folder / CHECKPOINT).exists() else []  # without one it starts over
    except RunError as error:
        return f"not done: {error}"
    if about is None:
        return "missing"
    if about["config"] != run.config:
        return f"not done: another configuration is recorded in {folder}"
    if about["finished"]:
        return "done"
    return f"begun, {rows[-1]['step'] if rows else 0:,} of {run.config.schedule.steps:,} steps"


def missing(runs: list[Run], directory: str | Path) -> list[Run]:
    """Those that are not finished."""
    return [run for run in runs if progress(run, directory) != "done"]


def record_suite(
    runs: list[Run],
    directory: str | Path,
    data: Data,
    time_limit: float | None = None,
    half_weights: bool = False,
    jobs: int | None = None,
) -> None:
    """Record what is missing of `runs`, in their order, until done or `time_limit` seconds have passed.

    Small nets leave a large GPU idle: `jobs` of them are trained at once, each in a thread and stream of its own, and
    end as they would alone (on a GPU but for rounding: cuDNN chooses algorithms by their time); by default four on a
    GPU. A run that cannot be done (its loss is no longer finite, its folder holds another run) does not stop the
    others: the reason is printed at once, and raised at the end.
    """
    runs = missing(runs, directory)
    jobs = min(jobs or (4 if torch.cuda.is_available() else 1), max(1, len(runs)))
    begun, failures, ended = time.monotonic(), [], threading.Event()

    def do(run: Run) -> None:
        left = None if time_limit is None else time_limit - (time.monotonic() - begun)
        if ended.is_set() or (left is not None and left <= 0):
            return
        try:
            record(run.name, run.config, directory, left, data, half_weights=half_weights, at_once=jobs)
        except (NotFinite, RunError, CheckpointError, PathError) as error:
            failures.append(type(error)(f"{run.name} seed {run.config.seed}: {error}"))
            if len(runs) > 1:
                tqdm.write(str(failures[-1]))
                sys.stdout.flush()
            return
        except BaseException as error:
            ended.set()
            if jobs > 1:  # it is raised only when the runs beside it are done
                tqdm.write(f"{run.name} seed {run.config.seed}: {error!r}; no further run begins")
            raise
        if missing([run], directory):
            ended.set()

    if jobs == 1:
        for run in runs:
            do(run)
    else:
        with ThreadPoolExecutor(jobs, initializer=own_stream) as pool:
            try:
                for waiting in [pool.submit(do, run) for run in runs]:
                    waiting.result()
            finally:
                ended.set()  # someone who interrupts a notebook wants no further run begun
    if failures:
        raise failures[0] if len(failures) == 1 else RunError("; ".join(map(str, failures)))


def own_stream() -> None:
    """Give this thread a queue of work on the GPU, if there is one, beside those of other threads.

    Once per thread, not per run: PyTorch has 32, and then hands out the same ones again.
    """
    if torch.cuda.is_available():
        torch.cuda.set_stream(torch.cuda.Stream())
