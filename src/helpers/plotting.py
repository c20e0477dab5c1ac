"""Figures from tables: `plot_*` draw on an `Axes` and return it, `describe_*` say the same in words, `show` shows both.

Tables are those of `load_runs`. An empty one makes an empty figure that says so.
"""

import base64
import html
import io
import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from helpers.config import Schedule

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]  # Okabe and Ito's, safe for the colour-blind
STYLE = {"font.size": 12, "axes.titlesize": 13, "legend.fontsize": 11, "legend.frameon": False, "lines.markersize": 5}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": cycler(color=COLOURS)}
plt.rcParams.update(STYLE)  # for the whole session: what a notebook draws itself then looks the same

WIDTH, SMALL, PIXELS = 7.5, 9.5, 110  # inches, points, and a page's pixels an inch: readable at half the size too
# Colour and marker of each depth, shortcut and precision. Okabe and Ito's colours are for depths; kinds of nets and
# precisions are neutral, other shortcuts take what is left: no look means two things, whichever figures you compare.
STYLES = {8: "#56B4E9 P", 20: "#0072B2 o", 32: "#E69F00 s", 44: "#009E73 ^", 56: "#D55E00 D", 110: "#CC79A7 v"}
STYLES |= {1202: "#000000 X", "plain": "#777777 D", "A": "#000000 o", "B": "#882255 P", "C": "#999933 *"}
STYLES |= {"float32": "#000000 <", "bfloat16": "#777777 >"}
LABELS = {"depth": "{} layers", "shortcut": "residual ({})", "precision": "{}"}
# A page's dark theme turns drawings dark too: white becomes the page's #111, and hues stay what they are.
DARK = 'body[data-jp-theme-light="false"] img.drawing {filter: invert(0.933) hue-rotate(180deg)}'
# centres pandas' head of several columns, which JupyterLab would put over the last of them
HEADS = ".jp-RenderedHTMLCommon.jp-RenderedHTMLCommon th[colspan] {text-align: center; border-bottom: 1px solid}"
FULL_SCHEDULE = Schedule().steps
RUN = ["suite", "network", "seed"]
NET = ["kind", "depth", "shortcut", "precision", "suite", "network"]
NOTHING = "Nothing is recorded yet."


def style(by: str, value) -> dict[str, str]:
    """Colour, marker and label; a value that is not in STYLES is grey, with itself as its marker."""
    colour, marker = STYLES.get(value, f"#666666 ${value}$").split(maxsplit=1)
    return {"color": colour, "marker": marker, "label": "plain" if value == "plain" else LABELS[by].format(value)}


def last_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """The last iteration of each run: what is reported, whichever epoch was best."""
    runs = runs.reset_index(drop=True)  # concatenated tables may repeat labels
    return runs if runs.empty else runs.loc[runs.groupby(RUN).step.idxmax()].reset_index(drop=True)


def several(runs: pd.DataFrame) -> bool:
    """Whether a network has more than one seed."""
    return (runs.groupby(["suite", "network"]).seed.nunique() > 1).any()


def farthest(runs: pd.DataFrame) -> pd.DataFrame:
    """Without runs that lag behind another seed of their network: a mean over both would belong to neither step."""
    ends = runs.groupby(RUN).step.transform("max")
    return runs[ends == ends.groupby([runs.suite, runs.network]).transform("max")]


def stamp(runs: pd.DataFrame) -> str:
    """What a figure was drawn from: suite, steps, seeds, data, precision."""
    if runs.empty:
        return NOTHING
    every = runs.drop_duplicates(RUN)
    columns = {"suite": "", "steps": ",", "seed": "", "data": "", "precision": ""}
    of = {name: ", ".join(format(v, how) for v in sorted(every[name].unique())) for name, how in columns.items()}
    fewer = " (some nets fewer)" if every.groupby(["suite", "network"]).size().nunique() > 1 else ""
    unfinished = len(every) - every.finished.sum()
    end = f" · {unfinished} of {len(every)} runs unfinished" if unfinished else ""
    return "suite {suite} · {steps} steps · seed {seed}{} · {data} · {precision}{}".format(fewer, end, **of)


def put_stamp(figure: Figure, words: str) -> None:
    """Write below a figure, in small letters, what it was drawn from."""
    lines = textwrap.fill(words, 95, break_on_hyphens=False)
    figure.supxlabel(lines, fontsize=SMALL, color="#444444")


def panels(runs: pd.DataFrame, rows: int = 1, columns: int = 1, height: float = 4, sharey: bool = False):
    """A figure and the list of its axes, with the stamp of `runs` below."""
    size = {"figsize": (WIDTH, height), "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(rows, columns, sharey=sharey, **size)
    figure.get_layout_engine().set(wspace=0.06)  # the last tick of one panel is not read with the first of the next
    put_stamp(figure, stamp(runs))
    for ax in axes.flat:
        ax.axison = not runs.empty
    return figure, list(axes.flat)


def add_legend(owner: Axes | Figure, axes: list[Axes]) -> None:
    """One entry for each label in `axes`, those of line styles last; a figure's legend replaces those of its panels."""
    entries = {}
    for ax in axes:
        entries |= {text: handle for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
        if ax.get_legend():
            ax.get_legend().remove()
    labels = sorted(entries, key=lambda text: text in ("training", "test"))
    columns = len(labels) if len(labels) < 6 else (len(labels) + 1) // 2
    where = {"loc": "outside upper center", "ncols": columns} if isinstance(owner, Figure) else {}
    owner.legend([entries[text] for text in labels], labels, **where)


def scale(ax: Axes, values: pd.Series) -> None:
    """From zero up, or logarithmic where a few values would flatten all others."""
    if values.min() > 0 and values.max() > 6 * values.median():
        ax.set_yscale("log")
        ticks = LogLocator(subs=(1, 2, 5) if values.max() > 20 * values.min() else (1, 2, 3, 5, 7))
        ax.yaxis.set(major_locator=ticks, minor_locator=NullLocator(), major_formatter="{x:g}")
        ax.set_ylabel(f"{ax.get_ylabel()}, log scale")
    else:
        ax.set_ylim(0, 1.05 * values.max() or 1)


def plot_curves(runs: pd.DataFrame, ax: Axes | None = None, by: str = "depth") -> Axes:
    """Error against steps as in Fig. 6: a colour and marker for each depth, dashed for training, solid for test.

    A line is the mean over a network's seeds, its band spans the lowest to the highest; dotted lines mark where the
    rate falls. `by`, what the colours stand for, may also be "shortcut" or "precision".
    """
    ax = ax or panels(runs)[1][0]
    if runs.empty:
        return ax
    for number, ((value, *_), net) in enumerate(farthest(runs).groupby([by, "suite", "network"])):
        look = style(by, value)
        for measure, line in (("train_error", {"ls": "--", "lw": 1.2, "mfc": "white"}), ("test_error", {"lw": 2})):
            seeds = net.groupby("step")[measure]
            every = max(1, len(seeds) // 8)  # a marker at each of 128 points would hide the line
            ax.plot(seeds.mean(), markevery=(number * every // 3 % every, every), **look, **line)
            if net.seed.nunique() > 1:
                ax.fill_between(seeds.min().index, seeds.min(), seeds.max(), color=look["color"], alpha=0.15, lw=0)
    for step in falls(runs):
        ax.axvline(step, color="#999999", ls=":", lw=0.8, zorder=0)
    ax.plot([], [], color="#444444", ls="--", lw=1.2, label="training")
    ax.plot([], [], color="#444444", lw=2, label="test")
    ax.set(xlabel="steps", ylabel="error (%)", xlim=(0, None), ylim=(0, frame(runs)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    add_legend(ax, [ax])
    return ax


def falls(runs: pd.DataFrame) -> list[int]:
    """The steps so far at which the recipe's rate falls; none if the runs are of several lengths."""
    lengths = set(runs.steps)
    milestones = Schedule().shortened(lengths.pop()).milestones if len(lengths) == 1 else ()
    return [step for step in milestones if step < runs.step.max()]


def frame(runs: pd.DataFrame) -> float:
    """The highest error shown: 20 % for the full schedule, as in Fig. 6, else what holds all but the first tenth."""
    if runs.steps.min() >= FULL_SCHEDULE:
        return 20
    later = runs[runs.step >= min(runs.step.max(), 0.1 * runs.steps.max())]
    return 1.05 * later[["train_error", "test_error"]].max().max()


def plot_responses(responses: pd.DataFrame, ax: Axes | None = None, ordered: bool = False) -> Axes:
    """Fig. 7: the standard deviation of each layer's response, mean over seeds; dashed for plain nets.

    `responses` as `identify` gives them; the layers in their order, or `ordered` from the largest to the smallest.
    """
    ax = ax or panels(responses)[1][0]
    if responses.empty:
        return ax
    for (kind, depth, *_, network), net in responses.groupby(NET):
        values = net.groupby("layer", sort=False)["std"].mean()
        values = (values.sort_values(ascending=False) if ordered else values).set_axis(range(1, len(values) + 1))
        look = style("depth", depth) | {"label": network, "markevery": max(1, len(values) // 6)}
        ax.plot(values, **look, **({"ls": "--", "mfc": "white"} if kind == "plain" else {}))
    order = "layers, sorted by their standard deviation" if ordered else "layers, in their order"
    ax.set(xlabel=order, ylabel="std of response", xlim=(0, None))
    ax.locator_params(axis="x", integer=True)
    scale(ax, responses["std"])
    add_legend(ax, [ax])
    return ax


def plot_errors(runs: pd.DataFrame, ax: Axes | None = None, measure: str = "test_error") -> Axes:
    """Error at the last step against depth: a point for each seed, a line through the means, dashed for plain nets.

    `measure` is "test_error" or "train_error".
    """
    ax = ax or panels(runs)[1][0]
    if runs.empty:
        return ax
    ends = last_rows(farthest(runs))
    depths = sorted(ends.depth.unique())
    place = {depth: number for number, depth in enumerate(depths)}
    for (kind, shortcut, *_), nets in ends.groupby(["kind", "shortcut", "precision", "suite"]):
        look, line = style("shortcut", shortcut), "--" if kind == "plain" else "-"
        ax.plot(nets.groupby("depth")[measure].mean().rename(place), color=look["color"], ls=line, lw=1.5)
        ax.plot(nets.depth.map(place), nets[measure], ls="", ms=7, mfc="none", **look)
    ax.set(xlabel="layers (evenly spaced)", ylabel=f"{measure.replace('_', ' ').replace('train', 'training')} (%)")
    ax.set(xticks=range(len(depths)), xticklabels=depths, xlim=(-0.4, len(depths) - 0.6))
    scale(ax, ends[measure])
    add_legend(ax, [ax])
    return ax


def describe_ends(runs: pd.DataFrame) -> str:
    """Every net's errors at the last step in words, and what they are drawn from."""
    ends, words = last_rows(farthest(runs)), "Errors at the last step"
    if several(ends):
        words += ", as means over seeds, with the lowest and the highest test error"
    for (kind, shortcut, precision, suite), nets in ends.groupby(["kind", "shortcut", "precision", "suite"]):
        words += f". {kind.capitalize()} nets"
        words += f", option {shortcut}" if kind == "residual" else ""
        words += f", {precision}" if ends.precision.nunique() > 1 else ""
        words += f", suite {suite}" if ends.suite.nunique() > 1 else ""
        for number, (depth, seeds) in enumerate(nets.groupby("depth")):
            test = seeds.test_error
            words += f"{'; ' if number else ': '}{depth} layers {seeds.train_error.mean():.2f} % training, "
            words += f"{test.mean():.2f} %{f' ({test.min():.2f} to {test.max():.2f})' if len(test) > 1 else ''} test"
    return f"{words}. Drawn from: {stamp(runs)}."


def describe_curves(runs: pd.DataFrame) -> str:
    """`plot_curves` in words, and any figure made of it."""
    if runs.empty:
        return NOTHING
    words = "Error against training steps: training dashed, test solid"
    words += "; dotted lines where the learning rate falls" if falls(runs) else ""
    words += "; bands span the lowest to the highest seed" if several(farthest(runs)) else ""
    cut = runs[["train_error", "test_error"]].max().max() > frame(runs)
    words += f"; the axis ends at {frame(runs):.0f} %, and training starts above it" if cut else ""
    return f"{words}. {describe_ends(runs)}"


def describe_errors(runs: pd.DataFrame) -> str:
    """`plot_errors` in words, for both measures."""
    return NOTHING if runs.empty else f"Error against the number of layers, plain nets dashed. {describe_ends(runs)}"


def describe_responses(responses: pd.DataFrame) -> str:
    """`plot_responses` in words, in either order."""
    if responses.empty:
        return NOTHING
    sentences = []
    for (*_, network), net in responses.groupby(NET):
        values = net.groupby("layer")["std"].mean()
        layers = f"{len(values)} layers from {values.min():.2f} to {values.max():.2f}"
        sentences.append(f"{network}: {layers}, median {values.median():.2f}")
    what = "each 3x3 layer's response, after batch normalisation, before ReLU or addition; plain nets dashed"
    what += "; means over seeds" if several(responses) else ""
    return f"Standard deviation of {what}. {'; '.join(sentences)}. Drawn from: {stamp(responses)}."


def show(figure: Figure, description: str) -> None:
    """Put a figure into a notebook as an image with `alt` text, the same words below it, and close it.

    The words that can be seen leave out the stamp, which the image has. On a dark page a drawing turns dark; a figure
    with an image in it, such as a photograph, stays as it is.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=200, facecolor="white")
    plt.close(figure)
    png, words = base64.b64encode(stream.getvalue()).decode(), html.escape(description)
    stamped = " ".join(figure.get_supxlabel().splitlines())
    below = html.escape(description.replace(f" Drawn from: {stamped}.", ""))
    kind = "picture" if any(ax.images for ax in figure.axes) else "drawing"
    image = f'<img class="{kind}" alt="{words}" width="{PIXELS * figure.get_figwidth():.0f}"'
    image += f' src="data:image/png;base64,{png}">'
    markup = f'<style>{DARK} {HEADS}</style>{image}<p style="font-size: 90%">{below}</p>'
    display({"text/html": markup, "text/plain": description}, raw=True)
