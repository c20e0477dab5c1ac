"""Notebook 05: one image on its way into a batch, and one step of SGD (Sec. 3.4 and 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.checks.verdict import exercise, expect, match
from helpers.data import augment


@exercise(
    "write view(image, row, column, flip): four zeros of padding a side, the 32x32 crop at (row, column), mirrored"
)
def check_view(view) -> str:
    """view: image (3, 32, 32) with the mean subtracted, row and column 0..8, flip (bool) -> (3, 32, 32)."""
    for row, column, flip in ((1, 7, False), (8, 2, True), (3, 0, True)):
        image = torch.rand(3, 32, 32) - 0.5

        def crop(image: Tensor, row: int, column: int, **padding) -> Tensor:
            return F.pad(image[None], (4,) * 4, **padding)[0, :, row : row + 32, column : column + 32]

        right = augment(image[None], torch.tensor([[row, column]]), torch.tensor([flip]))[0]
        plain, mirror = crop(image, row, column), image.flip(2)
        mistakes = {
            "row and column are exchanged": [crop(image, column, row), crop(image, column, row).flip(2)],
            "the image is mirrored before the crop: the crop at the same place is then another one": crop(
                mirror if flip else image, row, column
            ),
            "the picture is turned upside down: mirror it left to right, along the last dimension": plain.flip(1),
            "your crop is never mirrored": plain,
            "your crop is mirrored when flip is False": plain.flip(2),
            "the padding is not zeros: the mean has been subtracted, so 0 is a mean pixel": [
                crop(image, row, column, mode=mode).flip(2) if flip else crop(image, row, column, mode=mode)
                for mode in ("reflect", "replicate", "circular")
            ],
            "that is the image itself, mirrored or not: pad and crop it": [image, mirror],
            "channels and rows are exchanged by your mirror": plain.flip(0),
        }
        match(view(image.clone(), row, column, flip), right, mistakes)
    return "padded with zeros, cropped, then mirrored."


@exercise("write step(weight, gradient, velocity, lr): the weight and velocity after one step of SGD")
def check_step(step) -> str:
    """step: weight, gradient, velocity (n,) and lr -> (weight, velocity), with momentum 0.9 and weight decay 1e-4."""
    weight, gradient, velocity = torch.randn(3, 5, dtype=torch.float64)
    weight, lr = 300 * weight, 0.1  # large weights, so that a wrong weight decay shows

    def after(momentum=0.9, decay=1e-4, dampening=0.0, nesterov=False, decoupled=False) -> Tensor:
        """The change of the weight and the new velocity, behind each other."""
        g = gradient if decoupled else gradient + decay * weight
        v = momentum * velocity + (1 - dampening) * g
        change = -lr * (g + momentum * v if nesterov else v)
        return torch.cat([change - lr * decay * weight if decoupled else change, v])

    g = gradient + 1e-4 * weight
    scaled = 0.9 * velocity + lr * g
    mistakes = {
        "there is no weight decay: 1e-4 times the weight is added to its gradient": after(decay=0.0),
        "the weight decay has the wrong sign: it is added to the gradient": after(decay=-1e-4),
        "the weight decay acts on the weight alone; it is added to the gradient, and so gets into the velocity": after(
            decoupled=True
        ),
        "there is no momentum: the velocity is 0.9 of the old one plus the gradient": after(momentum=0.0),
        "the gradient is weighted by 1 - 0.9: this is an average, and the paper's momentum a sum": after(dampening=0.9),
        "this is Nesterov's momentum: the paper's step is along the velocity alone": after(nesterov=True),
        "the step goes uphill: subtract it": torch.cat([lr * after()[5:], after()[5:]]),
        "the step is along the old velocity: update it first": torch.cat([-lr * velocity, after()[5:]]),
        "the rate is inside your velocity; here it multiplies the whole step, as in PyTorch": torch.cat(
            [-scaled, scaled]
        ),
        "the velocity is returned as it came": torch.cat([after()[:5], velocity]),
        "the weight is returned as it came": torch.cat([0 * weight, after()[5:]]),
    }
    found = step(weight.clone(), gradient.clone(), velocity.clone(), lr)
    expect(isinstance(found, tuple | list) and len(found) == 2, "two tensors are wanted: the weight and the velocity")
    match(torch.cat([found[0] - weight, found[1]]), after(), mistakes)
    return "as torch.optim.SGD does it: decay into the gradient, gradient into the velocity, velocity into the weight."
