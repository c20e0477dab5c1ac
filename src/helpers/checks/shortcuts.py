"""Checks of notebook 03: option A by hand, what options B and C cost, the bottleneck block by hand."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.analysis import count_cost
from helpers.checks.blocks import expect_residual
from helpers.checks.verdict import exercise, expect, is_same, match
from helpers.models import Spec


@exercise("return x subsampled by `stride`, with zeros in the added channels: (n, channels, h / stride, w / stride)")
def check_option_a(shortcut: Callable[[Tensor, int, int], Tensor]) -> str:
    """Sec. 3.3, option A: `shortcut(x, channels, stride)` for x (n, c, h, w) with c <= channels."""
    x = torch.randn(2, 3, 6, 12)
    for channels, stride in ((6, 2), (5, 2), (9, 3), (3, 2), (4, 1), (3, 1)):
        found = shortcut(x.clone(), channels, stride)
        again = shortcut(x.clone(), channels, stride)
        random = "two calls with the same x differ: there are random weights in it, and option A has no parameters"
        expect(not isinstance(found, Tensor) or is_same(again, found), random)
        match(found, pad(x[:, :, ::stride, ::stride], channels), wrong_shortcuts(x, channels, stride))
    expect_zeros(shortcut)
    x.requires_grad_()
    found = shortcut(x, 6, 2)
    expect(found.requires_grad, "no gradient gets through: x is detached, and a shortcut is there for the gradient too")
    return "every second pixel, zeros in the added channels, no parameter"


def pad(x: Tensor, channels: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


def wrong_shortcuts(x: Tensor, channels: int, stride: int) -> dict[str, Tensor]:
    """What a wrong shortcut gives, by the mistake."""
    sizes = {mistake: pad(result, channels) for mistake, result in wrong_sizes(x, stride).items()}
    return sizes | wrong_channels(x[:, :, ::stride, ::stride], channels)


def wrong_sizes(x: Tensor, stride: int) -> dict[str, Tensor]:
    """Mistakes in making the maps smaller, before the channels are added."""
    half = "option A takes every second pixel as it is"
    return {
        f"this averages neighbours: {half}": F.avg_pool2d(x, stride),
        f"this is max pooling: {half}": F.max_pool2d(x, stride),
        "the stride is not used: take every stride-th row and column": x,
        f"every second pixel is taken, and the stride is {stride} here": x[:, :, ::2, ::2],
        "only the rows are subsampled: the columns need the stride too": x[:, :, ::stride],
        "only the columns are subsampled: the rows need the stride too": x[:, :, :, ::stride],
        "the first pixel is left out: begin with it, as a convolution with a stride does": x[
            :, :, 1::stride, 1::stride
        ],
        "a corner is cut out: take pixels from the whole map": x[..., : x.shape[2] // stride, : x.shape[3] // stride],
    }


def wrong_channels(small: Tensor, channels: int) -> dict[str, Tensor]:
    """Mistakes in the added channels, for maps that have their size."""
    added = channels - small.shape[1]
    times = -(-channels // small.shape[1])
    return {
        "the zeros come first: the first channels are those of x": F.pad(small, (0, 0, 0, 0, added, 0)),
        "there are zeros on both sides: the first channels are those of x, and all zeros follow": F.pad(
            small, (0, 0, 0, 0, added // 2, added - added // 2)
        ),
        "the channels are not padded: zeros fill up to the wanted number": small,
        f"the channels are doubled: {channels} are wanted here": pad(small, 2 * small.shape[1]),
        "too many zeros: `channels` is the number of all channels, with those of x": pad(
            small, channels + small.shape[1]
        ),
        "all channels are zeros": torch.zeros_like(pad(small, channels)),
        "the added channels are ones: they are zeros": pad(small - 1, channels) + 1,
        "the channels of x are repeated: the added ones are zeros": small.repeat(1, times, 1, 1)[:, :channels],
        "each channel of x is repeated: the added ones are zeros": small.repeat_interleave(times, 1)[:, :channels],
    }


def expect_zeros(shortcut: Callable[[Tensor, int, int], Tensor]) -> None:
    """Raise Mistake where the added zeros are x times zero: they are no zeros where x is not finite."""
    x = torch.ones(1, 2, 4, 4)
    x[0, 0], x[0, 1] = torch.nan, torch.inf
    expect(
        not shortcut(x, 4, 2)[:, 2:].any(),
        "the zeros are made by multiplying with zero, and 0 times NaN or infinity is NaN: pad, or use torch.zeros",
    )


@exercise("return how many parameters the projections of option B or C add to a net of basic blocks")
def check_extra_parameters(count: Callable[[tuple[int, ...], tuple[int, ...], str], int]) -> str:
    """Sec. 4.1: `count(blocks, widths, option)`, compared with our networks, counted."""
    for blocks, widths in (((2, 1, 4), (8, 24, 32)), ((3, 3, 3), (16, 32, 64)), ((3, 4, 6, 3), (64, 128, 256, 512))):
        spec = Spec(blocks, widths, shortcut="plain")
        plain = count_cost(spec)["parameters"]
        for option in "BC":
            right = count_cost(replace(spec, shortcut=option))["parameters"] - plain
            found = count(blocks, widths, option)
            expect(found != plain + right, "this counts the whole net: only what the option adds is asked for")
            for mistake, number in wrong_counts(blocks, widths, option).items():
                expect(found == right or found != number, f"{mistake} (option {option}, {blocks}, {widths})")
            expect(found == right, f"option {option} adds {right:,} to {blocks}, {widths}, and you have {found}")
    expect(count((3, 3, 3), (16, 32, 64), "A") == 0, "option A adds none: padding with zeros has nothing to learn")
    return "convolution, scale and shift of each projection, where the option has one"


def wrong_counts(blocks: tuple[int, ...], widths: tuple[int, ...], option: str) -> dict[str, int]:
    """What a wrong formula gives, by the mistake."""
    change = list(pairwise(widths))
    first, *later = [[(width, width)] * count for count, width in zip(blocks, widths, strict=True)]
    same = [pair for stage in later for pair in stage[1:]]
    where = {"B": change, "C": first + change + same}
    pairs = where.pop(option)

    def total(pairs: list[tuple[int, int]], kernel: int = 1, norm: int = 2) -> int:
        return sum(kernel * before * after + norm * after for before, after in pairs)

    counts = {
        "batch normalisation is missing: each projection is followed by one, with two numbers a channel": {"norm": 0},
        "batch normalisation is counted with one number a channel: it has a scale and a shift": {"norm": 1},
        "a bias is counted: a convolution in front of batch normalisation has none": {"norm": 3},
        "moving averages are counted: they are not learned": {"norm": 4},
        "the projections are counted as 3x3: they are 1x1": {"kernel": 9},
    }
    counts = {mistake: total(pairs, **change) for mistake, change in counts.items()}
    entering = sum(before * after + 2 * before for before, after in pairs)
    counts["batch normalisation has as many channels as come out of the projection, not as go in"] = entering
    if option == "B":
        counts["this counts a projection in every block, as option C has it"] = total(where["C"])
        counts["the first stage is counted, where the shape does not change"] = total(first[:1] + change)
    else:
        counts["this counts projections only where the shape changes, as option B has it"] = total(where["B"])
        counts["the first block is left out: option C projects there too"] = total(first[1:] + change + same)
        counts["the blocks that change the shape are left out"] = total(first + same)
        image = total([(3, widths[0]), *first[1:], *change, *same])
        counts["you give the first block the image's 3 channels: the stem comes in between"] = image
    equal = [(after, after) for _, after in pairs]
    return counts | {"a projection's weights go from the channels that come in to those that go out": total(equal)}


@exercise("write MyBottleneck: 1x1 down to width, 3x3, 1x1 back up to channels; then add the input; then ReLU")
def check_bottleneck(make: Callable[[int, int], nn.Module]) -> str:
    """Fig. 5 right: `make(channels, width)` with an identity shortcut, stride 1."""
    for channels, width in ((8, 2), (6, 3)):
        kernels = [(width, channels, 1, 1), (width, width, 3, 3), (channels, width, 1, 1)]
        expect_residual(make(channels, width), torch.randn(6, channels, 5, 5), kernels)
    return "three layers, the 3x3 on few channels, the input added to their output, and ReLU last"
