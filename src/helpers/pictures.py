"""Images side by side, with boxes where there are objects; and blocks of layers as chains of steps."""

from math import ceil

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from helpers.plotting import COLOURS, SMALL, WIDTH, put_stamp

LINES = ["-", "--", ":", "-."]
# by the first of these words that a step has
FILL = {"conv": "#DCEBF7", "fc": "#DCEBF7", "ReLU": "#FBE3D2", "BN": "#F4F4F4"}
STEM = {"color": "#444444", "arrowstyle": "-|>", "lw": 1}
SHORTCUT = {"color": "#0072B2", "lw": 2}


def plot_pictures(images: list[Tensor], titles: list[str], stamp: str, columns: int = 5) -> Figure:
    """Images (3, h, w), uint8 or float from 0 to 1, each under its title, and below all what they were made from."""
    rows = ceil(len(images) / columns)
    shape = max(image.shape[1] / image.shape[2] for image in images)
    lines = sum(max(map(lines_of, titles[columns * row :][:columns])) for row in range(rows))
    height = rows * (WIDTH / columns * shape + 0.05) + 0.2 * lines + 0.4  # inches, with the stamp's
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image.permute(1, 2, 0).numpy())
        ax.set_title(title, fontsize=SMALL)
    put_stamp(figure, stamp)
    return figure


def lines_of(title: str) -> int:
    """Rows of text: none in an empty title."""
    return title.count("\n") + 1 if title else 0


def plot_boxes(boxes: Tensor, labels: Tensor, names: list[str], ax: Axes, scores: Tensor | None = None) -> Axes:
    """Boxes (n, 4) in the picture on `ax`, with the names of their labels (n,) and, if given, their scores (n,)."""
    for number, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        left, top, right, bottom = box
        look = {"edgecolor": COLOURS[label % 4], "linestyle": LINES[label % 4], "linewidth": 2}
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **look))
        text = names[label] if scores is None else f"{names[label]} {scores[number]:.2f}"
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
        ax.text(left, top, text, fontsize=SMALL - 2, va="bottom", color="black", bbox=paper, clip_on=True)
    return ax


def plot_blocks(blocks: dict[str, list[str]], stamp: str) -> Figure:
    """Blocks by their titles, each a chain of steps from x down to y; to a step "+" leads the shortcut, from x."""
    longest, half = max(map(len, blocks.values())), max(1.5, 4.5 / len(blocks))  # a box is never wider than in three
    size = {"figsize": (WIDTH, 0.42 * longest + 1.2), "squeeze": False, "layout": "constrained"}
    figure, (axes,) = plt.subplots(1, len(blocks), **size)
    for ax, (title, steps) in zip(axes, blocks.items(), strict=True):
        ax.set(title=title, xlim=(0.25 - half, 0.25 + half), ylim=(-longest - 0.4, 1.3))
        ax.axis("off")
        ax.text(0, 1.1, "$x$", ha="center", va="center")
        ax.plot([0, 0], [0.6, 0.88], color=STEM["color"], lw=STEM["lw"])
        for number, step in enumerate(steps):
            draw_step(ax, -number, step)
        ax.annotate("", (0, 0.2 - len(steps)), (0, 0.68 - len(steps)), arrowprops=STEM)
        ax.text(0, -0.1 - len(steps), "$y$", ha="center", va="center")
    put_stamp(figure, stamp)
    return figure


def draw_step(ax: Axes, y: float, step: str) -> None:
    """One step at height `y` with the arrow that leads to it; an addition with the shortcut too."""
    if step == "+":
        circle = {"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": "black"}
        radius = {"shrinkB": 9}  # points, as the letter is: the arrows end at the circle in panels of any width
        ax.annotate("", (0, y), (0, y + 0.68), arrowprops=STEM | radius)
        ax.plot([0, 1.3, 1.3], [0.75, 0.75, y], **SHORTCUT)
        ax.annotate("", (0, y), (1.3, y), arrowprops=SHORTCUT | radius | {"arrowstyle": "-|>", "shrinkA": 0})
        ax.text(0, y, "$+$", ha="center", va="center", bbox=circle)
        beside = {"color": SHORTCUT["color"], "fontsize": SMALL, "rotation": 90, "va": "center"}
        ax.text(1.38, y / 2 + 0.4, "identity", **beside)
    else:
        fill = next((colour for word, colour in FILL.items() if word in step), "white")
        look = {"boxstyle": "round,pad=0,rounding_size=0.1", "facecolor": fill, "edgecolor": "#444444", "lw": 0.8}
        ax.annotate("", (0, y + 0.32), (0, y + 0.68), arrowprops=STEM)
        ax.add_patch(FancyBboxPatch((-0.95, y - 0.3), 1.9, 0.6, **look))
        ax.text(0, y, step, ha="center", va="center", fontsize=SMALL)


def describe_blocks(blocks: dict[str, list[str]]) -> str:
    """`plot_blocks` in words."""

    def chain(steps: list[str]) -> str:
        return " → ".join(["x", *("+ x" if step == "+" else step for step in steps), "y"])

    return " ".join(f"{title[0].upper()}{title[1:]}: {chain(steps)}." for title, steps in blocks.items())
