"""Notebook 00: an exercise to see how exercises work."""

import torch

from helpers.checks.verdict import exercise, match


@exercise("write relu(x), which puts 0 in the place of every negative element of x and leaves the others as they are")
def check_relu(relu) -> str:
    """relu: Tensor of any shape -> Tensor of that shape."""
    x = torch.tensor([[-2.0, -0.5, 0.0], [0.5, 1.0, 30.0]])
    mistakes = {
        "the negative elements should become 0, and yours lost only their sign: that is the absolute value": x.abs(),
        "it is the negative elements that become 0, and yours are the positive ones": x.clamp(max=0),
        "the negative elements should become 0, and yours drops them all: keep the shape": x[x > 0],
        "zeros and ones say where x is positive: multiply them by x": (x > 0).float(),
        "the elements above 1 should stay as they are; yours are cut off at 1": x.clamp(0, 1),
        "the elements above 6 should stay as they are: that is ReLU6": x.clamp(0, 6),
        "that is x itself: nothing has become 0": x,
        "the negative elements should become 0, and yours are only made smaller: that is a leaky ReLU": [
            torch.where(x > 0, x, slope * x) for slope in (0.01, 0.1, 0.2)
        ],
    }
    match(relu(x.clone()), x.clamp(min=0), mistakes)
    return "negative elements become 0, the others stay. This is how every exercise of the course answers."
