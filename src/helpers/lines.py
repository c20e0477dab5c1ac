"""Lines from small tables that a notebook has just computed: the index along x, a line for each column."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plotting import WIDTH, add_legend, put_stamp, style

SAME = {"residual": "A"}  # drawn in the colour of the shortcut that it has


def plot_lines(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A line for each column, named by it; dashed for "plain"."""
    ax = ax or plt.subplots(figsize=(WIDTH, 4))[1]
    for name, values in table.items():
        look = style("shortcut", SAME.get(name, name)) | {"label": name}
        look |= {"ls": "--", "mfc": "white"} if name == "plain" else {}
        ax.plot(values, **look, markevery=max(1, len(values) // 6))
    ax.set(xlabel=table.index.name)
    ax.legend()
    return ax


def plot_panels(tables: dict[str, pd.DataFrame], ylabel: str, stamp: str, **scales: str) -> Figure:
    """A panel for each table by its title, on one scale; `scales` as xscale="log", yscale="log"."""
    size = {"figsize": (WIDTH, 3.8), "sharey": True, "squeeze": False, "layout": "constrained"}
    figure, (axes,) = plt.subplots(1, len(tables), **size)
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        plot_lines(table, ax).set(title=title, **scales)
    axes[0].set(ylabel=ylabel)
    figure.get_layout_engine().set(wspace=0.06)
    add_legend(figure, list(axes))
    put_stamp(figure, stamp)
    return figure


def describe_lines(tables: dict[str, pd.DataFrame], ylabel: str, stamp: str) -> str:
    """`plot_panels` in words: where each line begins and ends, and its extremes if they lie in between."""

    def course(values: pd.Series) -> str:
        first, last = short(values.iloc[0]), short(values.iloc[-1])
        extremes = {"lowest": short(values.min()), "highest": short(values.max())}
        between = [f"{name} {value}" for name, value in extremes.items() if value not in (first, last)]
        return f"from {first} to {last}" + (f" ({', '.join(between)})" if between else "")

    sentences = []
    for title, table in tables.items():
        first, last = table.index[0], table.index[-1]
        courses = [f"{name} {course(values)}" for name, values in table.items()]
        sentences.append(
            f"{title[0].upper()}{title[1:]}, {table.index.name} from {first:g} to {last:g}: {', '.join(courses)}"
        )
    return f"{ylabel[0].upper()}{ylabel[1:]}. {'. '.join(sentences)}. Drawn from: {stamp}."


def short(value: float) -> str:
    """In two digits, what can be read off a line, without an exponent as long as there is another way."""
    return f"{float(f'{value:.2g}'):g}"
