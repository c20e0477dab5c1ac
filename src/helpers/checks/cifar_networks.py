"""Checks of notebook 04: the network of 6n+2 layers, its number of parameters, He's initialisation."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor, nn

from helpers.analysis import watching
from helpers.checks.verdict import Mistake, exercise, expect, match
from helpers.models import ResNet, cifar_spec
from helpers.paper import load_table

KINDS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
Layers = list[tuple[nn.Module, Tensor]]  # what a network uses of KINDS, in the order of use, each with its output


@exercise("return the residual net of 6n+2 layers: stem, three stages of n BasicBlocks, average pooling, classifier")
def check_build(build: Callable[[int], nn.Module]) -> str:
    """Sec. 4.2: `build(n)` maps images (b, 3, 32, 32) to logits (b, 10); option A, as `BasicBlock` has it."""
    for n in (2, 3, 1):  # with 3 a block can be there twice
        network, images = build(n), torch.randn(2, 3, 32, 32)
        expect(isinstance(network, nn.Module), f"an nn.Module is wanted, and this is a {type(network).__name__}")
        expect_registered(network, images.clone())
        images = images.double()
        layers = use(network.double().train(), images.clone())
        expect_layers(layers, n)
        ours = ResNet(cifar_spec(6 * n + 2)).double()
        surplus = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in ours.parameters())
        expect(surplus == 0, f"there are {surplus:+,} parameters too many or too few, in layers not used or not needed")
        copy_layers([layer for layer, _ in layers], [layer for layer, _ in use(ours, images)])
        for mode in (False, True):  # in this order: in training mode the running averages move
            found = network.train(mode)(images.clone())
            match(found, ours.train(mode)(images), wrong_networks(ours, images))
        alone = tuple(network.eval()(images[:1].clone()).shape)
        shape = f"for a single image the logits have the shape {alone}, and (1, 10) is right"
        expect(alone == (1, 10), f"{shape}: squeeze() removes the batch's dimension too, flatten(1) does not")
    return "6n+2 layers in the right order, and the same logits as ours with the same weights"


@torch.no_grad()
def expect_registered(network: nn.Module, images: Tensor) -> None:
    """Raise Mistake if `network` uses layers that it does not hold, such as those in a list."""
    used = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: used.append(module))
    try:
        network(images)
    finally:
        hook.remove()
    lost = {layer for layer in used if isinstance(layer, KINDS)} - {*network.modules()}
    expect(not lost, "layers are used that the network does not hold, so none would be trained: use an nn.ModuleList")


@torch.no_grad()
def use(network: nn.Module, images: Tensor) -> Layers:
    """The layers that the network uses for `images`, in the order of use, with their outputs."""
    named, used = {name: m for name, m in network.named_modules() if isinstance(m, KINDS)}, []
    with watching(named, lambda name, output: used.append((named[name], output))):
        network(images)
    return used


def expect_layers(layers: Layers, n: int) -> None:
    """Raise Mistake unless these are the layers of the table in Sec. 4.2, by their numbers, widths and map sizes."""
    convs = [(layer, output) for layer, output in layers if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer, _ in layers if isinstance(layer, nn.BatchNorm2d)]
    linear = [layer for layer, _ in layers if isinstance(layer, nn.Linear)]
    expect(convs, "no convolution is used")
    small = [layer for layer, _ in convs if layer.kernel_size == (1, 1)]
    expect(not small, f"there are {len(small)} 1x1 convolutions: these are projections, and option A has none")
    sizes = {layer.kernel_size for layer, _ in convs}
    expect(sizes == {(3, 3)}, f"there are kernels of the sizes {sorted(sizes)}: all convolutions are 3x3")
    expect_numbers([layer.out_channels for layer, _ in convs], n)
    expect_sizes([(layer.out_channels, output.shape[2]) for layer, output in convs], n)
    expect(linear, "the classifier is missing: a fully connected layer from 64 to 10")
    expect(len(linear) == 1, f"there are {len(linear)} fully connected layers, and one is right")
    flat = f"the classifier gets {linear[0].in_features} numbers an image: average the 8x8 maps first"
    expect(linear[0].in_features == 64, flat)
    expect(linear[0].out_features == 10, f"there are 10 classes, and yours are {linear[0].out_features}")
    expect(linear[0].bias is not None, "the classifier has no bias: nothing after it would shift the logits")
    first = [layer for layer, _ in layers[:2]]
    expect(isinstance(first[1], nn.BatchNorm2d), "batch normalisation is missing after the first convolution")
    expect(len(norms) == len(convs), f"there are {len(convs)} convolutions and {len(norms)} batch normalisations")
    expect(len({id(layer) for layer, _ in convs}) == len(convs), "a block is used twice: make a new one for each place")
    expect(len({*map(id, norms)}) == len(norms), "a batch normalisation is used twice: each layer has its own")
    bias = [layer for layer, _ in convs if layer.bias is not None]
    expect(not bias, "a convolution has a bias, which the batch normalisation after it subtracts again: bias=False")


def expect_numbers(widths: list[int], n: int) -> None:
    """Raise Mistake unless 2n+1, 2n and 2n convolutions have 16, 32 and 64 filters."""
    counts = Counter(widths)
    expect(set(counts) == {16, 32, 64}, f"the widths are {sorted(counts)}: the stages have 16, 32 and 64 filters")
    found, right = [counts[16], counts[32], counts[64]], [2 * n + 1, 2 * n, 2 * n]
    stem = "the first convolution is missing: it takes 3 channels to 16, in front of the blocks"
    expect(found != [2 * n, 2 * n, 2 * n], stem)
    expect(found != [4 * n + 1, 4 * n, 4 * n], "there are 2n blocks a stage: 2n layers are n blocks, of two each")
    m = found[1] // 2
    expect(found == right or found != [2 * m + 1, 2 * m, 2 * m], f"for n = {n} you build the net of n = {m}")
    expect(found == right, f"for n = {n}, {found} layers have 16, 32 and 64 filters, and {right} are right")
    expect(widths == sorted(widths), "the stages are in another order: 16, then 32, then 64 filters")


def expect_sizes(layers: list[tuple[int, int]], n: int) -> None:
    """Raise Mistake unless the (width, size of the output map) of every convolution are those of the table."""
    sizes = [size for _, size in layers]
    last, right = sizes[-1], [32] * (2 * n + 1) + [16] * (2 * n) + [8] * (2 * n)
    expect(set(sizes) != {32}, "no map is ever halved: the first block of stages 2 and 3 has stride 2")
    stem = f"the first convolution makes maps of {sizes[0]}x{sizes[0]}, and 32x32 is right: stride 1, padding 1"
    expect(sizes[0] == 32, stem)
    first = f"stage 1 begins with maps of {sizes[1]}x{sizes[1]}, and 32x32 is right: neither stride 2 nor pooling there"
    expect(sizes[1] == 32, first)
    within = [a != b for (width, a), (other, b) in pairwise(layers) if width == other]
    expect(last >= 8 or not any(within), "several blocks of a stage have stride 2: only the first has")
    late = "a map is halved within a stage: stride 2 belongs to the first convolution of the stage's first block"
    expect(not any(within), late)
    expect(sizes == right, f"the maps are of the sizes {sorted(set(sizes))[::-1]}, and 32, 16, 8 are right")


@torch.no_grad()
def copy_layers(layers: list[nn.Module], ours: list[nn.Module]) -> None:
    """Give `layers` random batch normalisation, at 1 and 0 mistakes would not show, and `ours` all that they have."""
    kinds = [[type(layer) for layer in some] for some in (layers, ours)]
    expect(kinds[0] == kinds[1], "the layers are in another order: each convolution is followed by its batch norm")
    for layer, other in zip(layers, ours, strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                tensor -= 1
        other.load_state_dict(layer.state_dict())


@torch.no_grad()
def wrong_networks(ours: ResNet, images: Tensor) -> dict[str, Tensor]:
    """What a network with one mistake outputs, with the weights and in the mode of `ours`."""
    conv, norm, _ = ours.stem

    def logits(stem: Tensor, pool: Callable[[Tensor], Tensor] = lambda x: x.mean((2, 3))) -> Tensor:
        return ours.fc(pool(ours.blocks(stem)))

    stem = ours.stem(images)
    right = logits(stem)
    outputs = {
        "ReLU is missing after the first layer": logits(norm(conv(images))),
        "in the first layer, ReLU comes before batch normalisation: it comes after": logits(norm(conv(images).relu())),
        "batch normalisation after the first convolution is made and not used": logits(conv(images).relu()),
        "the maps are pooled by their maximum: it is their average": logits(stem, lambda x: x.amax((2, 3))),
        "the maps are summed: average them": logits(stem, lambda x: x.sum((2, 3))),
        "one pixel of each map is taken: the average of all is meant": logits(stem, lambda x: x[:, :, 0, 0]),
        "softmax is applied: the loss does that, the network returns logits": right.softmax(1),
        "log-softmax is applied: the loss does that, the network returns logits": right.log_softmax(1),
        "ReLU is applied to the logits: they may be negative": right.relu(),
    }
    shortcuts = [block.shortcut for block in ours.blocks]
    for block in ours.blocks:
        block.shortcut = None
    outputs["the blocks have no shortcuts: this is the plain net"] = logits(stem)
    for block, shortcut in zip(ours.blocks, shortcuts, strict=True):
        block.shortcut = shortcut
    return outputs


@exercise("return the number of parameters of the net of 6n+2 layers as a function of n")
def check_count(count: Callable[[int], int]) -> str:
    """Table 6, to the last parameter: `count(n)`, compared at every n of the paper."""
    table = load_table("table6").query("method == 'ResNet'")
    right = {int(depth - 2) // 6: int(exact) for depth, exact in zip(table.layers, table.exact_parameters, strict=True)}
    found = {n: count(n) for n in right}
    for answer in found.values():
        expect(isinstance(answer, Real | Tensor), f"a number is wanted, and this is of type {type(answer).__name__}")
    for mistake, wrong in WRONG_COUNTS.items():
        expect(found != {n: wrong(n) for n in right}, mistake)
    for n, exact in right.items():
        expect(found[n] == exact, f"for n = {n} it is {exact:,}, and you have {found[n]:,}: {found[n] - exact:+,}")
    return "exact for all six nets of Table 6"


def total(n: float, kernel: int = 9, norm: int = 2, stem: int = 3, classifier: int = 650, first: bool = True) -> float:
    """The number of parameters, with `norm` numbers a channel; `first`: the first layer of a stage counted as it is."""
    parameters = kernel * stem * 16 + norm * 16 + 2 * n * (kernel * 16 * 16 + norm * 16) + classifier
    for before, width in ((16, 32), (32, 64)):
        begins = before if first else width
        parameters += kernel * width * (begins + (2 * n - 1) * width) + 2 * n * norm * width
    return parameters


WRONG_COUNTS = {
    "batch normalisation is left out: it has a scale and a shift a channel": lambda n: total(n, norm=0),
    "batch normalisation is counted with one number a channel: it has two": lambda n: total(n, norm=1),
    "convolutions are counted with a bias: in front of batch normalisation they have none": lambda n: total(n, norm=3),
    "the moving averages are counted: they are not learned": lambda n: total(n, norm=4),
    "the classifier is left out: 64 times 10 weights and 10 biases": lambda n: total(n, classifier=0),
    "the biases of the classifier are left out": lambda n: total(n, classifier=640),
    "the classifier is counted after maps of 8x8: they are averaged first": lambda n: total(n, classifier=40970),
    "the first layer is left out: 3 channels to 16, and its batch normalisation": lambda n: total(n) - 464,
    "the batch normalisation of the first layer is left out": lambda n: total(n) - 32,
    "the first layer is counted with one channel: the images have three": lambda n: total(n, stem=1),
    "the first layer is counted with 16 channels: the images have three": lambda n: total(n, stem=16),
    "the first layer of stages 2 and 3 gets half as many channels as it outputs": lambda n: total(n, first=False),
    "the kernels are counted as 1x1: they are 3x3": lambda n: total(n, kernel=1),
    "n layers a stage are counted: it is n blocks, 2n layers": lambda n: total(n / 2),
    "2n blocks a stage are counted: it is 2n layers, n blocks": lambda n: total(2 * n),
    "projections are counted, as option B has them: option A has no parameters": lambda n: total(n) + 2752,
    "projections are counted: option A has no parameters": lambda n: total(n) + 2560,
    "this is the number in millions: count to the last parameter": lambda n: total(n) / 1e6,
    "this is the number for n + 1": lambda n: total(n + 1),
    "this is the number for n - 1": lambda n: total(n - 1),
}


@exercise("return weights (out_channels, in_channels, kernel, kernel), drawn as He et al. 2015 do")
def check_draw(draw: Callable[[int, int, int], Tensor]) -> str:
    """Ref. 13 of the paper: `draw(out_channels, in_channels, kernel)`, normal with mean 0 and variance 2 / fan-in."""
    for out_channels, in_channels, kernel in ((160, 48, 3), (64, 96, 5)):
        weight, shape = draw(out_channels, in_channels, kernel), (out_channels, in_channels, kernel, kernel)
        expect(isinstance(weight, Tensor), f"the answer is of type {type(weight).__name__}, and a tensor is wanted")
        expect(tuple(weight.shape) == shape, f"the shape is {tuple(weight.shape)}, and {shape} is right: out, then in")
        weight = weight.detach().double()
        again = draw(out_channels, in_channels, kernel).detach().double()
        expect(not torch.equal(weight, again), "two calls give the same weights: they are to be drawn at random")
        variance = float(weight.var())
        expect(weight.mean().abs() < 0.05 * variance**0.5, f"the mean is {float(weight.mean()):.2g}, and 0 is right")
        fan_in, fan_out = in_channels * kernel**2, out_channels * kernel**2
        if not near(variance, 2 / fan_in):
            raise Mistake(name_variance(variance, fan_in, fan_out, kernel))
        kurtosis = float((weight**4).mean()) / variance**2  # 3 for a normal distribution, 1.8 for a uniform one
        expect(kurtosis > 2, "the variance is right and the distribution uniform: He et al. draw from a normal one")
        expect(kurtosis < 4, "the variance is right and the distribution is not normal: it has too many large weights")
    return "normal, mean 0, variance 2 / fan-in"


def near(value: float, wanted: float) -> bool:
    return abs(value / wanted - 1) < 0.04


def name_variance(variance: float, fan_in: int, fan_out: int, kernel: int) -> str:
    """The mistake that leads to this variance of the weights."""
    wrong = {
        "2 / fan-in is used as the standard deviation: it is the variance": (2 / fan_in) ** 2,
        "this is 2 / fan-out: divide by the numbers that go into an output, not by those that one goes to": 2 / fan_out,
        "this is 1 / fan-in, right without ReLU: ReLU halves the mean square, hence the 2": 1 / fan_in,
        "fan-in is the number of input channels times that of a kernel's weights; you leave out the kernel": (
            2 * kernel**2 / fan_in
        ),
        "fan-in counts all kernel * kernel weights, not kernel": 2 * kernel / fan_in,
        "your kernel is always 3x3: it is kernel x kernel": 2 * kernel**2 / 9 / fan_in,
        "this is 2 / (fan-in + fan-out), Glorot and Bengio's, made without ReLU in mind": 2 / (fan_in + fan_out),
        "these are uniform between -sqrt(2 / fan-in) and +sqrt(2 / fan-in): their variance is a third of that": (
            2 / fan_in / 3
        ),
        "this is PyTorch's default, uniform with variance 1 / (3 fan-in)": 1 / fan_in / 3,
        "the weights have variance 1: scale them": 1.0,
        "the weights are multiplied by sqrt(fan-in / 2): divide": fan_in / 2,
        "the standard deviation is 1 / sqrt(2 fan-in): the 2 is above the line": 1 / (2 * fan_in),
        "the 2 is squared: the standard deviation is sqrt(2 / fan-in), not 2 / sqrt(fan-in)": 4 / fan_in,
    }
    for mistake, value in wrong.items():
        if near(variance, value):
            return mistake
    return f"the variance is {variance:.3g}, and 2 / fan-in is {2 / fan_in:.3g}"
