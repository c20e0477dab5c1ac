from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from mutants import assert_named, parametrised
from torch import nn

from helpers import checks
from helpers.models import Bottleneck, PadShortcut, ResNet, Spec, conv, count_parameters


def zeros(x, channels):
    """(n, channels, h, w) of zeros beside x (n, c, h, w)."""
    return x.new_zeros(x.shape[0], channels, *x.shape[2:])


def right(x, channels, stride):
    small = x[:, :, ::stride, ::stride]
    return torch.cat([small, zeros(small, channels - x.shape[1])], dim=1)


def padded_after(shrink):
    """Option A with another way to become smaller: shrink(x, stride)."""
    return lambda x, channels, stride: right(shrink(x, stride), channels, 1)


def filled(fill):
    """Option A with something else in the added channels: fill(small, how many)."""

    def shortcut(x, channels, stride):
        small = x[:, :, ::stride, ::stride]
        return torch.cat([small, fill(small, channels - x.shape[1])], dim=1)

    return shortcut


def square(x, channels, stride):
    side = x.shape[2] // stride
    y = torch.zeros(len(x), channels, side, side)
    y[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
    return y


def projection(x, channels, stride):
    return nn.Conv2d(x.shape[1], channels, 1, stride)(x)


def zeros_first(x, channels, stride):
    return right(x, channels, stride).roll(channels - x.shape[1], 1)


def both_sides(x, channels, stride):
    return right(x, channels, stride).roll((channels - x.shape[1]) // 2, 1)


def repeated(small, added):
    return small.repeat(1, 3, 1, 1)[:, :added]


SHORTCUTS = {
    "average pooling": (padded_after(F.avg_pool2d), "averages neighbours"),
    "max pooling": (padded_after(F.max_pool2d), "max pooling"),
    "no stride": (padded_after(lambda x, s: x), "stride is not used"),
    "rows only": (padded_after(lambda x, s: x[:, :, ::s]), "only the rows"),
    "columns only": (padded_after(lambda x, s: x[..., ::s]), "only the columns"),
    "from the second pixel": (padded_after(lambda x, s: x[..., 1::s, 1::s]), "first pixel is left out"),
    "cut out": (padded_after(lambda x, s: x[..., : x.shape[2] // s, : x.shape[3] // s]), "a corner is cut out"),
    "always 2": (lambda x, c, s: right(x, c, 2), "the stride is 3 here"),
    "always doubled": (lambda x, c, s: right(x, 2 * x.shape[1], s), "channels are doubled: 5"),
    "zeros first": (zeros_first, "zeros come first"),
    "zeros on both sides": (both_sides, "both sides"),
    "not padded": (lambda x, c, s: x[:, :, ::s, ::s], "not padded"),
    "too many": (lambda x, c, s: right(x, c + x.shape[1], s), "too many zeros"),
    "repeated": (filled(repeated), "channels of x are repeated"),
    "each repeated": (lambda x, c, s: x[:, :, ::s, ::s].repeat_interleave(2, 1)[:, :c], "each channel"),
    "ones": (filled(lambda x, added: 1 + zeros(x, added)), "ones"),
    "times zero": (filled(lambda x, added: 0 * repeated(x, added)), "0 times NaN"),
    "all masked": (lambda x, c, s: right(x, c, s) * (torch.arange(c) < 3)[:, None, None] * 0, "all channels are zeros"),
    "square maps only": (square, "size"),
    "projection": (projection, "random weights"),
    "detached": (lambda x, c, s: right(x.detach(), c, s), "detached"),
    "numpy": (lambda x, c, s: x.numpy(), "of type ndarray"),
}


@parametrised(SHORTCUTS)
def test_a_wrong_shortcut_is_told_why(mutant, phrase):
    assert_named(checks.check_option_a(mutant), phrase)


def ours(x, channels, stride):
    return PadShortcut(stride, channels - x.shape[1])(x)


def by_pooling(x, channels, stride):
    """Pooling over one pixel takes it as it is."""
    return right(F.avg_pool2d(x, 1, stride), channels, 1)


def by_filling(x, channels, stride):
    y = torch.zeros(len(x), channels, x.shape[2] // stride, x.shape[3] // stride)
    y[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
    return y


@pytest.mark.parametrize("shortcut", [right, ours, by_pooling, by_filling])
def test_right_shortcuts_are_accepted(shortcut):
    assert checks.check_option_a(shortcut).state == "right", checks.check_option_a(shortcut)


def count(blocks, widths, option, kernel=1, norm=2, first=True):
    """The extra parameters; kernel, norm: numbers per weight and channel; whether C counts the first block."""
    total, before = 0, widths[0]
    for stage, (number, width) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(number):
            changes = stage > 0 and block == 0
            if (option == "C" and (first or stage + block)) or (option == "B" and changes):
                total += kernel * before * width + norm * width
            before = width
    return total


def first_stage_too(blocks, widths, option):
    return count(blocks, widths, option) + (widths[0] ** 2 + 2 * widths[0]) * (option == "B")


def of_what_goes_in(blocks, widths, option):
    """Batch normalisation of the channels that a projection gets."""
    changes = sum(2 * (before - after) for before, after in pairwise(widths))
    return count(blocks, widths, option) + (option != "A") * changes


def of_the_image(blocks, widths, option):
    return count(blocks, widths, option) + (option == "C") * (3 - widths[0]) * widths[0]


def whole_net(blocks, widths, option):
    return count_parameters(ResNet(Spec(blocks, widths, shortcut=option)))


def equal_widths(blocks, widths, option):
    pairs = widths[1:] if option == "B" else [w for n, w in zip(blocks, widths, strict=True) for _ in range(n)]
    return sum(w * w + 2 * w for w in pairs)


COUNTS = {
    "no batch norm": (lambda *a: count(*a, norm=0), "batch normalisation is missing"),
    "one number a channel": (lambda *a: count(*a, norm=1), "one number a channel"),
    "bias": (lambda *a: count(*a, norm=3), "bias"),
    "moving averages": (lambda *a: count(*a, norm=4), "moving averages"),
    "3x3": (lambda *a: count(*a, kernel=9), "they are 1x1"),
    "C for B": (lambda b, w, o: count(b, w, "C"), "as option C"),
    "B for C": (lambda b, w, o: count(b, w, "B"), "as option B"),
    "first stage in B": (first_stage_too, "first stage is counted"),
    "first block not in C": (lambda *a: count(*a, first=False), "first block is left out"),
    "C without changes": (lambda b, w, o: count(b, w, o) - (o == "C") * count(b, w, "B"), "change the shape are left"),
    "equal widths": (equal_widths, "channels that come in"),
    "norm of what goes in": (of_what_goes_in, "not as go in"),
    "from the image": (of_the_image, "3 channels"),
    "the whole net": (whole_net, "counts the whole net"),
    "A not zero": (lambda b, w, o: count(b, w, "B" if o == "A" else o), "option A adds none"),
    "only ResNet-20": (lambda b, w, o: {"A": 0, "B": 2752, "C": 14240}[o], "and you have 2752"),
}


@parametrised(COUNTS)
def test_a_wrong_count_is_told_why(mutant, phrase):
    assert_named(checks.check_extra_parameters(mutant), phrase)


def test_a_right_count_is_accepted():
    assert checks.check_extra_parameters(count).state == "right"


class Right(nn.Module):
    """The answer; a mutant overrides a piece of it."""

    def __init__(self, channels, width):
        super().__init__()
        self.up, self.middle, self.down = conv(width, channels, 1), conv(width, width, 3), conv(channels, width, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(channels)

    def first(self, x):
        return self.bn1(self.down(x)).relu()

    def second(self, x):
        return self.bn2(self.middle(x)).relu()

    def third(self, x):
        return self.bn3(self.up(x))

    def layers(self, x):
        return self.third(self.second(self.first(x)))

    def forward(self, x):
        return (self.layers(x) + x).relu()


def changed(**methods):
    return type("Changed", (Right,), methods)


def made(**layers):
    """The answer with other layers: functions of (channels, width)."""

    class Made(Right):
        def __init__(self, channels, width):
            super().__init__(channels, width)
            for name, make in layers.items():
                setattr(self, name, make(channels, width))

    return Made


BLOCKS = {
    "missing addition": (changed(forward=lambda s, x: s.layers(x).relu()), "never added"),
    "ReLU before the addition": (changed(forward=lambda s, x: s.layers(x).relu() + x), "before the addition and not"),
    "no last ReLU": (changed(forward=lambda s, x: s.layers(x) + x), "last ReLU is missing"),
    "no first ReLU": (changed(first=lambda s, x: s.bn1(s.down(x))), "after layer 1"),
    "no second ReLU": (changed(second=lambda s, x: s.bn2(s.middle(x))), "after layer 2"),
    "ReLU after the third layer": (
        changed(layers=lambda s, x: s.third(s.second(s.first(x))).relu()),
        "as well as after",
    ),
    "no second norm": (changed(second=lambda s, x: s.middle(x).relu()), "after convolution 2"),
    "no last norm": (changed(third=lambda s, x: s.up(x)), "after convolution 3"),
    "one norm for two layers": (changed(second=lambda s, x: s.bn1(s.middle(x)).relu()), "normalisation is used twice"),
    "two 3x3 layers": (
        made(down=lambda c, w: conv(c, w, 3), up=lambda c, w: conv(w, c, 3)),
        "channels and kernel sizes",
    ),
    "3x3 on all channels": (
        made(down=lambda c, w: conv(c, c, 1), middle=lambda c, w: conv(c, w, 3)),
        "channels and kernel sizes",
    ),
    "no padding": (made(middle=lambda c, w: nn.Conv2d(w, w, 3, bias=False)), "maps of 3x3 from 5x5"),
    "stride": (made(down=lambda c, w: conv(c, w, 1, 2)), "padding and its stride"),
    "projection": (made(project=lambda c, w: conv(c, c, 1)), "identity shortcut has none"),
    "two layers": (made(middle=lambda c, w: nn.Identity()), "2 nn.Conv2d"),
}


@parametrised(BLOCKS)
def test_a_bottleneck_with_one_mistake_is_told_which(mutant, phrase):
    assert_named(checks.check_bottleneck(mutant), phrase)


def sequential(channels, width):
    """Right: the branch as one container, inside a block that adds."""
    layers = [conv(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), conv(width, width, 3)]
    layers += [nn.BatchNorm2d(width), nn.ReLU(), conv(width, channels, 1), nn.BatchNorm2d(channels)]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Sequential(*layers)

        def forward(self, x):
            return F.relu(x.add(self.branch(x)))

    return Block()


def test_right_bottlenecks_are_accepted():
    assert checks.check_bottleneck(Right).state == "right"
    assert checks.check_bottleneck(sequential).state == "right"
    by_four = lambda channels, width: Bottleneck(4 * width, width)  # noqa: E731
    assert "shapes" in checks.check_bottleneck(by_four).message, "its expansion of 4 is not asked for here"
