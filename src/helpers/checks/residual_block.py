"""Checks of notebook 02: the residual block by hand, the single layer that is none, the gradient through the sum."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers.checks.blocks import expect_residual
from helpers.checks.verdict import exercise, expect, match


@exercise("write MyBlock: convolution, batch norm, ReLU, convolution, batch norm; then add the input; then ReLU")
def check_block(make: Callable[[int], nn.Module]) -> str:
    """Fig. 2 and Sec. 3.4: `make(channels)` is the block of two 3x3 layers with an identity shortcut."""
    for channels in (4, 3):
        expect_residual(make(channels), torch.randn(6, channels, 5, 5), [(channels, channels, 3, 3)] * 2)
    return "two 3x3 layers, the input added to their output, and ReLU last"


@exercise("return the weights (c, c, 3, 3) of the one convolution that does what conv(x) + x does")
def check_one_convolution(fold: Callable[[Tensor], Tensor]) -> str:
    """Sec. 3.2: `fold(weight)` for weights (c, c, 3, 3) of a convolution with padding 1."""
    for channels in (3, 5):
        weight = torch.randn(channels, channels, 3, 3)
        identity = nn.init.dirac_(torch.empty_like(weight))
        own = torch.eye(channels)[:, :, None, None]
        centre, corner = torch.zeros(2, 3, 3)
        centre[1, 1] = corner[0, 0] = 1
        first = torch.zeros_like(weight)
        first[0, 0, 1, 1] = 1
        mistakes = {
            "the weights are as they were: x is not added yet": weight,
            "this is the shortcut alone: the convolution's own weights are missing": identity,
            "1 is added to every weight: that adds the sum of all neighbours in all channels": weight + 1,
            "1 is added to every centre: then each output channel gets the sum of all input channels": weight + centre,
            "1 is added to all nine weights between a channel and itself: that blurs it": weight + own,
            "1 is added in the corner: that shifts the image by a pixel": weight + corner * own,
            "1 is added for the first channel only": weight + first,
            "1 is subtracted: that takes x away": weight - identity,
            "the centres are set to 1, and what was there is lost: add 1 to it": [
                torch.where(identity > 0, 1, weight),
                torch.where(centre > 0, identity, weight),
            ],
            "1 is added along the diagonal of each kernel: the identity joins channels, not rows and columns": (
                weight + torch.eye(3)
            ),
        }
        given = weight.clone()
        match(fold(given), weight + identity, mistakes)
        expect(torch.equal(given, weight), "your function overwrites the weights it was given: add to a copy")
    return "one more in the middle of each channel's own kernel: a convolution with a shortcut is a convolution"


@exercise("return the gradient (d,) of the loss by x for y = relu(W2 relu(W1 x) + x), from the gradient by y")
def check_gradient_by_hand(gradient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Eq. 1 and the chain rule: `gradient(x, w1, w2, by_y)`, compared with autograd."""
    for width in (12, 8):  # with fewer numbers, mistakes that differ in a few signs would look alike
        x = torch.randn(12, dtype=torch.float64, requires_grad=True)
        w1, w2 = torch.randn(2, width, 12, dtype=torch.float64) / 3  # so that F(x) is about as large as x
        w2, by_y = w2.T, torch.randn(12, dtype=torch.float64)
        y = (w2 @ (w1 @ x).relu() + x).relu()
        right = torch.autograd.grad(y, x, by_y)[0]
        x = x.detach()
        match(gradient(x.clone(), w1.clone(), w2.clone(), by_y.clone()), right, wrong_gradients(x, w1, w2, by_y))
    return "it agrees with autograd: the identity's share is multiplied by no weight"


def wrong_gradients(x: Tensor, w1: Tensor, w2: Tensor, by_y: Tensor) -> dict[str, Tensor]:
    """What one mistake in the chain rule gives, by the mistake."""
    hidden, branch = w1 @ x, w2 @ (w1 @ x).relu()
    inner, outer = (hidden > 0).double(), (branch + x > 0).double()
    through = w1.T @ (inner * (w2.T @ (outer * by_y)))
    gradients = {
        "the identity's share is missing: this is the gradient of a plain pair of layers": through,
        "this is the identity's share alone: the gradient through W1 and W2 is missing": outer * by_y,
        "the last ReLU is forgotten: where y is 0, no gradient gets through": by_y + w1.T @ (inner * (w2.T @ by_y)),
        "the identity's share skips the last ReLU: it comes after the addition, so it holds for both": by_y + through,
        "the ReLU between the layers is forgotten": outer * by_y + w1.T @ (w2.T @ (outer * by_y)),
        "all ReLUs are forgotten": by_y + w1.T @ (w2.T @ by_y),
        "the last ReLU looks at W2 relu(W1 x) alone: it sees the sum with x": (branch > 0) * by_y
        + w1.T @ (inner * (w2.T @ ((branch > 0) * by_y))),
        "the identity's share is subtracted": through - outer * by_y,
        "your identity contributes 1: that is its derivative, by which the gradient is multiplied": 1 + through,
        "your identity contributes x: what comes back along it is the gradient": x + through,
        "you do not transpose J_F: that goes forwards, through W1 and then W2": (
            outer * by_y + w2 @ (inner * (w1 @ (outer * by_y)))
        ),
        "the last ReLU comes first on the way back: it cuts the gradient before W2, and not the sum at the end": (
            outer * (by_y + w1.T @ (inner * (w2.T @ by_y)))
        ),
    }
    if w1.shape == w2.shape:
        backwards = w1 @ (inner * (w2 @ (outer * by_y)))
        gradients["backwards, a matrix is transposed: W1.T and W2.T"] = outer * by_y + backwards
        swapped = w2.T @ (inner * (w1.T @ (outer * by_y)))
        gradients["the gradient goes through W1 before W2: backwards, the last layer comes first"] = (
            outer * by_y + swapped
        )
    return gradients | wrong_relus(w1, w2, by_y, hidden, branch + x)


def wrong_relus(w1: Tensor, w2: Tensor, by_y: Tensor, hidden: Tensor, total: Tensor) -> dict[str, Tensor]:
    """What mistakes about a ReLU's gradient give, for the inputs `hidden` and `total` of the two ReLUs."""
    inner, by_z = (hidden > 0).double(), (total > 0) * by_y
    sign = "a ReLU lets the gradient through where its input was positive, whatever the gradient's own sign is"
    scaled = by_y * total.relu()
    return {
        f"{sign} (the last ReLU)": by_y.relu() + w1.T @ (inner * (w2.T @ by_y.relu())),
        f"{sign} (the ReLU between the layers)": by_z + w1.T @ (w2.T @ by_z).relu(),
        f"{sign} (both ReLUs)": by_y.relu() + w1.T @ (w2.T @ by_y.relu()).relu(),
        "the gradient is multiplied by the ReLUs' outputs: it is multiplied by 1 where that is positive, by 0 "
        "elsewhere": scaled + w1.T @ (hidden.relu() * (w2.T @ scaled)),
    }
