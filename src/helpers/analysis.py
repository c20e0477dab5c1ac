"""What a network does to signals, and what it costs: responses (Fig. 7), gradients, multiply-adds (Table 1)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.models import ResNet, Spec


def norms_of_3x3(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch normalisation behind each 3x3 convolution, by the convolution's name, in the layers' order."""
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

    After batch normalisation, before ReLU or addition; in evaluation mode; over all images (n, 3, h, w), as the
    network takes them, and all elements of the output. The model's mode is restored.
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


def gradient_norms(model: nn.Module, images: Tensor, labels: Tensor) -> pd.Series:
    """The 2-norm of the loss's gradient for each weight of a convolution or classifier, by layer, in order.

    In training mode on one batch, images (n, 3, h, w) as the network takes them; the model is left as it was,
    moving averages too.
    """
    model = copy.deepcopy(model).train()
    F.cross_entropy(model(images), labels).backward()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    norms = {name: float(layer.weight.grad.norm()) for name, layer in layers.items()}
    return pd.Series(norms, name="norm").rename_axis("layer")


def count_cost(spec: Spec, size: int | None = None) -> dict[str, int]:
    """Parameters, and multiply-adds of one image of size x size (32 or 224 by the stem), without building weights."""
    size = size or (32 if spec.stem == "cifar" else 224)
    with torch.device("meta"):
        model, images = ResNet(spec).eval(), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        model(images)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,  # it counts a multiply-add as two
    }
