import pytest
import torch
from mutants import assert_named, parametrised
from torch.nn.functional import softmax
from torchvision.transforms.v2.functional import ten_crop

from helpers import checks


def gained(ins, width, side):
    return 3 * ins * width * side**2 // 4


@parametrised(
    {
        "after the move": (lambda i, w, s: i * w * s**2, "subtract what it cost before"),
        "before the move": (lambda i, w, s: i * w * s**2 // 4, "before the move, on a quarter"),
        "weights": (lambda i, w, s: i * w, "weights: each is used at every position"),
        "half the positions": (lambda i, w, s: i * w * s**2 // 2, "shortens both sides"),
        "side for area": (lambda i, w, s: i * w * s // 2, "you have the side"),
        "twice": (lambda i, w, s: 2 * gained(i, w, s), "twice the answer"),
        "sign": (lambda i, w, s: -gained(i, w, s), "the sign"),
        "3x3 too": (lambda i, w, s: gained(i, w, s) + 9 * gained(w, w, s), "the 3x3 gains nothing"),
        "3x3 alone": (lambda i, w, s: 9 * gained(w, w, s), "that is for the 3x3"),
        "3x3 cheaper": (lambda i, w, s: gained(i, w, s) - 9 * gained(w, w, s), "the 3x3 loses nothing"),
        "last too": (lambda i, w, s: gained(i, w, s) + gained(w, 4 * w, s), "the last 1x1 gains nothing"),
        "the branch": (lambda i, w, s: gained(i, w, s) + 13 * gained(w, w, s), "the 3x3 and the last 1x1 do not"),
        "shortcut too": (lambda i, w, s: gained(i, w, s) + gained(i, 4 * w, s), "the shortcut gains nothing"),
        "all four": (lambda i, w, s: 5 * gained(i, w, s) + 13 * gained(w, w, s), "all four convolutions"),
        "the block": (lambda i, w, s: (5 * i * w + 13 * w * w) * s**2 // 4, "whole block's cost"),
        "the moved block": (lambda i, w, s: (8 * i * w + 13 * w * w) * s**2 // 4, "with the stride on the 3x3"),
        "unknown": (lambda *a: gained(*a) + 1, "the counter finds"),
        "no return": (lambda *a: None, "is a return missing"),
    }
)
def test_a_wrong_price_of_moving_the_stride_is_named(mutant, phrase):
    assert_named(checks.check_extra_cost(mutant), phrase)


@pytest.mark.parametrize(
    "answer", [gained, lambda i, w, s: i * w * (s**2 - (s // 2) ** 2), lambda i, w, s: 0.75 * i * w * s * s]
)
def test_a_right_price_of_moving_the_stride_is_accepted(answer):
    assert checks.check_extra_cost(answer).state == "right"


def crops(image, size, inset=0, shift=0, rounding=0, views=slice(None), dims=(2,)):
    down, right = image.shape[1] - size, image.shape[2] - size
    places = [(0, 0), (0, right - inset), (down - inset, 0), (down - inset, right - inset)]
    places.append(((down + rounding) // 2 + shift, (right + rounding) // 2 + shift))
    found = torch.stack([image[:, y : y + size, x : x + size] for y, x in places])[views]
    return torch.cat([found, found.flip([d + 1 for d in dims])])


@parametrised(
    {
        "five": (lambda i, s: crops(i, s)[:5], "five views"),
        "twice": (lambda i, s: crops(i, s)[:5].repeat(2, 1, 1, 1), "every view is there twice"),
        "upside down": (lambda i, s: crops(i, s, dims=(1,)), "upside down"),
        "turned": (lambda i, s: crops(i, s, dims=(1, 2)), "turned by half"),
        "inset": (lambda i, s: crops(i, s, inset=1), "stop a pixel short"),
        "centre": (lambda i, s: crops(i, s, rounding=1, shift=1), "centre is a pixel off"),
        "centre the other way": (lambda i, s: crops(i, s, shift=-1), "to the other side"),
        "no centre": (lambda i, s: crops(i, s, views=[0, 1, 2, 3, 0]), "no centre"),
        "only centre": (lambda i, s: crops(i, s, views=[4] * 5), "no corner"),
        "a corner missing": (lambda i, s: crops(i, s)[[0, 1, 2, 3, 4, 5, 6, 7, 9, 9]], "one is missing"),
        "noise": (lambda i, s: torch.rand(10, 3, s, s), "some views"),
        "size": (lambda i, s: crops(i, s - 1), "the shape is"),
        "image changed": (lambda i, s: crops(i.mul_(0.5), s), "some views"),
        "no return": (lambda i, s: None, "is a return missing"),
    }
)
def test_wrong_crops_are_named(mutant, phrase):
    assert_named(checks.check_ten_crops(mutant), phrase)


@pytest.mark.parametrize(
    "answer",
    [
        crops,
        lambda i, s: crops(i, s, rounding=1),
        lambda i, s: crops(i, s).flip(0),
        lambda i, s: list(crops(i, s)),
        ten_crop,
    ],
)
def test_right_crops_are_accepted(answer):
    assert checks.check_ten_crops(answer).state == "right"


def logits(network, crops):
    return torch.stack([network(view) for view in crops])


@parametrised(
    {
        "logits": (lambda n, c: logits(n, c).mean(0).softmax(1), "before the softmax"),
        "mean crop": (lambda n, c: n(c.mean(0)).softmax(1), "the crops are averaged"),
        "no softmax": (lambda n, c: logits(n, c).mean(0), "softmax is missing"),
        "sum": (lambda n, c: logits(n, c).softmax(2).sum(0), "divide by ten"),
        "over crops": (lambda n, c: logits(n, c).softmax(0).mean(0), "over the ten crops"),
        "over images": (lambda n, c: logits(n, c).softmax(1).mean(0), "over the images"),
        "logarithms": (lambda n, c: logits(n, c).log_softmax(2).mean(0), "logarithms"),
        "highest": (lambda n, c: logits(n, c).softmax(2).amax(0), "highest"),
        "one": (lambda n, c: n(c[4]).softmax(1), "one crop's"),
        "images": (lambda n, c: logits(n, c).softmax(2).mean(1), "over the crops"),
        "no average": (lambda n, c: logits(n, c).softmax(2), "scores: average them"),
        "labels": (lambda n, c: logits(n, c).softmax(2).mean(0).argmax(1), "the shape is"),
    }
)
def test_wrong_scores_are_named(mutant, phrase):
    assert_named(checks.check_ten_crop_scores(mutant), phrase)


@pytest.mark.parametrize(
    "answer",
    [
        lambda n, c: logits(n, c).softmax(-1).mean(0),
        lambda n, c: softmax(n(c.flatten(0, 1)), 1).unflatten(0, c.shape[:2]).mean(0),
        lambda n, c: sum(n(view).softmax(1) for view in c) / 10,
    ],
)
def test_right_scores_are_accepted(answer):
    assert checks.check_ten_crop_scores(answer).state == "right"
