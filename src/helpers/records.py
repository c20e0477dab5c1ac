"""Recorded runs, read back: as tables, and as the network that was trained.

`runs` records them; README.md in `data/runs/` describes the files.
"""

import json
from pathlib import Path

import pandas as pd
import safetensors.torch
from safetensors import SafetensorError

from helpers import RUNS
from helpers.config import Config
from helpers.models import ResNet

ABOUT, METRICS = "run.json", "metrics.jsonl"
WEIGHTS, CHECKPOINT = "weights.safetensors", "checkpoint.safetensors"
COLUMNS = {  # of a table of rows, with their types
    **dict.fromkeys(("step", "depth", "seed", "steps"), int),
    **dict.fromkeys(("lr", "train_loss", "train_error", "test_loss", "test_error"), float),
    **dict.fromkeys(("seconds", "images_per_second"), float),
    **dict.fromkeys(("suite", "network", "kind", "shortcut", "data", "precision"), str),
    "finished": bool,
}
MEND = "put a whole copy of it back, or remove the folder to start over"


class RunError(RuntimeError):
    """A run folder that cannot be recorded into or read."""


def read_rows(folder: Path) -> list[dict]:
    """The rows of a folder's `metrics.jsonl`, without a last line that a kill left unterminated.

    Raises RunError, with the line's number, if any other is damaged.
    """
    path, rows = folder / METRICS, []
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["step"]
        except (KeyError, TypeError, ValueError):
            raise RunError(f"{path} is damaged in line {number}: {MEND}") from None
        rows.append(row)
    return rows


def read_about(folder: Path) -> dict | None:
    """The contents of a folder's `run.json`, its `config` a `Config`; None if nothing is recorded in it.

    Raises RunError if it is damaged.
    """
    path = folder / ABOUT
    if not path.exists():
        if kept := [name for name in (METRICS, CHECKPOINT, WEIGHTS) if (folder / name).exists()]:
            raise RunError(f"{path} is missing beside {kept[0]}: {MEND}")
        return None
    try:
        about = json.loads(path.read_bytes())
        about["config"] = Config.from_dict(about["config"])  # what an older file lacks is at its default
        about["name"], about["seed"], about["data"]["md5"], about["path"], about["stretches"], about["finished"]
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{path} is damaged or of another version of this program: {MEND}") from None
    return about


def read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except ValueError:
        raise RunError(f"{path} is damaged: {MEND}") from None


def load_network(folder: str | Path) -> ResNet:
    """The trained network of a recorded run, in evaluation mode, on the CPU. Raises RunError if it was not kept."""
    about, path = read_about(Path(folder)), Path(folder) / WEIGHTS
    if about is None or not path.exists():
        raise RunError(f"{folder} holds no trained network: its {ABOUT} or {WEIGHTS} is missing")
    network = ResNet(about["config"].spec)
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except (SafetensorError, RuntimeError):
        raise RunError(f"{path} is damaged or of another network than {ABOUT} says: {MEND}") from None
    return network.eval()


def run_folder(directory: str | Path, name: str, seed: int) -> Path:
    """The folder of one run in its suite's `directory`."""
    return Path(directory) / name / f"seed-{seed}"


def run_folders(directory: str | Path = RUNS, suite: str = "*") -> list[Path]:
    """The folders of a suite's runs, or of all suites'; others, such as a copy named "seed-0 (1)", are left aside."""
    found = [path.parent for path in Path(directory).glob(f"{suite}/*/seed-*/{ABOUT}")]
    return sorted(folder for folder in found if folder.name.removeprefix("seed-").isdigit())


def load_runs(directory: str | Path = RUNS, suite: str = "*") -> pd.DataFrame:
    """All rows of metrics as one tidy table, a row per run and evaluation; without rows if nothing is recorded.

    Columns: those of the metrics (step, lr, losses in nats, errors in percent, seconds), then suite, network, depth,
    kind ("plain" or "residual"), shortcut, seed, data, precision, steps (of the schedule), finished.
    """
    tables = []
    for folder in run_folders(directory, suite):
        about = read_about(folder)
        if rows := read_rows(folder):  # none yet in a run's first interval
            tables.append(tabulate(folder.parent.parent.name, about, rows))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)


def tabulate(suite: str, about: dict, rows: list[dict]) -> pd.DataFrame:
    """Rows of metrics with what identifies their run, from the contents of its `run.json`, in every row."""
    config = about["config"]
    return pd.DataFrame(rows).assign(
        suite=suite,
        network=about["name"],
        depth=config.spec.depth,
        kind="plain" if config.spec.shortcut == "plain" else "residual",
        shortcut=config.spec.shortcut,
        seed=about["seed"],
        data=about["data"]["name"],
        precision=about["path"]["precision"],
        steps=config.schedule.steps,
        finished=about["finished"],
    )


def load_series(file: str, directory: str | Path = RUNS, suite: str = "*") -> pd.DataFrame:
    """`responses.csv` or `gradients.csv` of every run that has it, with columns suite, network, seed in front."""
    tables = []
    for folder in run_folders(directory, suite):
        if (folder / file).exists():
            table, (suite_name, name, seed) = read_table(folder / file), folder.parts[-3:]
            which = {"suite": suite_name, "network": name, "seed": int(seed.removeprefix("seed-"))}
            tables.append(pd.DataFrame(which, index=table.index).join(table))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
