import math
from statistics import mean

import pytest
import torch
from mutants import assert_named, parametrised
from torch import nn

from helpers import checks
from helpers.analysis import norms_of_3x3


def pooled(sums, root=True, centre=True):
    count, total, squares = (sum(column) for column in zip(*sums, strict=True))
    variance = squares / count - (total / count) ** 2 * centre
    return math.sqrt(variance) if root else variance


def sample(sums):
    count, total, squares = (sum(column) for column in zip(*sums, strict=True))
    return math.sqrt((squares - total**2 / count) / (count - 1))


def by_torch(sums):
    count, total, squares = torch.tensor(sums).sum(0)  # float32
    return (squares / count - (total / count) ** 2).sqrt()


def root_of_negative(sums):
    count, total, squares = (sum(column) for column in zip(*sums, strict=True))
    return math.sqrt(squares / count - total**2 / count)


def subtracted(sums, what):
    """A wrong deviation: the root of the mean square less `what`."""
    count, total, squares = (sum(column) for column in zip(*sums, strict=True))
    return (squares / count - what(total, count)) ** 0.5


@pytest.mark.parametrize("answer", [pooled, sample, by_torch])
def test_a_right_deviation_is_accepted(answer):
    assert checks.check_pooled(answer).state == "right"


@parametrised(
    [
        (lambda sums: mean(pooled([batch]) for batch in sums), "batches' standard deviations"),
        (lambda sums: sum(b[0] * pooled([b]) for b in sums) / sum(b[0] for b in sums), "batches' standard deviations"),
        (lambda sums: math.sqrt(mean(pooled([b], root=False) for b in sums)), "batches' variances"),
        (lambda sums: pooled(sums, root=False), "the variance: take"),
        (lambda sums: pooled(sums, centre=False), "the mean is not subtracted"),
        (lambda sums: pooled(sums[-1:]), "the last batch"),
        (lambda sums: sum(b[1] for b in sums) / sum(b[0] for b in sums), "mean of all elements"),
        (
            lambda sums: math.sqrt(mean(b[2] / b[0] for b in sums) - mean(b[1] / b[0] for b in sums) ** 2),
            "counts alike",
        ),
        (lambda sums: subtracted(sums, lambda total, count: total / count), "the mean is not squared"),
        (lambda sums: subtracted(sums, lambda total, count: total**2 / count), "it is the mean that is squared"),
        (root_of_negative, "the root is of a negative number"),
        (lambda sums: abs(subtracted(sums, lambda total, count: total**2 / count)), "square the mean"),
        (lambda sums: pooled(sums) * math.sqrt(sum(b[0] for b in sums)), "are not divided by the count"),
        (lambda sums: [pooled([batch]) for batch in sums], "one number is wanted"),
        (lambda sums: print(pooled(sums)), "returns nothing"),
        (lambda sums: 1.0, "and yours is 1.000"),
    ]
)
def test_a_wrong_deviation_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_pooled(mutant), phrase)


def layers(network, kernel=(3, 3)):
    convolutions = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    return [name for name, module in convolutions if kernel is None or module.kernel_size == kernel]


@pytest.mark.parametrize("answer", [layers, lambda network: list(norms_of_3x3(network)), norms_of_3x3])
def test_right_layers_are_accepted(answer):
    assert checks.check_layers(answer).state == "right"


@parametrised(
    [
        (lambda network: layers(network, None), "a projection on a shortcut"),
        (lambda network: [name for name in layers(network, None) if "shortcut" not in name], "bottleneck"),
        (lambda network: [n for n in layers(network, None) if n[-5:] in ("tem.0", "conv1", "conv2")], "bottleneck"),
        (lambda network: [n for n in layers(network) if n[-5:] in ("tem.0", "conv1")], "missing"),
        (lambda network: layers(network)[1:], "the first convolution is missing"),
        (lambda network: layers(network)[::2], "missing"),
        (lambda network: [*layers(network), "fc"], "classifier"),
        (lambda network: [n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)], "normalisations"),
        (lambda network: sorted(layers(network)), "another order"),
        (lambda network: layers(network) * 2, "twice"),
        (lambda network: [m for m in network.modules() if isinstance(m, nn.Conv2d)], "names of modules"),
        (lambda network: [f"{name}.weight" for name in layers(network)], "names of modules"),
        (lambda network: print(layers(network)), "returns nothing"),
        (lambda network: layers(network, 3), "a pair"),
    ]
)
def test_wrong_layers_are_told_their_mistake(mutant, phrase):
    assert_named(checks.check_layers(mutant), phrase)
