import copy

import pytest
import torch
import torch.nn.functional as F
from mutants import assert_named, parametrised
from torch import nn

from helpers import checks
from helpers.analysis import without_block
from helpers.models import PreactivationBlock, Scale, conv


def branch(block, x):
    return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))


def weakened(block, x, strength):
    return F.relu(branch(block, x) + strength * block.shortcut(x))


def weakening_for_good(block, x, strength):
    found = weakened(block, x, strength)
    with torch.no_grad():
        block.bn2.weight *= 0.5
    return found


def in_place(block, x, strength):
    y, shortcut = branch(block, x), block.shortcut(x)
    shortcut *= strength
    return F.relu(y + shortcut)


def part_exchanged(block, x, strength):
    block.shortcut = nn.Sequential(block.shortcut, Scale(strength))
    return block(x)


def shortcut_hooked(block, x, strength):
    block.shortcut.register_forward_hook(lambda module, inputs, output: 0 * output)
    return block(x)


WEAKENED = {
    "no effect": (lambda b, x, s: weakened(b, x, 1), "no effect"),
    "plain": (lambda b, x, s: branch(b, x).relu(), "shortcut is left out"),
    "branch": (lambda b, x, s: (s * branch(b, x) + b.shortcut(x)).relu(), "branch is multiplied by the strength"),
    "both": (lambda b, x, s: (s * (branch(b, x) + b.shortcut(x))).relu(), "both multiplied"),
    "behind ReLU": (lambda b, x, s: s * (branch(b, x) + b.shortcut(x)).relu(), "both multiplied"),
    "gate": (lambda b, x, s: ((1 - s) * branch(b, x) + s * b.shortcut(x)).relu(), "as a gate would do"),
    "reversed": (lambda b, x, s: weakened(b, x, 1 - s), "multiplied by 1 - strength"),
    "squared": (lambda b, x, s: weakened(b, x, s**2), "squared"),
    "added": (lambda b, x, s: (branch(b, x) + b.shortcut(x) + s).relu(), "is added"),
    "no ReLU": (lambda b, x, s: branch(b, x) + s * b.shortcut(x), "last ReLU is missing"),
    "early ReLU": (lambda b, x, s: branch(b, x).relu() + s * b.shortcut(x), "ReLU comes before the addition"),
    "one ReLU": (lambda b, x, s: (b.bn2(b.conv2(b.bn1(b.conv1(x)))) + s * b.shortcut(x)).relu(), "between the two"),
    "no first norm": (lambda b, x, s: (b.bn2(b.conv2(b.conv1(x).relu())) + s * b.shortcut(x)).relu(), "the first BN"),
    "no last norm": (lambda b, x, s: (b.conv2(b.bn1(b.conv1(x)).relu()) + s * b.shortcut(x)).relu(), "the last BN"),
    "no norms": (lambda b, x, s: (b.conv2(b.conv1(x).relu()) + s * b.shortcut(x)).relu(), "both BNs"),
    "x itself": (lambda b, x, s: (branch(b, x) + s * x).relu(), "take block.shortcut(x)"),
    "before the shortcut": (lambda b, x, s: (branch(b, x) + b.shortcut(s * x)).relu(), "what goes into the shortcut"),
    "evaluation": (lambda b, x, s: weakened(b.eval(), x, s), "leave it in the mode"),
    "in place": (in_place, "overwrites x"),
    "weights changed": (weakening_for_good, "the block itself has changed"),
    "part exchanged": (part_exchanged, "leave weights and shortcut alone"),
    "shortcut hooked": (shortcut_hooked, "leave weights and shortcut alone"),
}


class Right(nn.Module):
    """The answer; a mutant overrides one of the lines that it is made of."""

    def __init__(self, channels):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1, self.conv2 = conv(channels, channels, 3), conv(channels, channels, 3)

    def front(self, x):
        return F.relu(self.bn1(x))

    def layers(self, x):
        return self.conv2(F.relu(self.bn2(self.conv1(self.front(x)))))

    def forward(self, x):
        return self.layers(x) + x


class OtherOrder(nn.Module):
    """Right: made from the last layer to the first, in containers, ReLU in place."""

    def __init__(self, channels):
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
        self.late = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), last)
        first = nn.Conv2d(channels, channels, (3, 3), 1, 1, bias=False)
        self.early = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), first)

    def forward(self, x):
        return torch.add(x, self.late(self.early(x)))


def changed(**methods):
    return type("Changed", (Right,), methods)


def post(s, x):
    return s.bn2(s.conv2(s.bn1(s.conv1(x)).relu()))


def overwrite(self, x):
    y = self.layers(x)
    x += y
    return x


class WithoutNorms(Right):
    def __init__(self, channels):
        super().__init__(channels)
        self.bn1, self.bn2 = nn.Identity(), nn.Identity()


class WithOneNorm(Right):
    def __init__(self, channels):
        super().__init__(channels)
        self.bn2 = self.bn1


PREACTIVATIONS = {
    "post-activation": (changed(forward=lambda s, x: (post(s, x) + x).relu()), "original block, post-activation"),
    "post without the last ReLU": (changed(forward=lambda s, x: post(s, x) + x), "BN follows each convolution"),
    "ReLU only": (
        changed(forward=lambda s, x: s.bn2(s.conv2(s.bn1(s.conv1(x.relu())).relu())) + x),
        "only ReLU comes before",
    ),
    "final ReLU left": (changed(forward=lambda s, x: (s.layers(x) + x).relu()), "left after the addition"),
    "missing addition": (changed(forward=lambda s, x: s.layers(x)), "never added"),
    "ReLU before BN": (
        changed(layers=lambda s, x: s.conv2(s.bn2(s.conv1(s.bn1(x.relu())).relu()))),
        "BN, ReLU, convolution",
    ),
    "late shortcut": (changed(forward=lambda s, x: s.layers(x) + s.front(x)), "after the first BN and ReLU"),
    "shortcut behind BN": (changed(forward=lambda s, x: s.layers(x) + s.bn1(x)), "after the first BN:"),
    "shortcut of relu(x)": (changed(forward=lambda s, x: s.layers(x) + x.relu()), "carries relu(x)"),
    "ReLU before the addition": (changed(forward=lambda s, x: s.layers(x).relu() + x), "free to be negative"),
    "first ReLU missing": (changed(front=lambda s, x: s.bn1(x)), "the first ReLU is missing"),
    "second ReLU missing": (
        changed(layers=lambda s, x: s.conv2(s.bn2(s.conv1(s.front(x))))),
        "the second ReLU is missing",
    ),
    "no ReLU": (changed(layers=lambda s, x: s.conv2(s.bn2(s.conv1(s.bn1(x))))), "both ReLUs"),
    "first norm unused": (changed(front=lambda s, x: x.relu()), "the first BN is missing"),
    "second norm unused": (
        changed(layers=lambda s, x: s.conv2(s.conv1(s.front(x)).relu())),
        "the second BN is missing",
    ),
    "no front": (changed(front=lambda s, x: x), "goes into the first convolution as it is"),
    "norm of the sum": (
        changed(forward=lambda s, x: s.bn2(s.conv2(s.conv1(s.front(x)).relu()) + x)),
        "the sum goes through BN",
    ),
    "overwrites x": (changed(forward=overwrite), "overwrites its input"),
    "detached": (changed(forward=lambda s, x: s.layers(x) + x.detach()), "no gradient gets through the shortcut"),
    "no norms": (WithoutNorms, "an nn.BatchNorm2d of its own"),
    "one norm": (WithOneNorm, "1 nn.BatchNorm2d"),
    "a function": (lambda channels: lambda x: x, "nn.Module is wanted"),
}


def lesion(network, k):
    network = copy.deepcopy(network)
    network.blocks[k] = network.blocks[k].shortcut
    return network


def zeroing(network, k, change=copy.deepcopy, bias=True):
    network = change(network)
    nn.init.zeros_(network.blocks[k].bn2.weight)
    if bias:
        nn.init.zeros_(network.blocks[k].bn2.bias)
    return network


def replaced(network, k, module, change=copy.deepcopy):
    network = change(network)
    network.blocks[k] = module
    return network


def plain(network, k):
    network = copy.deepcopy(network)
    network.blocks[k].shortcut = None
    return network


def several(network, which):
    for k in which:
        network = without_block(network, k)
    return network


LESIONS = {
    "nothing": (lambda n, k: copy.deepcopy(n), "nothing is removed"),
    "shortcut removed": (plain, "shortcut is removed instead of the branch"),
    "shift left": (lambda n, k: zeroing(n, k, bias=False), "its shift is not"),
    "identity": (lambda n, k: replaced(n, k, nn.Identity()), "block 2 changes the shape"),
    "from k on": (lambda n, k: several(n, range(k, 4)), "all blocks from k on"),
    "one late": (lambda n, k: without_block(n, k + 1), "the block after is removed"),
    "one early": (lambda n, k: without_block(n, k - 1), "the block before is removed"),
    "all others": (lambda n, k: several(n, {0, 1, 2, 3} - {k}), "all blocks but k"),
    "up to k": (lambda n, k: several(n, range(1, k + 1)), "nothing is removed"),
    "network altered": (lambda n, k: zeroing(n, k, lambda n: n), "copy.deepcopy"),
    "block replaced": (lambda n, k: replaced(n, k, n.blocks[k].shortcut, lambda n: n), "copy.deepcopy"),
    "shallow copy": (lambda n, k: zeroing(n, k, copy.copy), "copy.deepcopy"),
    "training mode": (lambda n, k: lesion(n, k).train(), "in training mode"),
    "evaluation mode": (lambda n, k: lesion(n, k).eval(), "in evaluation mode"),
    "an error": (lambda n, k: 10.0, "a network is wanted"),
}


@parametrised(WEAKENED)
def test_a_wrongly_weakened_shortcut_is_told_what_is_wrong(mutant, phrase):
    assert_named(checks.check_weakened(mutant), phrase)


@parametrised(PREACTIVATIONS)
def test_a_wrong_preactivation_block_is_told_what_is_wrong(mutant, phrase):
    assert_named(checks.check_preactivation(mutant), phrase)


@parametrised(LESIONS)
def test_a_wrong_lesion_is_told_what_is_wrong(mutant, phrase):
    assert_named(checks.check_lesion(mutant), phrase)


@pytest.mark.parametrize(
    "answer",
    [weakened, lambda b, x, s: torch.clamp(b.shortcut(x) * s + branch(b, x), min=0), lambda b, x, s: (
        b(x) if s == 1 else nn.ReLU()(torch.add(branch(b, x), b.shortcut(x), alpha=s)))],
)  # fmt: skip
def test_a_rightly_weakened_shortcut_is_accepted(answer):
    assert checks.check_weakened(answer).state == "right", checks.check_weakened(answer)


@pytest.mark.parametrize("make", [Right, OtherOrder, lambda c: PreactivationBlock(c, c)], ids=["own", "other", "ours"])
def test_right_preactivation_blocks_are_accepted(make):
    assert checks.check_preactivation(make).state == "right", checks.check_preactivation(make)


@pytest.mark.parametrize("answer", [lesion, zeroing, without_block])
def test_right_lesions_are_accepted(answer):
    assert checks.check_lesion(answer).state == "right", checks.check_lesion(answer)
