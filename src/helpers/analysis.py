"""What a network does to signals, and what it costs: responses (Fig. 7), gradients, lesions, Table 1's counts."""

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.models import ResNet, Spec, count_parameters, make_shortcut


def norms_of_3x3(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch normalisation after each 3x3 convolution, by the convolution's name, in the order of the layers.

    It is the one defined next, so a block must define its layers in the order in which it uses them.
    """
    found, name, kernel = {}, "", None
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            name, kernel = path, module.kernel_size
        elif isinstance(module, nn.BatchNorm2d) and kernel == (3, 3):
            found[name] = module
    return found


@contextmanager
def watching(modules: dict[str, nn.Module], see) -> Iterator[None]:
    """Call see(name, output) whenever one of `modules` has run; the hooks are gone afterwards."""
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: see(name, output))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def layer_responses(model: nn.Module, images: Tensor, batch_size: int = 500) -> pd.Series:
    """Fig. 7: the standard deviation of each 3x3 layer's response, by the layer's name, in order.

    After batch normalisation, before ReLU or addition (in a pre-activation net, the addition lies between a block's
    second layer and its normalisation); in evaluation mode; over all images (n, 3, h, w), as the network takes them,
    and all elements of the output. The model's mode is restored.
    """
    layers = norms_of_3x3(model)
    sums = {name: torch.zeros(3, dtype=torch.float64, device=images.device) for name in layers}

    def see(name: str, output: Tensor) -> None:
        output = output.double()
        sums[name] += torch.stack([output.new_tensor(output.numel()), output.sum(), output.square().sum()])

    mode = model.training
    model.eval()
    with watching(layers, see):
        for batch in images.split(batch_size):
            model(batch)
    model.train(mode)
    deviations = {name: float((s[2] / s[0] - (s[1] / s[0]) ** 2).sqrt()) for name, s in sums.items()}
    return pd.Series(deviations, name="std").rename_axis("layer")


def weight_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, precision: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The loss's gradient for each weight of a convolution or classifier, by layer, in order.

    In training mode on one batch, images (n, 3, h, w) as the network takes them; the model is left as it was,
    moving averages too. `precision` is that of the activations, by default the images'.
    """
    model = copy.deepcopy(model).train()
    low = torch.autocast(images.device.type, precision, enabled=precision is not None)
    with low, torch.autograd.graph.save_on_cpu():  # 1202 layers keep 12 GB, and a GPU may hold a captured step as well
        logits = model(images).to(images.dtype)
    F.cross_entropy(logits, labels).backward()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return {name: layer.weight.grad for name, layer in layers.items()}


def gradient_norms(model: nn.Module, images: Tensor, labels: Tensor) -> pd.Series:
    """The 2-norm of each layer's gradient, as `weight_gradients` has it."""
    norms = {name: float(gradient.norm()) for name, gradient in weight_gradients(model, images, labels).items()}
    return pd.Series(norms, name="norm").rename_axis("layer")


def rounding_cosines(model: nn.Module, images: Tensor, labels: Tensor) -> pd.Series:
    """What rounding does to each layer's gradient: the cosine of its angle to the one with activations in bfloat16.

    1 is the same direction; at 0 nothing of it is left. Otherwise as `weight_gradients`.
    """
    exact, rounded = (weight_gradients(model, images, labels, precision) for precision in (None, torch.bfloat16))
    cosines = {name: float(F.cosine_similarity(exact[name].flatten(), rounded[name].flatten(), 0)) for name in exact}
    return pd.Series(cosines, name="cosine").rename_axis("layer")


def block_signals(model: ResNet, images: Tensor, labels: Tensor) -> pd.DataFrame:
    """What passes between blocks, by block, the stem first: the columns forward and backward.

    forward: the standard deviation of the block's output; backward: the 2-norm of the loss's gradient with respect
    to it. In training mode on one batch (n, 3, h, w), (n,); the model is left as it was.
    """
    model, outputs = copy.deepcopy(model).train(), {}

    def see(name: str, output: Tensor) -> None:
        output.retain_grad()
        outputs[name] = output

    with watching({"stem": model.stem} | {f"blocks.{n}": block for n, block in enumerate(model.blocks)}, see):
        F.cross_entropy(model(images), labels).backward()
    signals = {name: (float(output.detach().std()), float(output.grad.norm())) for name, output in outputs.items()}
    return pd.DataFrame.from_dict(signals, orient="index", columns=["forward", "backward"]).rename_axis("block")


def gradient_correlation(model: nn.Module, images: Tensor, labels: Tensor, distances: list[float]) -> pd.Series:
    """How alike the loss's gradients at neighbouring inputs are (Balduzzi et al. 2017), by distance.

    A neighbour lies at `distance`, from 0 to 1, on the straight line from an image to the one before it in the
    batch. The gradients are with respect to the pixels, and the value is their correlation, averaged over the
    images (n, 3, h, w). Batch normalisation uses the statistics of `images`, so that no point depends on another;
    the model is left as it was.
    """
    model = with_statistics(model, images)
    towards, here = images.roll(1, 0) - images, input_gradients(model, images, labels)
    values = {t: correlation(here, input_gradients(model, images + t * towards, labels)).mean() for t in distances}
    return pd.Series({t: float(value) for t, value in values.items()}, name="correlation").rename_axis("distance")


def with_statistics(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy in evaluation mode whose batch normalisations use the mean and variance of `images` (n, 3, h, w)."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average of what it has seen
    with torch.no_grad():
        model(images)
    return model.eval()


def input_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each image's loss with respect to its pixels, (n, 3, h, w)."""
    images = images.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(images), labels, reduction="sum"), images)[0]


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each pair, over all but the first axis: (n, ...), (n, ...) -> (n,)."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1)


def without_block(network: ResNet, index: int) -> ResNet:
    """A copy in which one block does nothing but pass its input through (Veit et al. 2016).

    What is left of it is its shortcut; for a plain block, of two layers or one, that of option A.
    """
    network = copy.deepcopy(network)
    block, left = network.blocks[index], network.blocks[index].shortcut
    if left is None:
        left = make_shortcut("A", block.conv1.in_channels, block.conv1.out_channels, block.conv1.stride[0])
    network.blocks[index] = left if network.spec.preactivation else nn.Sequential(left, nn.ReLU())
    return network


@functools.cache
def count_cost(spec: Spec) -> dict[str, int]:
    """Parameters, and multiply-adds for one image, of side 32 or 224 as the stem has it, without building weights.

    Callers share the dictionary: do not change it.
    """
    size = 32 if spec.stem == "cifar" else 224
    with torch.device("meta"):
        model, images = ResNet(spec).eval(), torch.empty(1, 3, size, size)
    return {"parameters": count_parameters(model), "multiply_adds": multiply_adds(model, images)}


def multiply_adds(model: nn.Module, x: Tensor) -> int:
    """What convolutions and matrix products cost in one forward pass; on the device "meta" nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2  # it counts a multiply-add as two
