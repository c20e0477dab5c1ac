"""Checks of notebook 10: the price of moving the stride, ten crops of an image, and what to average over them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers.analysis import multiply_adds
from helpers.checks.verdict import Mistake, exercise, expect, match
from helpers.models import Bottleneck


@exercise("return the multiply-adds that the block gains: go through its convolutions, and ask what changes in each")
def check_extra_cost(extra: Callable[[int, int, int], int]) -> str:
    """Sec. 4.1: `extra(in_channels, width, side)`, compared with our bottlenecks by the counter."""
    for ins, width, side in ((256, 128, 56), (48, 20, 6), (1024, 512, 14)):
        with torch.device("meta"):
            moved, first = (Bottleneck(ins, width, 2, stride_on_3x3=on_3x3).eval() for on_3x3 in (True, False))
            x = torch.empty(1, ins, side, side)
        before = multiply_adds(first, x)
        right, found = multiply_adds(moved, x) - before, extra(ins, width, side)
        expect(found is not None, "the answer is None, and a number is wanted: is a return missing?")
        for mistake, wrong in wrong_extras(ins, width, side, before).items():
            expect(found == right or found != wrong, mistake)
        where = f"{ins} channels, width {width}, side {side}"
        expect(found == right, f"{where}: the counter finds {right:,} more, and yours is {found:,}")
    return "the first 1×1 works on all positions instead of a quarter of them, and nothing else changes"


def wrong_extras(ins: int, width: int, side: int, before: int) -> dict[str, int]:
    """What a wrong answer gives, by the mistake; `before` is the block's cost with the stride on the first 1x1."""
    large, small = side**2, (side // 2) ** 2
    weights = {"1x1": ins * width, "3x3": 9 * width**2, "last": 4 * width**2, "shortcut": 4 * ins * width}
    gained = {layer: number * (large - small) for layer, number in weights.items()}
    right = gained.pop("1x1")
    same = "its output has a quarter of the positions in both blocks, so it costs the same in both"
    total = "that is the whole block's cost, and only what it gains is asked for"
    return {
        "that is what the first 1x1 costs after the move: subtract what it cost before": weights["1x1"] * large,
        "that is what the first 1x1 costs before the move, on a quarter of the positions": weights["1x1"] * small,
        "these are the first 1x1's weights: each is used at every position of its output": weights["1x1"],
        "the stride shortens both sides of the map: a quarter of the positions is left, not half": (
            weights["1x1"] * (large - large // 2)
        ),
        "positions count, and you have the side: a map has side × side of them": weights["1x1"] * (side - side // 2),
        "a multiplication with its addition is one multiply-add: yours is twice the answer": 2 * right,
        "the sign: with the stride on the 3x3 the block costs more": -right,
        f"the 3x3 gains nothing: {same}": right + gained["3x3"],
        f"that is for the 3x3, which gains nothing: {same}": gained["3x3"],
        f"the 3x3 loses nothing: {same}": right - gained["3x3"],
        f"the last 1x1 gains nothing: {same}": right + gained["last"],
        "only the first 1x1 works on more positions: the 3x3 and the last 1x1 do not": (
            right + gained["3x3"] + gained["last"]
        ),
        "the shortcut gains nothing: it has its own stride in both blocks": right + gained["shortcut"],
        "only the first 1x1 works on more positions: you let all four convolutions do": right + sum(gained.values()),
        f"{total}: with the stride on the 3x3": before + right,
        f"{total}: with the stride on the first 1x1": before,
    }


def cut(image: Tensor, top: int, left: int, size: int) -> Tensor:
    return image[:, top : top + size, left : left + size]


def five(image: Tensor, size: int, rounding: int = 0, shift: int = 0, inset: int = 0) -> list[Tensor]:
    """Corners and centre; the centre's odd half pixel goes to `rounding`, it is `shift` off, corners are `inset`."""
    down, right = image.shape[1] - size, image.shape[2] - size
    corners = [(top, left) for top in (0, down - inset) for left in (0, right - inset)]
    middle = ((down + rounding) // 2 + shift, (right + rounding) // 2 + shift)
    return [cut(image, *place, size) for place in [*corners, middle]]


def mirrored(views: list[Tensor], dims: tuple[int, ...] = (2,)) -> list[Tensor]:
    return views + [view.flip(dims) for view in views]


def same_views(found: Tensor, wanted: list[Tensor]) -> bool:
    """Whether these are the same views, in whatever order."""
    alike = (found[:, None] == torch.stack(wanted)[None]).flatten(2).all(2)
    return bool(alike.any(0).all() and alike.any(1).all())


@exercise("return ten views (10, 3, size, size) of the image: four corners, the centre, and their mirror images")
def check_ten_crops(crops: Callable[[Tensor, int], Tensor]) -> str:
    """Sec. 3.4: `crops(image, size)` for an image (3, h, w), in any order."""
    for height, width in ((12, 18), (11, 14)):
        image, size = torch.rand(3, height, width), 8
        found = crops(image.clone(), size)
        expect(found is not None, "the answer is None, and ten views are wanted: is a return missing?")
        found = found if isinstance(found, Tensor) else torch.stack(list(found))
        expect(len(found) != 5, "these are five views: the mirror image of each is missing")
        expect(found.shape == (10, 3, size, size), f"the shape is {tuple(found.shape)}, and (10, 3, 8, 8) is right")
        views = five(image, size)
        mistakes = {
            "the mirror images are missing: every view is there twice": views,
            "the flipped views are upside down: a mirror swaps left and right": mirrored(views, (1,)),
            "the flipped views are turned by half: a mirror swaps left and right only": mirrored(views, (1, 2)),
            "the corners at the bottom and right stop a pixel short": mirrored(five(image, size, inset=1)),
            "the centre is a pixel off": mirrored(five(image, size, rounding=1, shift=1)),
            "the centre is a pixel off to the other side": mirrored(five(image, size, shift=-1)),
            "there are the four corners, and no centre": mirrored(views[:4]),
            "there is the centre, and no corner": mirrored(views[4:]),
        }
        if any(same_views(found, mirrored(five(image, size, rounding))) for rounding in (0, 1)):
            continue
        for mistake, wrong in mistakes.items():
            expect(not same_views(found, wrong), mistake)
        strange = "some views are not corners, centre or their mirror images, or one is missing and another there twice"
        raise Mistake(f"{strange}: look at each start, top and left, and at what is mirrored")
    return "corners, centre and mirrors; on an odd margin either middle will do"


@exercise("return the scores (n, classes): the ten crops' softmax scores, averaged")
def check_ten_crop_scores(scores: Callable[[nn.Module, Tensor], Tensor]) -> str:
    """Table 3: `scores(network, crops)` for crops (10, n, 3, h, w)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 5)).requires_grad_(False)
    crops = 3 * torch.randn(10, 4, 3, 4, 4)
    logits = torch.stack([network(view) for view in crops])
    each = logits.softmax(2)
    mistakes = {
        "the logits are averaged before the softmax: softmax comes first": logits.mean(0).softmax(1),
        "the crops are averaged before the network sees them: each gets its own scores": network(crops.mean(0)).softmax(
            1
        ),
        "these are logits: softmax is missing": logits.mean(0),
        "the scores are summed: divide by ten": each.sum(0),
        "softmax runs over the ten crops: it belongs over the classes": logits.softmax(0).mean(0),
        "softmax runs over the images: it belongs over the classes": logits.softmax(1).mean(0),
        "these are logarithms of the scores: average the scores themselves": logits.log_softmax(2).mean(0),
        "this is the highest score over the crops: average them": each.amax(0),
        "this is one crop's score: average over all ten": list(each),
        "the average runs over the images: it belongs over the crops": each.mean(1),
        "these are the ten crops' scores: average them": each,
    }
    match(scores(network, crops), each.mean(0), mistakes)
    return "each crop votes with its own probabilities"
