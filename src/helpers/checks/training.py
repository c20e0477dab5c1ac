"""Notebook 05: one image on its way into a batch, and one step of SGD (Sec. 3.4 and 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.checks.verdict import exercise, expect, is_same, match
from helpers.data import augment


@exercise("write one_view(image, row, column, flip): four zeros of padding a side, a 32x32 crop, mirrored if flip")
def check_view(view) -> str:
    """view: image (3, 32, 32) with the mean subtracted, row and column 0..8, flip (bool) -> (3, 32, 32)."""
    for row, column, flip in ((1, 5, False), (8, 2, True), (3, 0, True)):
        image = torch.rand(3, 32, 32) - 0.5
        given = image.clone()
        found = view(given, row, column, flip)
        right = augment(image[None], torch.tensor([[row, column]]), torch.tensor([flip]))[0]
        inside = crop(torch.ones_like(image), row, column, flip)
        if isinstance(found, Tensor) and found.shape == right.shape and is_same(found * inside, right):
            expect(
                is_same(found, right), "the padding is not zeros: the mean has been subtracted, so 0 is a mean pixel"
            )
        match(found, right, wrong_views(image, row, column, flip))
        kept = "the view is right, but the image that was given is changed by it: the next epoch would crop the crop"
        expect(torch.equal(given, image), kept)
    return "padded with zeros, cropped, then mirrored."


def crop(image: Tensor, row: int, column: int, flip: bool) -> Tensor:
    """The 32x32 window of the padded image whose corner is (row, column), mirrored if flip."""
    window = F.pad(image, (4,) * 4)[:, row : row + 32, column : column + 32]
    return window.flip(2) if flip else window


def wrong_views(image: Tensor, row: int, column: int, flip: bool) -> dict[str, Tensor | list[Tensor]]:
    """What comes out with one mistake."""
    plain, mirror = crop(image, row, column, False), image.flip(2)
    early = "the image is mirrored before the crop: the crop at the same place is then another one"
    end = "the window ends where it should begin: (row, column) is its upper left corner"
    return {
        "row and column are exchanged": [crop(image, column, row, mirrored) for mirrored in (False, True)],
        early: crop(mirror if flip else image, row, column, False),
        "the picture is turned upside down: mirror it left to right, along the last dimension": [
            plain.flip(1),
            plain.flip(1, 2),
        ],
        "your crop is never mirrored": plain,
        "your crop is mirrored when flip is False": plain.flip(2),
        "your mirror exchanges red and blue: mirror left to right, along the last dimension": plain.flip(0),
        end: crop(image, 8 - row, 8 - column, flip),
        "that is the image itself, mirrored or not: pad and crop it": [image, mirror],
    }


LR = 0.03  # not one of the paper's, so that 0.1 instead of lr is noticed


@exercise("write sgd_step(weight, gradient, velocity, lr): the weight and the velocity after one step of SGD")
def check_step(step) -> str:
    """step: weight, gradient, velocity (n,) and lr -> (weight, velocity), with momentum 0.9 and weight decay 1e-4."""
    weight, gradient, velocity = torch.randn(3, 5, dtype=torch.float64)
    weight = 30 * weight  # so large that a wrong weight decay shows, and not so large that float32 would
    found = step(weight.clone(), gradient.clone(), velocity.clone(), LR)
    expect(isinstance(found, tuple | list) and len(found) == 2, "two tensors are wanted: the weight and the velocity")
    for name, part in zip(("weight", "velocity"), found, strict=True):
        expect(isinstance(part, Tensor), f"the {name} is of type {type(part).__name__}, and a tensor is wanted")
        expect(part.shape == (5,), f"the {name} has the shape {tuple(part.shape)}, and (5,) is right")
    right = join(0.9 * velocity + gradient + 1e-4 * weight)
    match(torch.cat([found[0] - weight, found[1]]), right, wrong_steps(weight, gradient, velocity))
    return "as torch.optim.SGD does it: decay into the gradient, gradient into the velocity, velocity into the weight."


def join(velocity: Tensor, change: Tensor | None = None) -> Tensor:
    """The change of the weight, by default that of a step along `velocity`, followed by the new velocity."""
    return torch.cat([-LR * velocity if change is None else change, velocity])


def wrong_steps(weight: Tensor, gradient: Tensor, velocity: Tensor) -> dict[str, Tensor | list[Tensor]]:
    """What comes out with one mistake, as `join` puts it."""
    g, bare = gradient + 1e-4 * weight, 0.9 * velocity + gradient
    v, against = 0.9 * velocity + g, 0.9 * velocity - g
    scaled, descent = 0.9 * velocity + LR * g, 0.9 * velocity - LR * g
    outside = "the weight decay acts on the weight alone; it is added to the gradient, and so gets into the velocity"
    inside = "the rate is inside your velocity; here it multiplies the whole step, as in PyTorch"
    return {
        "there is no weight decay: 1e-4 times the weight is added to its gradient": join(bare),
        "the weight decay has the wrong sign: it is added to the gradient": join(bare - 1e-4 * weight),
        "the weight decay is 5e-4, as in many other recipes: the paper's is 1e-4": join(bare + 5e-4 * weight),
        outside: join(bare, -LR * (bare + 1e-4 * weight)),
        "there is no momentum: the velocity is 0.9 of the old one plus the gradient": join(g),
        "the momentum multiplies the gradient too: it belongs to the old velocity alone": join(0.9 * (velocity + g)),
        "the gradient is weighted by 1 - 0.9: this is an average, and the paper's momentum a sum": join(
            0.9 * velocity + 0.1 * g
        ),
        "this is Nesterov's momentum: the paper's step is along the velocity alone": join(v, -LR * (g + 0.9 * v)),
        "the step goes uphill: subtract it": join(v, LR * v),
        "the step is along the old velocity: update it first": join(v, -LR * velocity),
        inside: [join(scaled, -scaled), join(descent, descent)],
        "the gradient is subtracted from your velocity: it is added, and the step subtracted": join(
            against, LR * against
        ),
        "the rate is left out: the step is lr times the velocity": join(v, -v),
        "the rate is always 0.1: use lr, which falls during training": join(v, -0.1 * v),
        "the velocity is returned as it came": join(velocity, -LR * v),
        "the weight is returned as it came": join(v, 0 * weight),
        "the two come in the other order: the weight, then the velocity": join(weight - LR * v, v - weight),
    }
