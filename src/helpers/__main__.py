"""Train the paper's networks, execute the notebooks, draw the figures."""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from helpers import ROOT, RUNS

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

DataName = Literal["cifar10", "synthetic", "auto"]
Out = Annotated[Path, typer.Option(help="where run folders go: OUT/NAME/seed-K", show_default="build/runs/own")]
TimeLimit = Annotated[float | None, typer.Option(min=0, help="seconds after which to stop, with a checkpoint")]
Root = Annotated[Path, typer.Option(help="where the data sets are", show_default="data in the checkout")]


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="an experiment, such as plain-20 or resnet-56")],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of weights, order, crops and flips")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="shorten the schedule to this many steps")] = None,
    eval_every: Annotated[int | None, typer.Option(min=1, help="steps between evaluations")] = None,
    data: Annotated[DataName, typer.Option(help="auto: CIFAR-10 if it is there, else synthetic")] = "cifar10",
    out: Out = ROOT / "build" / "runs" / "own",
    time_limit: TimeLimit = None,
    data_root: Root = ROOT / "data",
) -> None:
    """Train one network and record it; call again to go on."""
    from helpers.data import load_data
    from helpers.experiments import experiment
    from helpers.runs import record

    run = experiment(name, seed, steps, eval_every)
    print(record(run.name, run.config, out, time_limit, load_data(data, data_root)))


@app.command()
def suite(
    name: Annotated[str, typer.Argument(help="smoke, quick, agreement, starts, paper, options, variants, deviations")],
    only: Annotated[list[str] | None, typer.Option(help="only the experiments of this name; repeat for more")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="only these seeds; repeat for more")] = None,
    out: Annotated[Path | None, typer.Option(help="instead of data/runs/NAME (smoke: build/runs/NAME)")] = None,
    time_limit: TimeLimit = None,
    list_: Annotated[
        bool, typer.Option("--list", help="say what is done and how long the rest takes; train nothing")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="runs at once", show_default="4 on a GPU, else 1")] = None,
    data_root: Root = ROOT / "data",
) -> None:
    """Record what is missing of a suite of runs."""
    from helpers import experiments
    from helpers.data import load_data
    from helpers.outlook import outlook
    from helpers.runs import missing, record_suite

    chosen = experiments.suite(name)
    runs = experiments.select(chosen, only, seed)
    out = (out or (ROOT / "build" / "runs" if name == "smoke" else RUNS) / name).resolve()
    if not list_ and missing(runs, out):
        record_suite(runs, out, load_data(chosen.data, data_root), time_limit, name != "smoke", jobs)
    print("\n".join([f"suite {name}: {chosen.about}", *outlook(runs, out)]))


@app.command()
def data(root: Root = ROOT / "data") -> None:
    """Put CIFAR-10 in place, downloading it if it is missing, and check it."""
    from helpers.data import load_cifar10

    train, test = load_cifar10(root)
    print(f"CIFAR-10 is whole: {len(train.labels):,} training and {len(test.labels):,} test images in {root}")


@app.command()
def notebooks(
    names: Annotated[list[str] | None, typer.Argument(help="such as 06; all if none is named")] = None,
    profile: Annotated[str, typer.Option(help="smoke, quick or paper")] = "smoke",
    set_: Annotated[list[str] | None, typer.Option("--set", help="a parameter, name=value; repeat for more")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="how many at once", show_default="cores, memory")] = None,
    cell_limit: Annotated[int, typer.Option(min=1, help="seconds that a cell may take")] = 3600,
) -> None:
    """Execute notebooks with papermill into build/notebooks."""
    from helpers.notebooks import execute_all

    execute_all(names or [], profile, set_ or [], jobs, cell_limit)


@app.command()
def figures(
    names: Annotated[list[str] | None, typer.Argument(help="such as curves; all if none is named")] = None,
    check: Annotated[bool, typer.Option("--check", help="only say which are missing or stale: code 1 if any")] = False,
) -> None:
    """Draw the figures of what is recorded into figures/, each as SVG and PNG."""
    from helpers.figures import draw, stale

    if check:
        faults = stale(names or [])
        print("\n".join(faults) or "the figures are those of what is recorded")
        raise typer.Exit(1 if faults else 0)
    for path, words in draw(names or []).items():
        print(f"{path}.svg and .png: {words}")


@app.command()
def results(
    check: Annotated[bool, typer.Option("--check", help="only say whether they are stale: code 1 if so")] = False,
) -> None:
    """Write the tables of what is recorded into README.md."""
    from helpers.results import stale, tables, write_tables

    if check:
        faults = stale()
        print("\n".join(faults) or "the tables are those of what is recorded")
        raise typer.Exit(1 if faults else 0)
    write_tables()
    print(tables())


def stop(number: int, _frame) -> None:
    """End at once, which runs are built to survive: an exception raised here can be lost in an import under way."""
    with contextlib.suppress(OSError):
        os.write(2, b"\nstopped; a run that was being recorded goes on from its last checkpoint\n")
    os._exit(128 + number)


def main() -> None:
    """Exit code 2 for a request that makes no sense, 1 for one that failed, each with one sentence."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        app()
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(code)


def exit_code(error: Exception) -> int | None:
    """The package's errors say in a sentence what to do, and the system's are plain; any other is a bug: None."""
    if type(error).__module__.startswith("helpers."):
        return 2 if isinstance(error, ValueError) else 1
    return 1 if isinstance(error, OSError) else None


if __name__ == "__main__":
    main()
