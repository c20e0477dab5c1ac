import math
import statistics

import pytest
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


@pytest.mark.parametrize("answer", [pooled, sample])
def test_a_right_deviation_is_accepted(answer):
    assert checks.check_pooled(answer).state == "right"


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (lambda sums: statistics.mean(pooled([batch]) for batch in sums), "batches' standard deviations"),
        (lambda sums: sum(b[0] * pooled([b]) for b in sums) / sum(b[0] for b in sums), "batches' standard deviations"),
        (lambda sums: math.sqrt(statistics.mean(pooled([b], root=False) for b in sums)), "batches' variances"),
        (lambda sums: pooled(sums, root=False), "the variance: take"),
        (lambda sums: pooled(sums, centre=False), "the mean is not subtracted"),
        (lambda sums: pooled(sums[-1:]), "the last batch"),
        (lambda sums: sum(b[1] for b in sums) / sum(b[0] for b in sums), "mean of all elements"),
        (lambda sums: 1.0, "the values are not"),
    ],
)
def test_a_wrong_deviation_is_told_its_mistake(answer, named):
    verdict = checks.check_pooled(answer)
    assert verdict.state == "wrong"
    assert named in verdict.message


def layers(network, kernel=(3, 3)):
    convolutions = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    return [name for name, module in convolutions if kernel is None or module.kernel_size == kernel]


@pytest.mark.parametrize("answer", [layers, lambda network: list(norms_of_3x3(network)), norms_of_3x3])
def test_right_layers_are_accepted(answer):
    assert checks.check_layers(answer).state == "right"


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (lambda network: layers(network, None), "1x1"),
        (lambda network: layers(network)[1:], "the first convolution is missing"),
        (lambda network: layers(network)[::2], "missing"),
        (lambda network: [*layers(network), "fc"], "classifier"),
        (lambda network: [n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)], "normalisations"),
        (lambda network: sorted(layers(network)), "another order"),
        (lambda network: layers(network) * 2, "twice"),
        (lambda network: [m for m in network.modules() if isinstance(m, nn.Conv2d)], "names are wanted"),
        (lambda network: layers(network, (5, 5)), "empty"),
    ],
)
def test_wrong_layers_are_told_their_mistake(answer, named):
    verdict = checks.check_layers(answer)
    assert verdict.state == "wrong"
    assert named in verdict.message


@pytest.mark.parametrize("check", [checks.check_pooled, checks.check_layers])
def test_a_stub_is_unsolved(check):
    def stub(*_):
        raise NotImplementedError

    assert check(stub).state == "unsolved"
