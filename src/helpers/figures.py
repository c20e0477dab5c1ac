"""The figures of what is recorded: what each is drawn from, and the one writer of `figures/`.

A figure of a suite is `figures/<suite>-<name>.svg` and `.png`. Both hold a digest of the data they were drawn from.
"""

import hashlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import ROOT, RUNS
from helpers.checkpoint import write
from helpers.experiments import near
from helpers.paper import plain_errors, residual_errors
from helpers.plotting import (
    FULL_SCHEDULE,
    NET,
    NOTHING,
    RUN,
    SMALL,
    STYLE,
    add_legend,
    describe_curves,
    describe_errors,
    describe_responses,
    farthest,
    frame,
    last_rows,
    panels,
    plot_curves,
    plot_errors,
    plot_responses,
    stamp,
    style,
)
from helpers.records import RunError, load_runs, load_series

FOLDER = ROOT / "figures"
METADATA = {"svg": {"Creator": None, "Date": None}, "png": {"Software": None}}  # neither dates nor versions
ERRORS = ["train_error", "test_error"]
WHAT_RAN = [*NET, "seed", "data", "steps", "finished"]
DRAWN = [*WHAT_RAN, "step", *ERRORS]
SEEDS, MARGIN = 3, 0.5  # the rule: the mean of seeds 0, 1 and 2 lies within half a point of the paper's error, or not
LOWEST, HIGHEST = 5, 15  # the scale beside the paper, in percent


def plot_groups(runs: pd.DataFrame, groups: dict[str, pd.DataFrame], by: str) -> Figure:
    """Curves on one scale, a panel for each group by its title; nets that end above the frame are named there."""
    if runs.empty:
        return plot_curves(runs).figure
    figure, axes = panels(runs, 1, len(groups), sharey=True)
    for ax, (title, group) in zip(axes, groups.items(), strict=True):
        plot_curves(group, ax, by).set(title=title, ylabel="error (%)" if ax is axes[0] else "", ylim=(0, frame(runs)))
        ends = last_rows(farthest(group)).groupby(by)[ERRORS].mean().min(axis=1)
        above = [f"{style(by, value)['label']}: above, {end:.0f} %" for value, end in ends.items() if end > frame(runs)]
        place = {"transform": ax.transAxes, "ha": "right", "va": "top", "fontsize": SMALL}
        ax.text(0.98, 0.98, "\n".join(above), **place, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    add_legend(figure, axes)
    return figure


def plot_plain_and_residual(runs: pd.DataFrame) -> Figure:
    """Fig. 6: the plain nets' curves beside the residual nets'; those of 1202 layers and 110 have their own panel.

    Each title says how many seeds the nets have.
    """
    panels_of = {"plain nets": "kind == 'plain'", "residual nets": "kind == 'residual' and depth <= 110"}
    if not runs.empty and (runs.depth > 110).any():
        panels_of["very deep nets"] = "kind == 'residual' and depth >= 110"
    groups = {} if runs.empty else {title: runs.query(which) for title, which in panels_of.items()}
    return plot_groups(runs, {f"{t}\n{seeds(group)}": group for t, group in groups.items() if len(group)}, "depth")


def seeds(runs: pd.DataFrame) -> str:
    """How many of each network, as "3 seeds" or "1 to 3 seeds"; those lagging behind are neither drawn nor counted."""
    counts = sorted(set(farthest(runs).groupby(["suite", "network"]).seed.nunique()))
    return f"{' to '.join(map(str, counts[:1] + counts[1:][-1:]))} seed{'s' if counts[-1] > 1 else ''}"


def plot_compared(runs: pd.DataFrame, by: str) -> Figure:
    """What another "shortcut" or "precision" changes: a panel for each kind and depth, a colour for each of `by`."""
    groups = {} if runs.empty else dict(list(runs.groupby(["kind", "depth"])))
    return plot_groups(runs, {f"{kind} nets, {depth} layers": group for (kind, depth), group in groups.items()}, by)


def plot_both_orders(responses: pd.DataFrame) -> Figure:
    """Fig. 7: the layers in their order above, sorted below."""
    figure, axes = panels(responses, 2, height=6.5)
    for ax, ordered in zip(axes, (False, True), strict=True):
        plot_responses(responses, ax, ordered)
    add_legend(figure, axes)
    return figure


def plot_both_errors(runs: pd.DataFrame) -> Figure:
    """Training and test error at the last step against depth, side by side."""
    figure, axes = panels(runs, 1, 2)
    for ax, measure in zip(axes, ("train_error", "test_error"), strict=True):
        plot_errors(runs, ax, measure)
    add_legend(figure, axes)
    return figure


def deciding(runs: pd.DataFrame) -> pd.DataFrame:
    """The last rows of the runs that the rule counts: finished ones of the suite "paper" at its full length."""
    if runs.empty:
        return runs.reindex(columns=DRAWN)
    full = runs[(runs.suite == "paper") & (runs.steps == FULL_SCHEDULE) & runs.finished.astype(bool)]
    return last_rows(full[(full.seed < SEEDS) & full.depth.isin(residual_errors().index)])


def plot_beside_paper(runs: pd.DataFrame) -> Figure:
    """Test errors of the `deciding` runs beside all of Table 6 and what the rule allows; plain nets beside Fig. 6.

    The mean of a net is drawn once it has all the seeds that decide; until then its marks say how many it has.
    """
    ends, paper = deciding(runs), residual_errors()
    place = {depth: number for number, depth in enumerate(paper.index)}
    figure, (ax,) = panels(ends, height=5)
    ax.axison = True  # the paper's numbers stand there before anything is recorded
    for kind, shortcut, printed in (("residual", "A", paper), ("plain", "plain", plain_errors())):
        look, nets = style("shortcut", shortcut) | {"ls": ""}, ends[ends.kind == kind]
        ax.plot(printed.rename(place), **look | {"marker": "_", "ms": 30, "mew": 2, "label": f"the paper's, {kind}"})
        side_by_side = nets.depth.map(place) + 0.12 * nets.seed - 0.24
        ax.plot(side_by_side, nets.test_error, ms=7, mfc="none", **look | {"label": f"our seeds, {kind}"})
        for depth, errors in nets.groupby("depth").test_error:
            put_mean(ax, place[depth], errors, look | {"label": ""})
    ax.plot([], [], "ko", ms=7, label="mean of three")
    grey = {"bottom": paper - MARGIN, "width": 0.6, "color": "#DDDDDD", "zorder": 0}
    ax.bar(place.values(), 2 * MARGIN, **grey, label="within half a point")
    ax.set(xlabel="layers (evenly spaced)", xticks=range(len(place)), xticklabels=place, xlim=(-0.5, len(place) - 0.2))
    ax.set(ylabel="test error (%)", ylim=(LOWEST, HIGHEST))
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def put_mean(ax: Axes, place: int, errors: pd.Series, look: dict) -> None:
    """The mean of a net's seeds beside them; in words what is missing for it, or that it is above the scale."""
    mean = errors.mean()
    words = [f"{len(errors)} of {SEEDS}"] if len(errors) < SEEDS else []
    words += [f"above, {mean:.0f} %"] if mean > HIGHEST else []
    beside = {"color": look["color"], "fontsize": SMALL, "va": "center"}
    ax.text(place + 0.33, min(mean, HIGHEST - MARGIN), "\n".join(words), **beside)
    if len(errors) == SEEDS:
        ax.plot(place + 0.22, mean, ms=7, **look)


def describe_beside_paper(runs: pd.DataFrame) -> str:
    """`plot_beside_paper` in words, net by net."""
    ends = deciding(runs)
    few = " (with fewer nothing is decided yet)" if (ends.groupby("network").size() < SEEDS).any() else ""
    words = "Test errors beside the paper's: residual nets beside its Table 6, with a grey band of half a point to "
    words += "either side, plain nets beside its curves; open marks are our seeds, filled ones the means of three, "
    words += f"which decide{few}; the axis begins at {LOWEST} %"
    for kind, printed in (("residual", residual_errors()), ("plain", plain_errors())):
        ours = dict(list(ends[ends.kind == kind].groupby("depth").test_error))
        nets = [compare(depth, ours.get(depth), printed.get(depth), kind) for depth in sorted({*printed.index, *ours})]
        words += f". {kind.capitalize()} nets: {'; '.join(nets)}"
    return f"{words}. {NOTHING if ends.empty else f'Drawn from: {stamp(ends)}.'}"


def compare(depth: int, errors: pd.Series | None, printed: float | None, kind: str) -> str:
    """A net's errors in words beside the one that the paper prints, and what the rule says of a residual one."""
    words = f"{depth} layers, " + (f"paper {printed:.2f} %" if printed else "not among its curves")
    if errors is None:
        return f"{words}, ours none yet"
    words += f", ours {', '.join(f'{error:.2f}' for error in errors)} %"
    if len(errors) < SEEDS:
        return f"{words}, not yet decided with {len(errors)} of {SEEDS} seeds"
    words += f", mean {errors.mean():.2f} %"
    if kind == "plain":
        return words
    return f"{words}, {'within' if abs(errors.mean() - printed) <= MARGIN else 'not within'} half a point"


def identify(series: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A table of `load_series` with those columns of `load_runs` that say what run a row is of."""
    if series.empty or runs.empty:
        return pd.DataFrame()
    return series.merge(runs[WHAT_RAN].drop_duplicates(), on=RUN)


class Drawing(NamedTuple):
    """A figure before it is drawn: a table of what it shows and no more, how to draw it, and its description."""

    table: pd.DataFrame
    plot: Callable[[pd.DataFrame], Figure]
    words: str

    @property
    def digest(self) -> str:
        """Of the data and the words; of ten digits, since machines may read the last ones differently."""
        text = self.table.to_csv(index=False, float_format="%.10g") + self.words
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def of_suite(runs: pd.DataFrame, suite: str) -> pd.DataFrame:
    """The suite's rows if it has a plain and a residual net of one depth, and none that look alike; else none."""
    chosen = runs[runs.suite == suite]
    pairs = (chosen.groupby("depth").kind.nunique() == 2).any()
    alike = (chosen.groupby(["kind", "depth"]).network.nunique() > 1).any()
    return chosen if pairs and not alike else chosen[:0]


def beside(runs: pd.DataFrame, suite: str, other: str, by: str) -> pd.DataFrame:
    """A suite's nets that differ in `by` alone; what it lacks for that is taken from the suite `other`."""
    same = [column for column in ("kind", "depth", "shortcut", "precision", "data", "steps") if column != by]
    own, keys = runs[runs.suite == suite], [*same, by]
    theirs = runs[runs.suite == other].merge(own[same].drop_duplicates(), on=same)
    lacking = ~theirs.set_index(keys).index.isin(own.set_index(keys).index)
    found = pd.concat([own, theirs[lacking]])
    return found[found.groupby(same)[by].transform("nunique") > 1]


def curves(suite: str, runs: pd.DataFrame, _: pd.DataFrame) -> Drawing:
    """Fig. 6, and Fig. 1 within it."""
    table = of_suite(runs, suite)[DRAWN]
    return Drawing(table, plot_plain_and_residual, describe_curves(table))


def errors(suite: str, runs: pd.DataFrame, _: pd.DataFrame) -> Drawing:
    """Table 6 as a figure, beside the paper's where the runs are the paper's."""
    if suite == "paper":
        table = deciding(runs)[DRAWN]
        return Drawing(table, plot_beside_paper, describe_beside_paper(table))
    table = last_rows(of_suite(runs, suite))[DRAWN]
    return Drawing(table, plot_both_errors, describe_errors(table))


def responses(suite: str, runs: pd.DataFrame, series: pd.DataFrame) -> Drawing:
    """Fig. 7, of the nets that the paper has there."""
    shown = runs[runs.network.isin(["plain-20", "plain-56", "resnet-20", "resnet-56", "resnet-110"])]
    table = identify(series, of_suite(shown, suite))
    return Drawing(table, plot_both_orders, describe_responses(table))


def compared(suite: str, runs: pd.DataFrame, _: pd.DataFrame, own: str, other: str, by: str) -> Drawing:
    """What `by` changes: the suite `own` beside the nets of suite `other` that differ in nothing else."""
    table = beside(runs, suite, other, by) if suite == own else runs[:0]
    return Drawing(table[DRAWN], partial(plot_compared, by=by), describe_curves(table))


FIGURES = {
    "curves": curves,
    "errors": errors,
    "responses": responses,
    "shortcuts": partial(compared, own="options", other="paper", by="shortcut"),
    "precision": partial(compared, own="agreement", other="quick", by="precision"),
}


def drawings(names: list[str], runs_in: Path = RUNS) -> dict[str, Drawing]:
    """What the finished runs allow to be drawn, by `<suite>-<name>`; every figure if no name is given.

    Raises UnknownName for a name that is not in FIGURES, and RunError if the runs allow nothing.
    """
    for name in names:
        if name not in FIGURES:
            raise near(name, FIGURES, "figure")
    runs = load_runs(runs_in).query("finished")
    if runs.empty:
        how = "`.venv/bin/python -m helpers suite quick`"
        raise RunError(f"no finished run is in {runs_in}: record some first, as with {how}")
    series = load_series("responses.csv", runs_in)
    suites = sorted(runs.suite.unique())
    every = {f"{suite}-{name}": FIGURES[name](suite, runs, series) for suite in suites for name in names or FIGURES}
    if found := {name: drawing for name, drawing in every.items() if len(drawing.table)}:
        return found
    raise RunError(f"no suite in {runs_in} has the runs that {' or '.join(names or FIGURES)} would compare")


def draw(names: list[str], runs_in: Path = RUNS, folder: Path = FOLDER) -> dict[Path, str]:
    """Write the figures of these names, or all; their paths without suffix, each with its description in words."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = drawings(names, runs_in)
    for name, drawing in wanted.items():
        for suffix, content in render(drawing).items():
            write(folder / f"{name}.{suffix}", content)
    return {folder / name: drawing.words for name, drawing in wanted.items()}


def render(drawing: Drawing) -> dict[str, bytes]:
    """The contents of the figure's files by their suffix: the same bytes each time on one machine."""
    files = {}
    with plt.style.context(["default", STYLE, {"svg.hashsalt": "figures"}]):
        figure = drawing.plot(drawing.table)
        for suffix, metadata in METADATA.items():
            stream = io.BytesIO()
            about = {"Description": drawing.words, "Source": drawing.digest}
            figure.savefig(stream, format=suffix, dpi=150, facecolor="white", metadata=metadata | about)
            files[suffix] = stream.getvalue()
        plt.close(figure)
    return files


def stale(names: list[str], runs_in: Path = RUNS, folder: Path = FOLDER) -> list[str]:
    """A sentence on each file in `folder` that is missing, drawn from other data, or of nothing that is recorded."""
    wanted = {f"{name}.{suffix}": drawing for name, drawing in drawings(names, runs_in).items() for suffix in METADATA}
    faults = []
    for file, drawing in wanted.items():
        if not (folder / file).exists():
            faults.append(f"{folder / file} is missing")
        elif drawing.digest.encode() not in (folder / file).read_bytes():
            faults.append(f"{folder / file} is stale: what is recorded has changed")
    there = [] if names else sorted(path for path in folder.glob("*") if path.suffix[1:] in METADATA)
    return faults + [f"{path} is of nothing that is recorded" for path in there if path.name not in wanted]
