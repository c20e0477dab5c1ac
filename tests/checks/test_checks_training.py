import pytest
import torch
import torch.nn.functional as F
from mutants import assert_named, parametrised
from torchvision.transforms import functional

from helpers import checks


def view(image, row, column, flip, mode="constant"):
    padded = F.pad(image[None], (4, 4, 4, 4), mode=mode)[0]
    crop = padded[:, row : row + 32, column : column + 32]
    return crop.flip(2) if flip else crop


def with_torchvision(image, row, column, flip):
    crop = functional.crop(functional.pad(image, [4]), row, column, 32, 32)
    return functional.hflip(crop) if flip else crop


def by_hand(image, row, column, flip):
    padded = torch.zeros(3, 40, 40)
    padded[:, 4:36, 4:36] = image
    columns = range(column, column + 32)
    return padded[:, row : row + 32][:, :, list(reversed(columns)) if flip else list(columns)]


@pytest.mark.parametrize("answer", [view, with_torchvision, by_hand])
def test_a_right_view_is_accepted(answer):
    assert checks.check_view(answer).state == "right"


@parametrised(
    [
        (lambda image, row, column, flip: view(image, column, row, flip), "exchanged"),
        (
            lambda image, row, column, flip: view(image.flip(2) if flip else image, row, column, False),
            "before the crop",
        ),
        (lambda image, row, column, flip: view(image, row, column, False).flip(1 if flip else ()), "upside down"),
        (lambda image, row, column, flip: view(image, row, column, flip).flip(1 if flip else ()), "upside down"),
        (lambda image, row, column, flip: view(image, row, column, False).flip(0 if flip else ()), "red and blue"),
        (lambda image, row, column, flip: view(image, 8 - row, 8 - column, flip), "upper left corner"),
        (lambda image, row, column, flip: view(image + 1, row, column, flip) - 1, "padding is not zeros"),
        (lambda image, row, column, flip: view(image, row, column, False), "never mirrored"),
        (lambda image, row, column, flip: view(image, row, column, not flip), "mirrored when flip is False"),
        (lambda image, row, column, flip: view(image, row, column, flip, "reflect"), "padding is not zeros"),
        (
            lambda image, row, column, flip: image.copy_(view(image, row, column, flip)),
            "the image that was given is changed",
        ),
        (lambda image, row, column, flip: image.flip(2) if flip else image, "pad and crop"),
        (lambda image, row, column, flip: F.pad(image, (4, 4, 4, 4)), "the shape is"),
    ]
)
def test_a_wrong_view_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_view(mutant), phrase)


def step(weight, gradient, velocity, lr, decay=1e-4, momentum=0.9, share=1.0, along=None):
    gradient = gradient + decay * weight
    velocity = momentum * velocity + share * gradient
    return weight - lr * (velocity if along is None else along(gradient, velocity)), velocity


def with_torch(weight, gradient, velocity, lr):
    parameter = torch.nn.Parameter(weight)
    optimiser = torch.optim.SGD([parameter], lr=lr, momentum=0.9, weight_decay=1e-4)
    optimiser.state[parameter]["momentum_buffer"] = velocity
    parameter.grad = gradient
    optimiser.step()
    return parameter.detach(), velocity


def in_place(weight, gradient, velocity, lr):
    velocity.mul_(0.9).add_(gradient).add_(weight, alpha=1e-4)
    return weight.sub_(lr * velocity), velocity


def number_by_number(weight, gradient, velocity, lr):
    """In Python's numbers, and back to tensors of the default precision."""
    new = [0.9 * v + g + 1e-4 * w for w, g, v in zip(*(x.tolist() for x in (weight, gradient, velocity)), strict=True)]
    return torch.tensor([w - lr * v for w, v in zip(weight.tolist(), new, strict=True)]), torch.tensor(new)


def downhill(weight, gradient, velocity, lr):
    velocity = 0.9 * velocity - lr * (gradient + 1e-4 * weight)
    return weight + velocity, velocity


def decoupled(weight, gradient, velocity, lr):
    new, velocity = step(weight, gradient, velocity, lr, decay=0)
    return new - lr * 1e-4 * weight, velocity


@pytest.mark.parametrize("answer", [step, with_torch, in_place, number_by_number])
def test_a_right_step_is_accepted(answer):
    assert checks.check_step(answer).state == "right"


@parametrised(
    [
        (lambda *args: step(*args, decay=0), "no weight decay"),
        (lambda *args: step(*args, decay=-1e-4), "wrong sign"),
        (decoupled, "acts on the weight alone"),
        (lambda *args: step(*args, momentum=0), "no momentum"),
        (lambda *args: step(*args, share=0.1), "an average"),
        (lambda *args: step(*args, along=lambda g, v: g + 0.9 * v), "Nesterov"),
        (lambda w, g, v, lr: step(w, g, v, lr, along=lambda _, new: -new), "uphill"),
        (lambda w, g, v, lr: step(w, g, v, lr, along=lambda *_: v), "old velocity"),
        (lambda w, g, v, lr: (step(w, g, v, lr)[0], v), "velocity is returned as it came"),
        (lambda w, g, v, lr: (w, step(w, g, v, lr)[1]), "weight is returned as it came"),
        (lambda w, g, v, lr: step(w, g, v, lr)[0], "two tensors"),
        (lambda w, g, v, lr: step(w, g, v, lr)[::-1], "in the other order"),
        (lambda w, g, v, lr: step(w, g, v, 0.1), "always 0.1"),
        (lambda w, g, v, lr: step(w, g, v, 1), "the rate is left out"),
        (lambda *args: step(*args, decay=5e-4), "5e-4"),
        (lambda w, g, v, lr: step(w, 0.9 * g, v, lr, decay=0.9e-4), "the old velocity alone"),
        (downhill, "inside your velocity"),
        (lambda w, g, v, lr: (step(w, g, v, lr)[0], 0.0), "the velocity is of type float"),
        (lambda w, g, v, lr: (w[:, None], v), "the weight has the shape (5, 1)"),
    ]
)
def test_a_wrong_step_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_step(mutant), phrase)
