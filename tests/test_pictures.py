import torch
from matplotlib.colors import to_hex

from helpers.pictures import plot_boxes, plot_pictures


def test_pictures_stand_in_rows_under_their_titles_with_a_stamp():
    images = [torch.full((3, 8, 12), number / 10) for number in range(7)]
    figure = plot_pictures(images, [f"image {number}" for number in range(7)], "what they are", columns=5)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(figure.axes) == 10 and len(shown) == 7
    assert [ax.get_title() for ax in shown] == [f"image {number}" for number in range(7)]
    assert shown[3].images[0].get_array().shape == (8, 12, 3)
    assert figure.get_supxlabel() == "what they are"


def test_boxes_lie_where_they_are_and_classes_differ_in_colour_and_line():
    ax = plot_pictures([torch.zeros(3, 50, 60)], ["one"], "stamp", columns=1).axes[0]
    boxes = torch.tensor([[5.0, 10, 25, 40], [30, 5, 50, 15]])
    plot_boxes(boxes, torch.tensor([0, 2]), ["disc", "plus", "triangle"], ax, torch.tensor([0.9, 0.25]))
    first, second = ax.patches
    assert (first.get_xy(), first.get_width(), first.get_height()) == ((5, 10), 20, 30)
    assert to_hex(first.get_edgecolor()) != to_hex(second.get_edgecolor())
    assert first.get_linestyle() != second.get_linestyle()
    assert [text.get_text() for text in ax.texts] == ["disc 0.90", "triangle 0.25"]
