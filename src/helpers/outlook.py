"""How far runs have come, and how long the rest would take on this machine; recording them from a notebook."""

import dataclasses
import math
import statistics
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from helpers import RUNS
from helpers.analysis import count_cost
from helpers.data import load_data
from helpers.experiments import Run, select, suite
from helpers.models import Spec
from helpers.records import CHECKPOINT, RunError, read_about, read_rows, run_folder, run_folders
from helpers.runs import device_name, missing, progress, record_suite
from helpers.step import choose_path, examine


class Pace(NamedTuple):
    """How fast a net was trained, and where."""

    name: str  # of the experiment
    source: str  # where it is recorded, in words
    setting: str
    spec: Spec
    rate: float  # training images per second of wall time, evaluations included, of all runs that share the device


def describe_setting(path: dict, device: str) -> str:
    """Device, precision and threads or compiling in words: runs that agree in these are about equally fast.

    `device` is the name that runs record.
    """
    # on a CPU compiling changes it by a quarter at most (benchmarks/README.md); on a GPU threads do not matter
    compiled = "compiled" if path["compiled"] else "not compiled"
    how = f"CPU threads: {path['threads']}" if path["device"] == "cpu" else compiled
    return f"{device}, {path['precision']}, {how}"


def paces(directory: Path, suite: str = "*") -> list[Pace]:
    """The pace of every run, finished or begun, that stayed on one device."""
    found = []
    for folder in run_folders(directory, suite):
        try:
            about, rows = read_about(folder), read_rows(folder)
        except RunError:  # `progress` tells of it; an estimate can do without
            continue
        config, devices = about["config"], {stretch["device"] for stretch in about["stretches"]}
        times = [(0, 0.0), *((row["step"], row["seconds"]) for row in rows)]
        rates = [
            sharing(about, a) * config.batch_size * (b - a) / (end - begun)
            for (a, begun), (b, end) in pairwise(times)
            if end > begun
        ]
        if len(devices) == 1 and rates:
            # the first interval may include compiling; the median, since a machine may be paused in others
            rate, source = statistics.median(rates[1:] or rates), "/".join(folder.parts[-3:-1])
            setting = describe_setting(about["path"], devices.pop())
            found.append(Pace(about["name"], source, setting, config.spec, rate))
    return found


def sharing(about: dict, step: int) -> int:
    """How many runs shared the device in the interval that began after `step` steps."""
    stretches = [stretch for stretch in about["stretches"] if stretch["from_step"] <= step]
    return stretches[-1].get("at_once", 1)  # older files lack it


def relative_cost(a: Spec, b: Spec) -> float:
    """Multiply-adds of `a` over those of `b`."""
    return count_cost(a)["multiply_adds"] / count_cost(b)["multiply_adds"]


def nearest(run: Run, known: list[Pace]) -> Pace:
    """The one of `known` to estimate `run` by: its own experiment, else the net nearest in cost.

    Of two with the same cost, the one of its kind, plain or residual.
    """
    spec = run.config.spec

    def unlike(pace: Pace) -> tuple:
        other_kind = (pace.spec.shortcut == "plain") != (spec.shortcut == "plain")
        return pace.name != run.name, abs(math.log(relative_cost(pace.spec, spec))), other_kind

    return min(known, key=unlike)


def remaining(run: Run, directory: Path) -> tuple[int, str]:
    """The steps that a run has yet to take, and the setting in which it will, in words.

    No step is left if the folder is damaged or holds another configuration: the run cannot be recorded there.
    """
    folder, config = run_folder(directory, run.name, run.config.seed), run.config
    try:
        about, rows = read_about(folder), read_rows(folder)
    except RunError:  # `progress` tells of it
        return 0, ""
    gpu = torch.cuda.is_available()
    begun = about is not None and (about["finished"] or (folder / CHECKPOINT).exists())  # else it starts over
    if not begun:
        device = examine("cuda" if gpu else "cpu")
        path = dataclasses.asdict(choose_path(device, config.precision, config.compiled, config.schedule.steps))
    else:
        path = about["path"]  # a run goes on as it was begun
    here = "a GPU (there is none here)" if path["device"] == "cuda" and not gpu else device_name(path["device"])
    another = about is not None and about["config"] != config
    done = rows[-1]["step"] if begun and rows else 0
    return 0 if another else config.schedule.steps - done, describe_setting(path, here)


def in_words(seconds: float) -> str:
    if seconds < 3600:
        return f"{max(1, seconds / 60):.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"


def outlook(
    runs: list[Run], directory: Path, live: tuple[Spec, float] | None = None, recorded: Path = RUNS
) -> list[str]:
    """Lines that say how far each run has come in `directory`, and about how long the rest takes on this machine.

    The estimate: the images left, at the rate of the `nearest` run recorded on such a device, scaled by multiply-adds.
    Where there is none, at the rate of `live`, a net trained just now and its images per second; without that the
    time is said to be unknown.
    """
    directory = Path(directory).resolve()
    known = paces(recorded)
    if directory.parent != recorded:
        known += paces(directory.parent, directory.name)
    words = [f"{run.name} seed {run.config.seed}: {progress(run, directory)}" for run in runs]
    left = [remaining(run, directory) for run in runs]
    width = max((len(text) for text, (steps, _) in zip(words, left, strict=True) if steps), default=0)
    lines, times, unknown = [], [], set()
    for run, text, (steps, where) in zip(runs, words, left, strict=True):
        alike = [pace for pace in known if pace.setting == where]
        if not alike and live:
            alike = [Pace("", "the net trained above", where, *live)]
        if steps == 0:
            lines.append(text)
        elif alike:
            pace = nearest(run, alike)
            images = steps * run.config.batch_size
            times.append(images / pace.rate * relative_cost(run.config.spec, pace.spec))
            how = "as" if pace.name == run.name else "scaled from"
            lines.append(f"{text:<{width}}  {'~' + in_words(times[-1]):>7}, {how} {pace.source}")
        else:
            unknown.add(where)
            lines.append(f"{text:<{width}}  unknown")
    return lines + conclude(times, unknown)


def conclude(times: list[float], unknown: set[str]) -> list[str]:
    """How long all that is missing takes, from `times` in seconds, and what it would take to know the rest."""
    said = []
    if times:
        said.append(
            f"About {in_words(sum(times))} in all on this machine, one run after another. This is an estimate: images "
            "left at the rate at which the run named was recorded, scaled by multiply-adds if its net is another."
        )
    if unknown:
        said.append(
            f"How long the unknown ones take cannot be said: no run is recorded on {' or on '.join(sorted(unknown))}. "
            "Recording one evaluation would tell: `.venv/bin/python -m helpers suite NAME --time-limit 1`."
        )
    return ["", *(line for text in said for line in textwrap.wrap(text, 80, break_on_hyphens=False))] if said else []


def record_missing(
    wanted: dict[str, list[str]],
    seeds: list[int] | None = None,
    live: tuple[Spec, float] | None = None,
    directory: Path = RUNS,
) -> None:
    """Say how long what is missing will take, as `outlook` has it, then record it in `directory`.

    `wanted` has a suite's experiments by the suite's name, an empty list for all; `seeds` are by default all that the
    suite has. Raises what `select` and `record_suite` do.
    """
    runs = {name: select(suite(name), only, seeds) for name, only in wanted.items()}
    for name in wanted:
        said = [f"suite {name}: {suite(name).about}", *outlook(runs[name], directory / name, live), ""]
        print("\n".join(said), flush=True)
    for name in wanted:
        if missing(runs[name], directory / name):
            record_suite(runs[name], directory / name, load_data(suite(name).data), half_weights=True)
