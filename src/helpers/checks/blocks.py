"""What a residual block is measured by: which layers it has, what it outputs, which gradient it lets through.

Attributes may have any name, and layers be made in any order: only what the block does counts.
"""

from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor, nn

from helpers.checks.verdict import expect, match

Layers = list[tuple[nn.Conv2d, nn.BatchNorm2d]]  # in the order in which they are used
Kernels = list[tuple[int, int, int, int]]  # the shapes of the convolutions' weights, in that order
Branch = Callable[[Tensor, Layers], Tensor]  # F(x), by these layers


def expect_residual(block: nn.Module, x: Tensor, kernels: Kernels) -> None:
    """Raise Mistake unless `block` is relu(F(x) + x): F is convolutions, batch normalisation after each, ReLU between.

    `x` is (n, c, h, w), and `kernels` are the shapes of the convolutions' weights.
    """
    expect_block(
        block, x, kernels, branch, torch.relu, lambda x, layers: wrong_sums(x, layers) | wrong_branches(x, layers)
    )


def expect_block(
    block: nn.Module, x: Tensor, kernels: Kernels, branch: Branch, last: Callable, wrong: Callable
) -> None:
    """Raise Mistake unless `block` is last(branch(x, layers) + x), in both modes and in its gradient.

    wrong(x, layers) is what a block with one mistake would output, by the mistake. The block's batch normalisations
    get random scales and shifts: at 1 and 0, some mistakes would not show.
    """
    expect(isinstance(block, nn.Module), f"an nn.Module is wanted, and this is of type {type(block).__name__}")
    convs, norms = find_layers(block, x, kernels)
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    orders, before = arrange(convs, norms, kernels), x.clone()
    for training in (True, False):
        found = block.train(training)(x)
        expect(
            torch.equal(x, before), "your block overwrites its input, as `x += y` or ReLU in place does: write `x + y`"
        )
        mistakes = {}
        for layers in orders:
            for mistake, output in wrong(x, layers).items():
                mistakes.setdefault(mistake, []).append(output)
        match(found, [last(branch(x, layers) + x) for layers in orders], mistakes)
    expect_gradient(block, x, [lambda x, layers=layers: branch(x, layers) for layers in orders], last)


def find_layers(block: nn.Module, x: Tensor, kernels: Kernels) -> tuple[list[nn.Conv2d], list[nn.BatchNorm2d]]:
    """The block's convolutions and batch normalisations. Raises Mistake unless they are those that F needs."""
    convs = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    shapes, count = [tuple(conv.weight.shape) for conv in convs], len(kernels)
    expect(convs, "there is no nn.Conv2d in the block: make the layers in __init__ and keep them as attributes")
    expect(norms, "there is no batch normalisation: each convolution has an nn.BatchNorm2d of its own")
    own = f"the block has {count} layers, and yours has {{}} nn.{{}}: each layer has one of its own, used once"
    expect(len(convs) >= count, own.format(len(convs), "Conv2d"))
    expect(len(norms) >= count, own.format(len(norms), "BatchNorm2d"))
    many = "there are more layers than {}: the identity shortcut has none, and no parameters"
    expect(len(convs) == len(norms) == count, many.format(count))
    wanted = f"the weights of your convolutions have the shapes {shapes}, and {kernels} are right"
    expect(sorted(shapes) == sorted(kernels), f"{wanted}: look at their channels and kernel sizes")
    channels, wanted = [norm.num_features for norm in norms], [shape[0] for shape in kernels]
    expect(sorted(channels) == sorted(wanted), f"your BatchNorm2d are of {channels} channels, and {wanted} are right")
    expect(all(norm.affine for norm in norms), "batch normalisation has a scale and a shift to learn: not affine=False")
    averages = all(norm.track_running_stats for norm in norms)
    expect(averages, "batch normalisation keeps moving averages for evaluation: not track_running_stats=False")
    for conv in convs:
        expect(conv.bias is None, "the convolutions have no bias here, since batch normalisation has one: bias=False")
        plain = conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        expect(
            plain,
            "a convolution looks at the pixels next to one, with zeros around the map: no dilation, no padding_mode",
        )
        size = conv(x.new_zeros(1, conv.in_channels, *x.shape[2:])).shape[2:]
        change = f"a convolution makes maps of {size[0]}x{size[1]} from {x.shape[2]}x{x.shape[3]}"
        expect(size == x.shape[2:], f"{change}, to which x cannot be added: look at its padding and its stride")
    known = sum(parameter.numel() for layer in (*convs, *norms) for parameter in layer.parameters())
    every = sum(parameter.numel() for parameter in block.parameters())
    expect(known == every, f"there are {every - known} parameters outside the layers: a sum of two things needs none")
    return convs, norms


def arrange(convs: list[nn.Conv2d], norms: list[nn.BatchNorm2d], kernels: Kernels) -> list[Layers]:
    """The layers in every order that fits `kernels`."""
    fits = [some for some in permutations(convs) if [tuple(conv.weight.shape) for conv in some] == kernels]
    widths = [shape[0] for shape in kernels]
    others = [some for some in permutations(norms) if [norm.num_features for norm in some] == widths]
    return [list(zip(some, other, strict=True)) for some in fits for other in others]


def branch(x: Tensor, layers: Layers, no_norm=(), no_relu=(), relu_first: bool = False) -> Tensor:
    """F(x); without batch normalisation or ReLU after the layers of these numbers; ReLU in front of the former."""
    for number, (conv, norm) in enumerate(layers):
        inner = number < len(layers) - 1
        x = conv(x)
        x = x.relu() if relu_first and inner else x
        x = x if number in no_norm else norm(x)
        x = x.relu() if inner and number not in no_relu else x
    return x


def preactivation(x: Tensor, layers: Layers) -> Tensor:
    """F(x) of a pre-activation block (arXiv:1603.05027, Fig. 4e)."""
    for conv, norm in layers:
        x = conv(norm(x).relu())
    return x


def residual(x: Tensor, layers: Layers, **mistake) -> Tensor:
    """Eq. 1 and the second non-linearity after the addition; with a `mistake` of `branch`."""
    return (branch(x, layers, **mistake) + x).relu()


def wrong_sums(x: Tensor, layers: Layers) -> dict[str, Tensor]:
    """Mistakes in how F(x) and x come together."""
    f = branch(x, layers)
    into_last = (branch(x, layers[:-1])).relu()
    conv, norm = layers[-1]
    outputs = {
        "x is never added: this is a plain stack of layers, relu(F(x)) instead of relu(F(x) + x)": f.relu(),
        "ReLU comes before the addition and not after it: relu(F(x)) + x can only raise x": f.relu() + x,
        "ReLU comes before the addition as well as after it: F(x) must be free to be negative": (f.relu() + x).relu(),
        "the last ReLU is missing: it comes after the addition": f + x,
        "x is subtracted: it is to be added": (f - x).relu(),
        "the sum is divided by two: it is to be taken as it is": ((f + x) / 2).relu(),
        "F(x) is multiplied by x: x is to be added": (f * x).relu(),
        "F(x) and x are put side by side, as twice as many channels: add them": torch.cat([f, x], 1).relu(),
        "the shortcut carries relu(x): it carries x as it came in": (f + x.relu()).relu(),
        "x goes through ReLU first: the block takes it as it comes in": residual(x.relu(), layers),
        "x is added before the last batch normalisation: add it after": norm(conv(into_last) + x).relu(),
        "x is never added, and the last ReLU is missing: relu(F(x) + x) is wanted": f,
    }
    if all(conv.in_channels == conv.out_channels for conv, _ in layers):
        each = x
        for layer in layers:
            each = residual(each, [layer])
        outputs["x is added around each layer: the shortcut goes around all of F"] = each
    if (first := branch(x, layers[:1]).relu()).shape == x.shape:
        outputs["the shortcut begins after the first layer: what is added is the block's input"] = residual(
            first, layers[1:]
        )
        outputs[
            "batch normalisation and ReLU come before the convolutions: that is the later, pre-activation block"
        ] = preactivation(x, layers) + x
    return outputs


def wrong_branches(x: Tensor, layers: Layers) -> dict[str, Tensor]:
    """Mistakes within F."""
    every = range(len(layers))
    relu_first = residual(x, layers, no_relu=every, relu_first=True)
    outputs = {
        "ReLU comes before batch normalisation: it comes after (Sec. 3.4)": relu_first,
        "there is no ReLU between the layers: without one they are a single linear layer": residual(
            x, layers, no_relu=every
        ),
        "batch normalisation is made and never used": residual(x, layers, no_norm=every),
    }
    for number in every:
        missing = residual(x, layers, no_norm=[number])
        outputs[f"batch normalisation is missing after convolution {number + 1}"] = missing
    for number in every[:-1]:
        outputs[f"ReLU is missing after layer {number + 1}"] = residual(x, layers, no_relu=[number])
    return outputs | used_twice(x, layers)


def used_twice(x: Tensor, layers: Layers) -> dict[str, Tensor]:
    """What comes out if a layer takes the convolution or the batch normalisation of the one before it."""
    outputs = {}
    for number in range(1, len(layers)):
        (before, other), (conv, norm) = layers[number - 1 : number + 1]
        if norm.num_features == other.num_features:
            mistake = "one batch normalisation is used twice and another not at all: each convolution has its own"
            outputs[mistake] = residual(x, [*layers[:number], (conv, other), *layers[number + 1 :]])
        if conv.weight.shape == before.weight.shape:
            mistake = "one convolution is used twice and another not at all: each layer has its own"
            outputs[mistake] = residual(x, [*layers[:number], (before, norm), *layers[number + 1 :]])
    return outputs


def expect_gradient(block: nn.Module, x: Tensor, branches: list[Callable[[Tensor], Tensor]], last: Callable) -> None:
    """Raise Mistake unless the gradient reaches x through one of the branches and through the shortcut."""
    x = x.clone().requires_grad_()
    found = block(x)
    weights = torch.randn_like(found)

    def gradient(output: Tensor) -> Tensor:
        if not output.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(output, x, weights, allow_unused=True, materialize_grads=True)[0]

    mistakes = {
        "no gradient gets through: the shortcut is detached, or all is": [torch.zeros_like(x)],
        "no gradient gets through the shortcut: x is added without its history, as x.detach() or x.data is": [
            gradient(last(branch(x) + x.detach())) for branch in branches
        ],
        "no gradient gets through the layers": [gradient(last(branch(x).detach() + x)) for branch in branches],
    }
    match(gradient(found), [gradient(last(branch(x) + x)) for branch in branches], mistakes)
