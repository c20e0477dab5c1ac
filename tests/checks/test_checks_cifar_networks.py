import pytest
import torch
import torch.nn.functional as F
from mutants import assert_named, parametrised
from torch import nn

from helpers import checks
from helpers.models import BasicBlock, ResNet, cifar_spec


def stages(n, widths=(16, 32, 64), blocks=None, stride=lambda stage, i: 2 if stage and not i else 1, shortcut="A"):
    made, channels = [], widths[0]
    for stage, width in enumerate(widths):
        for i in range(blocks or n):
            made.append(BasicBlock(channels, width, stride(stage, i), shortcut))
            channels = width
    return nn.Sequential(*made)


def stem(width=16, kernel=3, padding=1, **options):
    conv = nn.Conv2d(3, width, kernel, padding=padding, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class Average(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def net(n, front=None, middle=None, pool=None, last=None):
    """The answer, or with another part."""
    return nn.Sequential(front or stem(), middle or stages(n), pool or Average(), last or nn.Linear(64, 10))


class Pool(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, x):
        return self.pool(x)


def with_part(**parts):
    return lambda n: net(n, **{name: make(n) for name, make in parts.items()})


def behind(*more):
    return with_part(last=lambda n: nn.Sequential(nn.Linear(64, 10), *more))


def pooled(pool):
    return with_part(pool=lambda n: Pool(pool))


def strided(stride):
    return with_part(middle=lambda n: stages(n, stride=stride))


class Late(BasicBlock):
    """Its second convolution has the stride."""

    def __init__(self, in_channels, width):
        super().__init__(in_channels, width, 2)
        self.conv1.stride, self.conv2.stride = (1, 1), (2, 2)


def late(n):
    blocks = stages(n)
    blocks[n], blocks[2 * n] = Late(16, 32), Late(32, 64)
    return blocks


def reused(n):
    block = BasicBlock(16, 16)
    blocks = stages(n)
    blocks[0] = block
    blocks[min(1, n - 1)] = block
    return blocks


def multiplied(n):
    first = [BasicBlock(16, 16), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2)]
    more = [BasicBlock(width, width) for width in (16, 32, 64)]
    return nn.Sequential(*(block for i in range(3) for block in [first[i]] + [more[i]] * (n - 1)))


class Listed(nn.Module):
    """Its blocks are in a list, where neither an optimiser nor `double` finds them."""

    def __init__(self, n):
        super().__init__()
        self.front, self.blocks, self.last = stem(), list(stages(n)), nn.Linear(64, 10)

    def forward(self, x):
        x = self.front(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean((2, 3)))


def unused(n):
    network = net(n)
    network[0].more = nn.Linear(5, 5)
    network[0].forward = lambda x: network[0][2](network[0][1](network[0][0](x)))
    return network


def without_norm(n):
    front = stem()
    front[1] = nn.Identity()
    return front


BUILDS = {
    "n + 1": (lambda n: net(n + 1), "the net of n = 3"),
    "n - 1": (lambda n: net(max(1, n - 1)), "the net of n = 1"),
    "n ignored": (lambda n: net(3), "the net of n = 3"),
    "2n blocks": (lambda n: net(2 * n), "2n blocks a stage"),
    "no stride": (strided(lambda stage, i: 1), "no map is ever halved"),
    "stride in stage 1": (strided(lambda stage, i: 1 if i else 2), "stage 1 begins with maps of 16x16"),
    "stride in every block": (strided(lambda stage, i: 2 if stage else 1), "several blocks"),
    "stride in the last block": (strided(lambda stage, i: 2 if stage and i == 1 else 1), "within a stage"),
    "stride in the second convolution": (with_part(middle=late), "within a stage"),
    "stride 4": (strided(lambda stage, i: 4 if stage == 1 and not i else 1), "[32, 8]"),
    "stem with stride": (with_part(front=lambda n: stem(stride=2)), "maps of 16x16, and 32x32 is right"),
    "stem without padding": (with_part(front=lambda n: stem(padding=0)), "maps of 30x30, and 32x32 is right"),
    "stem of 7x7": (with_part(front=lambda n: stem(kernel=7, padding=3)), "all convolutions are 3x3"),
    "pooling behind the stem": (
        with_part(front=lambda n: nn.Sequential(stem(), nn.MaxPool2d(3, 2, 1))),
        "stage 1 begins with maps of 16x16",
    ),
    "wide": (
        with_part(
            front=lambda n: stem(64), middle=lambda n: stages(n, (64, 128, 256)), last=lambda n: nn.Linear(256, 10)
        ),
        "16, 32 and 64 filters",
    ),
    "two stages": (
        with_part(middle=lambda n: stages(n, (16, 32)), last=lambda n: nn.Linear(32, 10)),
        "the widths are [16, 32]",
    ),
    "no stem": (
        with_part(front=lambda n: nn.Identity(), middle=lambda n: nn.Sequential(BasicBlock(3, 16), *stages(n)[1:])),
        "first convolution is missing",
    ),
    "squeezed": (pooled(lambda x: x.mean((2, 3), keepdim=True).squeeze()), "squeeze() removes the batch's"),
    "no pooling": (
        with_part(pool=lambda n: nn.Flatten(), last=lambda n: nn.Linear(4096, 10)),
        "average the 8x8 maps",
    ),
    "no norm in the stem": (with_part(front=without_norm), "missing after the first convolution"),
    "no ReLU in the stem": (with_part(front=lambda n: stem()[:2]), "ReLU is missing after the first layer"),
    "ReLU before norm": (
        with_part(front=lambda n: nn.Sequential(*(stem()[i] for i in (0, 2)), stem()[1])),
        "before batch",
    ),
    "bias": (
        with_part(front=lambda n: nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *stem()[1:])),
        "a convolution has a bias",
    ),
    "max pooling": (pooled(lambda x: x.amax((2, 3))), "their maximum"),
    "sum": (pooled(lambda x: x.sum((2, 3))), "summed: average them"),
    "a corner": (pooled(lambda x: x[:, :, 0, 0]), "one pixel"),
    "softmax": (behind(nn.Softmax(1)), "softmax is applied"),
    "log-softmax": (behind(nn.LogSoftmax(1)), "log-softmax"),
    "ReLU at the end": (behind(nn.ReLU()), "ReLU is applied to the logits"),
    "two linear layers": (behind(nn.Linear(10, 10)), "2 fully connected"),
    "100 classes": (with_part(last=lambda n: nn.Linear(64, 100)), "10 classes"),
    "no classifier": (with_part(last=lambda n: nn.Identity()), "classifier is missing"),
    "no bias": (with_part(last=lambda n: nn.Linear(64, 10, bias=False)), "no bias"),
    "plain": (with_part(middle=lambda n: stages(n, shortcut="plain")), "no shortcuts"),
    "option B": (with_part(middle=lambda n: stages(n, shortcut="B")), "1x1 convolutions"),
    "a block used twice": (with_part(middle=reused), "a block is used twice"),
    "a block multiplied": (with_part(middle=multiplied), "a block is used twice"),
    "a list": (Listed, "nn.ModuleList"),
    "our plain net": (lambda n: ResNet(cifar_spec(6 * n + 2, "plain")), "no shortcuts"),
    "unused layer": (unused, "+30 parameters"),
    "images overwritten": (
        with_part(front=lambda n: nn.Sequential(nn.ReLU(inplace=True), *stem())),
        "does not know why",
    ),
    "a function": (lambda n: lambda x: x, "nn.Module is wanted"),
}


@parametrised(BUILDS)
def test_a_network_with_one_mistake_is_told_which(mutant, phrase):
    assert_named(checks.check_build(mutant), phrase)


class Backwards(nn.Module):
    """Right: layers made from the last to the first, functions instead of modules."""

    def __init__(self, n):
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.parts = nn.ModuleList(reversed(list(stages(n))))
        self.norm, self.conv = nn.BatchNorm2d(16), nn.Conv2d(3, 16, 3, padding="same", bias=False)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        for part in reversed(self.parts):
            x = part(x)
        return self.out(F.adaptive_avg_pool2d(x, 1).flatten(1))


RIGHT_BUILDS = {"net": net, "backwards": Backwards, "ours": lambda n: ResNet(cifar_spec(6 * n + 2))}


@pytest.mark.parametrize("build", RIGHT_BUILDS.values(), ids=RIGHT_BUILDS)
def test_right_networks_are_accepted(build):
    verdict = checks.check_build(build)
    assert verdict.state == "right", verdict


def by_layers(n, norm=2, biases=10, stem=3, kernel=3, per_stage=None, first=True):
    """The number of parameters, layer by layer; an argument changes one of the things that count."""
    layers = [(stem, 16)]
    for before, width in ((16, 16), (16, 32), (32, 64)):
        layers += [(before if first else width, width)] + [(width, width)] * ((per_stage or 2 * n) - 1)
    return sum(kernel**2 * a * b + norm * b for a, b in layers) + 640 + biases


COUNTS = {
    "no norm": (lambda n: by_layers(n, norm=0), "batch normalisation is left out"),
    "one a channel": (lambda n: by_layers(n, norm=1), "one number a channel"),
    "bias": (lambda n: by_layers(n, norm=3), "with a bias"),
    "averages": (lambda n: by_layers(n, norm=4), "moving averages"),
    "no classifier": (lambda n: by_layers(n) - 650, "the classifier is left out"),
    "no biases": (lambda n: by_layers(n, biases=0), "biases of the classifier"),
    "flattened": (lambda n: by_layers(n) + 63 * 640, "after maps of 8x8"),
    "no first layer": (lambda n: by_layers(n) - 27 * 16 - 32, "first layer is left out"),
    "no first norm": (lambda n: by_layers(n) - 32, "normalisation of the first layer"),
    "grey": (lambda n: by_layers(n, stem=1), "one channel"),
    "first of 16": (lambda n: by_layers(n, stem=16), "16 channels"),
    "same channels": (lambda n: by_layers(n, first=False), "half as many"),
    "1x1": (lambda n: by_layers(n, kernel=1), "1x1"),
    "n layers": (lambda n: by_layers(n, per_stage=n), "n layers a stage"),
    "2n blocks": (lambda n: by_layers(n, per_stage=4 * n), "2n blocks a stage"),
    "option B": (lambda n: by_layers(n) + 16 * 32 + 64 + 32 * 64 + 128, "option B"),
    "option B without norm": (lambda n: by_layers(n) + 16 * 32 + 32 * 64, "projections are counted"),
    "millions": (lambda n: by_layers(n) / 1e6, "in millions"),
    "text": (lambda n: f"{by_layers(n):,}", "of type str"),
    "nothing": (lambda n: None, "of type NoneType"),
    "n + 1": (lambda n: by_layers(n + 1), "for n + 1"),
    "n - 1": (lambda n: by_layers(n - 1), "for n - 1"),
    "off": (lambda n: by_layers(n) + 5, "+5"),
    "constant": (lambda n: 269722, "for n = 5"),
}


@parametrised(COUNTS)
def test_a_wrong_count_is_told_why(mutant, phrase):
    assert_named(checks.check_count(mutant), phrase)


@pytest.mark.parametrize("count", [by_layers, lambda n: 97216 * n - 21926, lambda n: 48608 * (2 * n) - 21926.0])
def test_right_counts_are_accepted(count):
    assert checks.check_count(count).state == "right"


def normal(variance):
    """Draws with the variance that a function of fan-in and fan-out gives."""
    return lambda o, i, k: torch.randn(o, i, k, k) * variance(i * k * k, o * k * k) ** 0.5


def uniform(bound):
    return lambda o, i, k: (2 * torch.rand(o, i, k, k) - 1) * bound(i * k * k)


def seeded(o, i, k):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(o, i, k, k, generator=generator) * (2 / (i * k * k)) ** 0.5


DRAWS = {
    "std": (normal(lambda a, b: (2 / a) ** 2), "as the standard deviation"),
    "fan-out": (normal(lambda a, b: 2 / b), "this is 2 / fan-out"),
    "no 2": (normal(lambda a, b: 1 / a), "1 / fan-in"),
    "channels": (lambda o, i, k: torch.randn(o, i, k, k) * (2 / i) ** 0.5, "leave out the kernel"),
    "kernel": (lambda o, i, k: torch.randn(o, i, k, k) * (2 / (i * k)) ** 0.5, "not kernel"),
    "always 3x3": (lambda o, i, k: torch.randn(o, i, k, k) * (2 / (9 * i)) ** 0.5, "always 3x3"),
    "Glorot": (normal(lambda a, b: 2 / (a + b)), "Glorot"),
    "uniform, wrong bound": (uniform(lambda a: (2 / a) ** 0.5), "a third"),
    "PyTorch's": (lambda o, i, k: nn.Conv2d(i, o, k).weight, "PyTorch's default"),
    "uniform, right variance": (uniform(lambda a: (6 / a) ** 0.5), "distribution uniform"),
    "variance 1": (normal(lambda a, b: 1), "variance 1"),
    "multiplied": (normal(lambda a, b: a / 2), "divide"),
    "2 below": (normal(lambda a, b: 1 / (2 * a)), "above the line"),
    "2 squared": (normal(lambda a, b: 4 / a), "squared"),
    "another": (normal(lambda a, b: 7 / a), "the variance is"),
    "half normal": (lambda o, i, k: normal(lambda a, b: 2 / a)(o, i, k).abs(), "the mean is"),
    "turned": (lambda o, i, k: normal(lambda a, b: 2 / a)(i, o, k), "out, then in"),
    "a fixed seed": (seeded, "drawn at random"),
    "a number": (lambda o, i, k: 0.1, "of type float"),
}


@parametrised(DRAWS)
def test_a_wrong_initialisation_is_told_why(mutant, phrase):
    assert_named(checks.check_draw(mutant), phrase)


def in_place(o, i, k):
    return nn.init.kaiming_normal_(torch.empty(o, i, k, k), nonlinearity="relu")


@pytest.mark.parametrize(
    "draw", [normal(lambda a, b: 2 / a), in_place, lambda o, i, k: nn.Parameter(in_place(o, i, k))]
)
def test_right_initialisations_are_accepted(draw):
    assert checks.check_draw(draw).state == "right"
