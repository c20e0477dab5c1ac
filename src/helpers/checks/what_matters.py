"""Checks of notebook 12: the strength of a shortcut, the pre-activation block, a block removed."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers.analysis import with_statistics, without_block
from helpers.checks.blocks import Layers, expect_block, preactivation
from helpers.checks.verdict import Mistake, exercise, expect, match
from helpers.models import BasicBlock, ResNet, Spec


@exercise("write weakened(block, x, strength): what the block outputs when its shortcut is multiplied by the strength")
def check_weakened(weakened: Callable[[BasicBlock, Tensor, float], Tensor]) -> str:
    """relu(F(x) + strength * shortcut(x)) of a basic block, with and without a change of shape, in both modes."""
    for block in (BasicBlock(4, 4), BasicBlock(4, 6, stride=2), BasicBlock(4, 6, stride=2, shortcut="B")):
        for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.uniform_(norm.bias, -1, 1)
        x, whole, shortcut = torch.rand(6, 4, 6, 6), copy.deepcopy(block), block.shortcut
        before = [weight.clone() for weight in block.parameters()]
        for strength, training in ((0.25, False), (0.0, False), (1.0, False), (0.5, True)):
            whole.train(training)
            given = x.clone()
            try:
                found = weakened(block.train(training), given, strength)
            except RuntimeError as error:
                expect(block.conv1.stride == (1, 1), "where the shape changes, x does not fit: take block.shortcut(x)")
                raise error
            kept = "your function overwrites x, which `*=` does where the shortcut is the identity: write strength * …"
            expect(torch.equal(given, x), kept)
            expect(block.training == training, "the block itself has changed: leave it in the mode in which it came")
            same = all(torch.equal(old, weight) for old, weight in zip(before, block.parameters(), strict=False))
            same = same and block.shortcut is shortcut and torch.equal(shortcut(x), whole.shortcut(x))
            expect(same, "the block itself has changed: leave weights and shortcut alone, and multiply what is added")
            match(found, *strengths(whole, x, strength))
    return "the branch as it is, the shortcut at its strength, ReLU last"


def strengths(block: BasicBlock, x: Tensor, s: float) -> tuple[Tensor, dict[str, Tensor]]:
    """What is right at strength `s`, and what each mistake gives instead."""
    f, shortcut = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())), block.shortcut(x)
    mistakes = {
        "the ReLU between the two layers is missing: F is convolution, BN, ReLU, convolution, BN": (
            block.bn2(block.conv2(block.bn1(block.conv1(x)))) + s * shortcut
        ),
        "the first BN is missing: F is convolution, BN, ReLU, convolution, BN": (
            block.bn2(block.conv2(block.conv1(x).relu())) + s * shortcut
        ),
        "the last BN is missing: F is convolution, BN, ReLU, convolution, BN": (
            block.conv2(block.bn1(block.conv1(x)).relu()) + s * shortcut
        ),
        "both BNs are missing: F is convolution, BN, ReLU, convolution, BN": (
            block.conv2(block.conv1(x).relu()) + s * shortcut
        ),
        "the strength has no effect: this is the residual block as it was": (f + shortcut).relu(),
        "the shortcut is left out: this is the plain block": f.relu(),
        "the branch is multiplied by the strength: it stays as it is, and the shortcut is multiplied": s * f + shortcut,
        "branch and shortcut are both multiplied by the strength: only the shortcut is": s * (f + shortcut),
        "the branch is multiplied by 1 - strength, as a gate would do: it stays as it is": (1 - s) * f + s * shortcut,
        "the branch is multiplied by 1 - strength, and the shortcut not at all": (1 - s) * f + shortcut,
        "the shortcut is multiplied by 1 - strength: at strength 1 the net is the residual one": f + (1 - s) * shortcut,
        "the strength multiplies what goes into the shortcut: multiply what comes out": f + block.shortcut(s * x),
        "the strength is squared: multiply once": f + s * s * shortcut,
        "the strength is added: it multiplies the shortcut": f + shortcut + s,
    }
    mistakes = {mistake: output.relu() for mistake, output in mistakes.items()}
    mistakes |= {
        "the last ReLU is missing: it comes after the addition": f + s * shortcut,
        "ReLU comes before the addition: it comes after": f.relu() + s * shortcut,
    }
    return (f + s * shortcut).relu(), mistakes


@exercise("write MyPreactivation: BN, ReLU, convolution, twice; then add the input as it came, and nothing after that")
def check_preactivation(make: Callable[[int], nn.Module]) -> str:
    """arXiv:1603.05027, Fig. 4e: `make(channels)` is the block of two 3x3 layers with an identity shortcut."""
    for channels in (4, 3):
        kernels = [(channels, channels, 3, 3)] * 2
        expect_block(make(channels), torch.randn(6, channels, 5, 5), kernels, preactivation, lambda y: y, wrong_outputs)
    return "BN and ReLU before each convolution, and the sum passed on as it is"


def wrong_outputs(x: Tensor, layers: Layers) -> dict[str, Tensor]:
    """What a pre-activation block of two layers with one mistake would output, by the mistake."""
    (conv1, norm1), (conv2, norm2) = layers
    f = preactivation(x, layers)
    front, inner = norm1(x).relu(), norm2(conv1(norm1(x).relu()))
    post = norm2(conv2(norm1(conv1(x)).relu()))
    relu_first = conv2(norm2(conv1(norm1(x.relu())).relu()))
    return {
        "this is the original block, post-activation: convolution, then BN, and ReLU after the addition": (
            (post + x).relu()
        ),
        "BN follows each convolution: in a pre-activation block it comes before": post + x,
        "BN follows each convolution, and only ReLU comes before": norm2(conv2(norm1(conv1(x.relu())).relu())) + x,
        "a ReLU is left after the addition: the sum goes on as it is": (f + x).relu(),
        "x is never added: this is a plain stack of layers": f,
        "ReLU comes before BN: it is BN, ReLU, convolution": relu_first + x,
        "the shortcut begins after the first BN and ReLU: what is added is the block's input": f + front,
        "the shortcut begins after the first BN: what is added is the block's input": f + norm1(x),
        "the shortcut carries relu(x): it carries x as it came in": f + x.relu(),
        "ReLU comes before the addition: F(x) must be free to be negative": f.relu() + x,
        "the first ReLU is missing": conv2(norm2(conv1(norm1(x))).relu()) + x,
        "the second ReLU is missing": conv2(inner) + x,
        "both ReLUs are missing: without one, the convolutions are a single linear layer": (
            conv2(norm2(conv1(norm1(x)))) + x
        ),
        "the first BN is missing or unused": conv2(norm2(conv1(x.relu())).relu()) + x,
        "the first BN and ReLU are missing: x goes into the first convolution as it is": conv2(norm2(conv1(x)).relu())
        + x,
        "the second BN is missing or unused": conv2(conv1(front).relu()) + x,
        "the sum goes through BN: nothing follows the addition": norm2(conv2(conv1(front).relu()) + x),
    }


@exercise(
    "write lesion(network, k): a copy of the network in which the branch of block k is gone and its shortcut stays"
)
def check_lesion(lesion: Callable[[ResNet, int], nn.Module]) -> str:
    """Veit et al. 2016: compared by its outputs, for every block, one that changes the shape among them."""
    images = torch.randn(8, 3, 8, 8)
    network = with_statistics(ResNet(Spec((2, 1, 1), (4, 6, 8))), images)
    for block in network.blocks:
        nn.init.uniform_(block.bn2.bias, -1, 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    whole, blocks = network(images), list(network.blocks)
    wrong = wrong_lesions(network)
    for k, block in enumerate(blocks):
        try:
            left = lesion(network, k)
            expect(isinstance(left, nn.Module), f"a network is wanted, and this is of type {type(left).__name__}")
            outputs = copy.deepcopy(left).eval()(images)
        except NotImplementedError:
            raise
        except RuntimeError as error:
            expect(
                block.conv1.stride == (1, 1),
                f"block {k} changes the shape: what is left of it is its shortcut, not its input",
            )
            raise Mistake(f"for block {k}, the network no longer fits together: {error}") from None
        same = all(torch.equal(before.get(name), tensor) for name, tensor in network.state_dict().items())
        kept = "the network itself has lost its block: work on a copy.deepcopy, since copy.copy shares the blocks"
        expect(same and list(network.blocks) == blocks and torch.equal(network.eval()(images), whole), kept)
        mistakes = {mistake: change(k)(images) for mistake, change in wrong.items()}
        match(outputs, without_block(network, k)(images), mistakes)
        mode = (
            "the network came in evaluation mode and yours is in training mode, where the batch decides: leave the mode"
        )
        expect(not left.training, mode)
    mode = "the network came in training mode and yours is in evaluation mode: leave the mode"
    expect(lesion(network.train(), 0).training, mode)
    return "block k passes on what its shortcut carries, and the network itself is whole"


def wrong_lesions(network: ResNet) -> dict[str, Callable[[int], nn.Module]]:
    """How each mistake would remove block k."""
    count = len(network.blocks)

    def changed(k: int, change: Callable[[BasicBlock], None]) -> nn.Module:
        other = copy.deepcopy(network)
        change(other.blocks[k])
        return other

    def without(*which: int) -> nn.Module:
        other = network
        for k in which:
            other = without_block(other, k)
        return other

    def no_scale(block: BasicBlock) -> None:
        nn.init.zeros_(block.bn2.weight)

    return {
        "nothing is removed: this network gives what the whole one does": lambda k: network,
        "the shortcut is removed instead of the branch: block k is plain now": lambda k: changed(
            k, lambda block: setattr(block, "shortcut", None)
        ),
        "the scale of the last BN is zero and its shift is not: the branch still adds a constant": lambda k: changed(
            k, no_scale
        ),
        "the block after is removed: blocks count from 0": lambda k: without((k + 1) % count),
        "the block before is removed: blocks count from 0": lambda k: without(k - 1),
        "all blocks from k on are removed, and only block k should be": lambda k: without(*range(k, count)),
        "all blocks up to k are removed, and only block k should be": lambda k: without(*range(k + 1)),
        "all blocks but k are removed, and only block k should be": lambda k: without(
            *(other for other in range(count) if other != k)
        ),
    }
