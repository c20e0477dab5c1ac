"""Figures from tables: each function draws on an `Axes` and returns it; each has its description in words."""

import base64
import html
import io

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DEPTHS = (8, 20, 32, 44, 56, 110, 1202)
COLOURS = dict(zip(DEPTHS, sns.color_palette("colorblind", len(DEPTHS)), strict=True))
MARKERS = dict(zip(DEPTHS, "Pos^DvX", strict=True))


def plot_curves(runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Error against steps as in Fig. 6: one colour and marker a depth, dashed for training, solid for test.

    `runs` as `load_runs` gives them; several seeds of a network are drawn one by one.
    """
    ax = ax or plt.gca()
    for (depth, *_), run in runs.groupby(["depth", "suite", "network", "seed"]):
        style = {"color": COLOURS[depth], "marker": MARKERS[depth], "markersize": 4}
        first = f"{depth} layers" not in ax.get_legend_handles_labels()[1]
        ax.plot(run.step, run.train_error, linestyle="--", linewidth=1, **style)
        ax.plot(run.step, run.test_error, linewidth=2, label=f"{depth} layers" if first else None, **style)
    ax.plot([], [], "--", color="grey", linewidth=1, label="training")
    ax.plot([], [], color="grey", linewidth=2, label="test")
    ax.set(xlabel="steps", ylabel="error (%)", xlim=(0, None))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def plot_plain_and_residual(runs: pd.DataFrame) -> Figure:
    """Fig. 6, left and middle: the plain nets' curves beside the residual nets', on one scale."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for ax, kind in zip(axes, ("plain", "residual"), strict=True):
        plot_curves(runs[runs.kind == kind], ax).set_title(f"{kind} nets")
    later = runs[runs.step > 0.1 * runs.steps]  # the first tenth would squeeze the rest of a long run
    axes[0].set_ylim(0, 1.05 * later[["train_error", "test_error"]].max().max())
    axes[1].set_ylabel("")
    figure.supxlabel(stamp(runs), fontsize=8, color="dimgrey")
    return figure


def last_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """The last iteration of each run: what is reported, whichever epoch was best."""
    return runs.loc[runs.groupby(["suite", "network", "seed"]).step.idxmax()].reset_index(drop=True)


def stamp(runs: pd.DataFrame) -> str:
    """What a figure was drawn from: suite, steps, seeds, data, precision."""

    def values(column: str) -> str:
        return ", ".join(f"{value:,}" if column == "steps" else str(value) for value in sorted(runs[column].unique()))

    done = "" if runs.finished.all() else " · unfinished runs among them"
    return (
        f"suite {values('suite')} · {values('steps')} steps · seed {values('seed')} · {values('data')} · "
        f"{values('precision')}{done}"
    )


def describe_curves(runs: pd.DataFrame) -> str:
    """The figure of `plot_plain_and_residual` in words, from the same data."""
    ends = last_rows(runs).groupby(["kind", "depth"])[["train_error", "test_error"]].mean()
    sentences = [
        f"{kind.capitalize()} net of {depth} layers: training error {row.train_error:.1f} %, test error "
        f"{row.test_error:.1f} %."
        for (kind, depth), row in ends.iterrows()
    ]
    return (
        "Error in percent against training steps, plain nets on the left, residual nets on the right; dashed lines are "
        f"training error, solid lines test error. At the last step: {' '.join(sentences)} Drawn from: {stamp(runs)}."
    )


class Picture:
    """A figure for a notebook: an HTML image with `alt` text, and the same words below it."""

    def __init__(self, figure: Figure, description: str):
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, facecolor="white")
        plt.close(figure)
        self.png, self.description = base64.b64encode(stream.getvalue()).decode(), html.escape(description)

    def _repr_html_(self) -> str:
        return (
            f'<figure><img alt="{self.description}" src="data:image/png;base64,{self.png}" style="max-width: 100%">'
            f"<figcaption><small>{self.description}</small></figcaption></figure>"
        )
