import pytest
import torch
import torch.nn.functional as F
from mutants import assert_named, parametrised

from helpers import checks


@pytest.mark.parametrize(
    "answer",
    [
        F.relu,
        torch.nn.ReLU(),
        torch.relu_,
        lambda x: x.clamp(min=0),
        lambda x: (x + x.abs()) / 2,
        lambda x: x * (x > 0),
    ],
)
def test_every_right_way_is_accepted(answer):
    assert checks.check_relu(answer).state == "right"


@parametrised(
    [
        (torch.abs, "absolute value"),
        (lambda x: x.clamp(max=0), "yours are the positive ones"),
        (lambda x: x[x > 0], "keep the shape"),
        (lambda x: (x > 0).float(), "multiply them by x"),
        (lambda x: x.clamp(0, 1), "cut off at 1"),
        (F.relu6, "ReLU6"),
        (lambda x: x, "nothing has become 0"),
        (F.leaky_relu, "leaky ReLU"),
        (lambda x: max(x, 0), "your code stopped with"),
    ]
)
def test_a_wrong_one_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_relu(mutant), phrase)
