"""Images side by side, with boxes where there are objects."""

from math import ceil

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from helpers.plotting import SMALL, WIDTH, put_stamp

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]  # Okabe and Ito's
LINES = ["-", "--", ":", "-."]


def plot_pictures(images: list[Tensor], titles: list[str], stamp: str, columns: int = 5) -> Figure:
    """Images (3, h, w), uint8 or float from 0 to 1, each under its title, and below all what they were made from."""
    rows = ceil(len(images) / columns)
    shape = max(image.shape[1] / image.shape[2] for image in images)
    size = (WIDTH, rows * (WIDTH / columns * shape + 0.35) + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image.permute(1, 2, 0).numpy())
        ax.set_title(title, fontsize=SMALL)
    put_stamp(figure, stamp)
    return figure


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
