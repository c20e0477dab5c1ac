import pytest
import torch
import torch.nn.functional as F
from mutants import assert_named, parametrised
from torch import nn

from helpers import checks
from helpers.models import BasicBlock, conv


class Right(nn.Module):
    """The answer; a mutant overrides `make`, `forward` or one of the lines that it is made of."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels, 3), conv(channels, channels, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def layers(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def forward(self, x):
        return F.relu(self.layers(x) + x)


class OtherOrder(nn.Module):
    """Right: layers made from the last to the first, in containers, ReLU in place."""

    def __init__(self, channels):
        super().__init__()
        self.late = nn.ModuleList([nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, 1, 1, bias=False)])
        early = [nn.Conv2d(channels, channels, (3, 3), padding="same", bias=False), nn.BatchNorm2d(channels)]
        self.early = nn.Sequential(*early, nn.ReLU(inplace=True))

    def forward(self, x):
        y = self.late[0](self.late[1](self.early(x)))
        y += x
        return torch.clamp_(y, min=0)


def changed(**methods):
    return type("Changed", (Right,), methods)


def made(change):
    """The answer with its layers changed after they were made."""

    class Made(Right):
        def __init__(self, channels):
            super().__init__(channels)
            change(self, channels)

    return Made


def overwrite(self, x):
    x += self.layers(x)
    return x.relu()


def after_first(self, x):
    y = F.relu(self.bn1(self.conv1(x)))
    return F.relu(self.bn2(self.conv2(y)) + y)


def around_each(self, x):
    y = F.relu(self.bn1(self.conv1(x)) + x)
    return F.relu(self.bn2(self.conv2(y)) + y)


def preactivated(self, x):
    return self.conv2(self.bn2(self.conv1(self.bn1(x).relu())).relu()) + x


BLOCKS = {
    "missing addition": (changed(forward=lambda s, x: s.layers(x).relu()), "never added"),
    "ReLU before the addition": (changed(forward=lambda s, x: s.layers(x).relu() + x), "before the addition and not"),
    "ReLU on both sides": (changed(forward=lambda s, x: (s.layers(x).relu() + x).relu()), "as well as after"),
    "no last ReLU": (changed(forward=lambda s, x: s.layers(x) + x), "last ReLU is missing"),
    "no first ReLU": (changed(layers=lambda s, x: s.bn2(s.conv2(s.bn1(s.conv1(x))))), "no ReLU between"),
    "first norm unused": (changed(layers=lambda s, x: s.bn2(s.conv2(s.conv1(x).relu()))), "after convolution 1"),
    "last norm unused": (changed(layers=lambda s, x: s.conv2(s.bn1(s.conv1(x)).relu())), "after convolution 2"),
    "norms unused": (changed(layers=lambda s, x: s.conv2(s.conv1(x).relu())), "never used"),
    "ReLU before norm": (changed(layers=lambda s, x: s.bn2(s.conv2(s.bn1(s.conv1(x).relu())))), "before batch norm"),
    "late shortcut": (changed(forward=after_first), "begins after the first layer"),
    "shortcut of relu(x)": (changed(forward=lambda s, x: (s.layers(x) + x.relu()).relu()), "carries relu(x)"),
    "relu(x) first": (changed(forward=lambda s, x: Right.forward(s, x.relu())), "through ReLU first"),
    "added before norm": (
        changed(forward=lambda s, x: s.bn2(s.conv2(s.bn1(s.conv1(x)).relu()) + x).relu()),
        "before the last batch norm",
    ),
    "subtracted": (changed(forward=lambda s, x: (s.layers(x) - x).relu()), "subtracted"),
    "mean": (changed(forward=lambda s, x: ((s.layers(x) + x) / 2).relu()), "divided by two"),
    "product": (changed(forward=lambda s, x: (s.layers(x) * x).relu()), "multiplied"),
    "concatenated": (changed(forward=lambda s, x: torch.cat([s.layers(x), x], 1).relu()), "side by side"),
    "overwrites x": (changed(forward=overwrite), "overwrites its input"),
    "detached x": (changed(forward=lambda s, x: (s.layers(x) + x.detach()).relu()), "through the shortcut"),
    "detached F": (changed(forward=lambda s, x: (s.layers(x).detach() + x).relu()), "through the layers"),
    "bn1 twice": (
        changed(layers=lambda s, x: s.bn1(s.conv2(F.relu(s.bn1(s.conv1(x)))))),
        "one batch normalisation is used twice",
    ),
    "conv2 twice": (
        changed(layers=lambda s, x: s.bn2(s.conv2(F.relu(s.bn1(s.conv2(x)))))),
        "one convolution is used twice",
    ),
    "neither addition nor last ReLU": (changed(forward=lambda s, x: s.layers(x)), "and the last ReLU is missing"),
    "x around each layer": (changed(forward=around_each), "around each layer"),
    "one convolution": (made(lambda s, c: setattr(s, "conv2", s.conv1)), "1 nn.Conv2d"),
    "one norm": (made(lambda s, c: setattr(s, "bn2", s.bn1)), "1 nn.BatchNorm2d"),
    "no norms": (made(lambda s, c: (setattr(s, "bn1", nn.Identity()), setattr(s, "bn2", nn.Identity()))), "no batch"),
    "projection": (made(lambda s, c: setattr(s, "conv3", conv(c, c, 1))), "identity shortcut has none"),
    "a learned share": (made(lambda s, c: setattr(s, "share", nn.Parameter(torch.ones(c)))), "outside the layers"),
    "1x1 kernels": (made(lambda s, c: setattr(s, "conv1", conv(c, c, 1))), "kernel sizes"),
    "bias": (made(lambda s, c: setattr(s, "conv1", nn.Conv2d(c, c, 3, padding=1))), "bias=False"),
    "no padding": (made(lambda s, c: setattr(s, "conv1", nn.Conv2d(c, c, 3, bias=False))), "maps of 3x3 from 5x5"),
    "stride": (made(lambda s, c: setattr(s, "conv2", conv(c, c, 3, 2))), "padding and its stride"),
    "dilation": (
        made(lambda s, c: setattr(s, "conv1", nn.Conv2d(c, c, 3, padding=2, dilation=2, bias=False))),
        "no dilation",
    ),
    "circular": (
        made(lambda s, c: setattr(s, "conv1", nn.Conv2d(c, c, 3, padding=1, padding_mode="circular", bias=False))),
        "no padding_mode",
    ),
    "pre-activation": (changed(forward=preactivated), "pre-activation"),
    "nothing to scale": (made(lambda s, c: setattr(s, "bn1", nn.BatchNorm2d(c, affine=False))), "not affine=False"),
    "no averages": (
        made(lambda s, c: setattr(s, "bn1", nn.BatchNorm2d(c, track_running_stats=False))),
        "moving averages",
    ),
    "returns nothing": (changed(forward=lambda s, x: None), "is a return missing?"),
    "a function": (lambda channels: lambda x: x, "nn.Module is wanted"),
}


@parametrised(BLOCKS)
def test_a_block_with_one_mistake_is_told_which(mutant, phrase):
    assert_named(checks.check_block(mutant), phrase)


@pytest.mark.parametrize("make", [Right, OtherOrder, lambda c: BasicBlock(c, c)], ids=["Right", "OtherOrder", "ours"])
def test_right_blocks_are_accepted(make):
    assert checks.check_block(make).state == "right", checks.check_block(make)


def middle(weight):
    return nn.init.dirac_(torch.empty_like(weight))


def add_at(*where):
    """1 added to the weights at `where`, whichever channels they join."""

    def fold(weight):
        weight = weight.clone()
        weight[where] += 1
        return weight

    return fold


def in_place(weight):
    weight += middle(weight)
    return weight


def centres_of_an_identity(weight):
    weight = weight.clone()
    weight[:, :, 1, 1] = torch.eye(len(weight))
    return weight


every = slice(None)
FOLDS = {
    "unchanged": (lambda w: w, "not added yet"),
    "only the shortcut": (middle, "shortcut alone"),
    "everywhere": (lambda w: w + 1, "every weight"),
    "all centres": (add_at(every, every, 1, 1), "every centre"),
    "all nine": (lambda w: w + torch.eye(len(w))[:, :, None, None], "blurs"),
    "corner": (lambda w: w + middle(w).roll((-1, -1), (2, 3)), "shifts"),
    "first channel": (add_at(0, 0, 1, 1), "first channel only"),
    "subtracted": (lambda w: w - middle(w), "takes x away"),
    "set to 1": (lambda w: torch.where(middle(w) > 0, 1, w), "centres are set to 1"),
    "centres of an identity": (centres_of_an_identity, "centres are set to 1"),
    "diagonals": (lambda w: w + torch.eye(3), "not rows and columns"),
    "in place": (in_place, "overwrites the weights"),
    "1x1": (lambda w: torch.eye(len(w))[:, :, None, None], "the shape is (3, 3, 1, 1)"),
    "a number": (lambda w: 1.0, "of type float"),
    "1 everywhere else": (lambda w: w + 1 - middle(w), "begin at the formula"),
}


@parametrised(FOLDS)
def test_a_wrong_convolution_is_told_why(mutant, phrase):
    assert_named(checks.check_one_convolution(mutant), phrase)


def by_loop(weight):
    weight = weight.clone()
    for channel in range(len(weight)):
        weight[channel, channel, 1, 1] += 1
    return weight


def padded(weight):
    return weight + F.pad(torch.eye(len(weight))[:, :, None, None], (1, 1, 1, 1))


@pytest.mark.parametrize("fold", [by_loop, padded, lambda w: nn.Parameter(w + middle(w))])
def test_right_convolutions_are_accepted(fold):
    assert checks.check_one_convolution(fold).state == "right"


def by_hand(outer=None, inner=None, identity=1, through=1):
    """The gradient, with one piece replaced: masks as functions of (x, hidden, branch), shares by a factor."""

    def gradient(x, w1, w2, by_y):
        hidden = w1 @ x
        branch = w2 @ hidden.relu()
        g = by_y * (outer(x, hidden, branch) if outer else branch + x > 0)
        return identity * g + through * (w1.T @ ((inner(x, hidden, branch) if inner else hidden > 0) * (w2.T @ g)))

    return gradient


def ones(x, hidden, branch):
    return 1


def half_masked(x, w1, w2, by_y):
    return by_y + by_hand(identity=0)(x, w1, w2, by_y)


def not_transposed(x, w1, w2, by_y):
    return by_hand()(x, w1, w2, by_y) - by_hand(identity=0)(x, w1, w2, by_y) + turned(x, w1, w2, by_y)


def turned(x, w1, w2, by_y):
    hidden = w1 @ x
    return w1 @ ((hidden > 0) * (w2 @ (by_y * (w2 @ hidden.relu() + x > 0))))


def forwards(x, w1, w2, by_y):
    hidden = w1 @ x
    g = by_y * (w2 @ hidden.relu() + x > 0)
    return g + w2 @ ((hidden > 0) * (w1 @ g))


def swapped(x, w1, w2, by_y):
    hidden = w1 @ x
    g = by_y * (w2 @ hidden.relu() + x > 0)
    return g + w2.T @ ((hidden > 0) * (w1.T @ g))


def last_relu_late(x, w1, w2, by_y):
    return by_hand(outer=ones)(x, w1, w2, by_y) * (w2 @ (w1 @ x).relu() + x > 0)


def relu_of_gradients(last, inner):
    """ReLU applied to the gradient itself on its way through one ReLU or both."""

    def gradient(x, w1, w2, by_y):
        hidden = w1 @ x
        by_z = by_y.relu() if last else by_y * (w2 @ hidden.relu() + x > 0)
        by_hidden = w2.T @ by_z
        return by_z + w1.T @ (by_hidden.relu() if inner else by_hidden * (hidden > 0))

    return gradient


GRADIENTS = {
    "no identity": (by_hand(identity=0), "identity's share is missing"),
    "only the identity": (by_hand(through=0), "identity's share alone"),
    "no last ReLU": (by_hand(outer=ones), "last ReLU is forgotten"),
    "no inner ReLU": (by_hand(inner=ones), "between the layers is forgotten"),
    "no ReLU": (by_hand(ones, ones), "all ReLUs"),
    "ReLU of F": (by_hand(outer=lambda x, hidden, branch: branch > 0), "looks at W2"),
    "identity past the last ReLU": (half_masked, "skips the last ReLU"),
    "subtracted": (by_hand(identity=-1), "is subtracted"),
    "not transposed": (not_transposed, "transposed"),
    "forwards": (forwards, "do not transpose J_F"),
    "swapped": (swapped, "W1 before W2"),
    "share of 1": (lambda *a: 1 + by_hand(identity=0)(*a), "contributes 1"),
    "share of x": (lambda *a: a[0] + by_hand(identity=0)(*a), "contributes x"),
    "last ReLU at the end": (last_relu_late, "comes first on the way back"),
    "relu of by_y": (relu_of_gradients(True, False), "own sign is (the last ReLU)"),
    "relu of the inner gradient": (relu_of_gradients(False, True), "own sign is (the ReLU between"),
    "relu of both": (relu_of_gradients(True, True), "own sign is (both"),
    "times the output": (
        by_hand(lambda x, hidden, branch: (branch + x).relu(), lambda x, hidden, branch: hidden.relu()),
        "multiplied by the ReLUs' outputs",
    ),
    "mask of x": (by_hand(inner=lambda x, hidden, branch: x > 0), "begin at the formula"),
}


@parametrised(GRADIENTS)
def test_a_wrong_gradient_is_told_why(mutant, phrase):
    assert_named(checks.check_gradient_by_hand(mutant), phrase)


def by_autograd(x, w1, w2, by_y):
    x = x.clone().requires_grad_()
    F.relu(F.linear(F.linear(x, w1).relu(), w2) + x).backward(by_y)
    return x.grad


def by_jacobian(x, w1, w2, by_y):
    inner, outer = torch.diag((w1 @ x > 0).double()), torch.diag((w2 @ (w1 @ x).relu() + x > 0).double())
    return by_y @ outer @ (torch.eye(len(x)) + w2 @ inner @ w1)


@pytest.mark.parametrize("gradient", [by_hand(), by_autograd, by_jacobian])
def test_right_gradients_are_accepted(gradient):
    assert checks.check_gradient_by_hand(gradient).state == "right"
