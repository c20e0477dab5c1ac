import itertools

import pytest
import torch
from matplotlib.colors import to_hex

from helpers.pictures import describe_blocks, plot_blocks, plot_boxes, plot_pictures


def test_pictures_stand_in_rows_under_their_titles_with_a_stamp():
    images = [torch.full((3, 8, 12), number / 10) for number in range(7)]
    figure = plot_pictures(images, [f"image {number}" for number in range(7)], "what they are", columns=5)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(figure.axes) == 10 and len(shown) == 7
    assert [ax.get_title() for ax in shown] == [f"image {number}" for number in range(7)]
    assert shown[3].images[0].get_array().shape == (8, 12, 3)
    assert figure.get_supxlabel() == "what they are"


def test_only_rows_with_titles_have_room_for_them():
    images = [torch.zeros(3, 8, 8)] * 4
    titles = {0: [""] * 4, 1: ["a", "", "", ""], 2: ["a", "b", "c", ""], 3: ["a", "b\nb", "c", ""]}
    heights = [plot_pictures(images, titles[lines], "stamp", columns=2).get_figheight() for lines in titles]
    steps = [high - low for low, high in itertools.pairwise(heights)]
    assert steps == pytest.approx([0.2] * 3) and 7.5 < heights[0] < 8.1


def test_boxes_lie_where_they_are_and_classes_differ_in_colour_and_line():
    ax = plot_pictures([torch.zeros(3, 50, 60)], ["one"], "stamp", columns=1).axes[0]
    boxes = torch.tensor([[5.0, 10, 25, 40], [30, 5, 50, 15]])
    plot_boxes(boxes, torch.tensor([0, 2]), ["disc", "plus", "triangle"], ax, torch.tensor([0.9, 0.25]))
    first, second = ax.patches
    assert (first.get_xy(), first.get_width(), first.get_height()) == ((5, 10), 20, 30)
    assert to_hex(first.get_edgecolor()) != to_hex(second.get_edgecolor())
    assert first.get_linestyle() != second.get_linestyle()
    assert [text.get_text() for text in ax.texts] == ["disc 0.90", "triangle 0.25"]


BLOCKS = {"plain": ["3×3 conv", "BN", "ReLU"], "residual": ["3×3 conv", "BN", "+", "ReLU"]}


def test_a_block_is_a_chain_of_steps_and_its_shortcut_leads_from_x_to_the_addition():
    figure = plot_blocks(BLOCKS, "the paper's Fig. 2")
    plain, residual = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["plain", "residual"]
    boxes = [text.get_text() for text in plain.texts if text.get_text()]
    assert boxes == ["$x$", "3×3 conv", "BN", "ReLU", "$y$"]
    heights = {text.get_text(): text.get_position()[1] for text in residual.texts}
    assert heights["$x$"] > heights["3×3 conv"] > heights["BN"] > heights["$+$"] > heights["ReLU"] > heights["$y$"]
    [stem, shortcut] = residual.lines
    assert len(plain.lines) == 1 and "identity" in heights
    begin, *_, end = shortcut.get_ydata()
    assert heights["$x$"] > begin > heights["3×3 conv"] and end == heights["$+$"]
    assert min(stem.get_ydata()) < begin, "it leaves the chain where the chain is drawn"
    assert figure.get_supxlabel() == "the paper's Fig. 2"


def test_steps_of_one_kind_have_one_colour_and_unknown_ones_none():
    [ax] = plot_blocks({"": ["3×3 conv", "1×1 conv, 256", "BN", "ReLU", "gate"]}, "").axes
    fills = [to_hex(box.get_facecolor()) for box in ax.patches]
    assert fills[0] == fills[1] and len(set(fills)) == 4 and fills[-1] == "#ffffff"


def test_a_block_in_words_goes_from_x_to_y():
    assert describe_blocks(BLOCKS) == (
        "Plain: x → 3×3 conv → BN → ReLU → y. Residual: x → 3×3 conv → BN → + x → ReLU → y."
    )
