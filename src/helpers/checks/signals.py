"""Checks of notebook 09: the variance of every layer's output, the correlation of gradients."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import analysis
from helpers.analysis import with_statistics
from helpers.checks.verdict import exercise, expect, is_same, match
from helpers.models import ResNet, Spec


@exercise("write variances(network, images): the variance of each nn.Conv2d's output, in training mode")
def check_variances(variances: Callable[[nn.Module, Tensor], Tensor]) -> str:
    """Sec. 4.1's forward signals: one value for each convolution, in order, the network left as it was."""
    images = 1 + torch.randn(6, 3, 8, 8)
    network = with_statistics(ResNet(Spec((1, 1), (3, 5), shortcut="B")), 3 * images)
    right = [measure(network, images, nn.Conv2d, lambda m, x, y, c=c: y.var(correction=c)) for c in (0, 1)]
    mistakes = wrong_variances(network, images)
    for training in (False, True):
        network.train(training)
        before, was = {name: tensor.clone() for name, tensor in network.state_dict().items()}, settings(network)
        found = as_tensor(variances(network, images))
        match(found, right, mistakes)
        hooks = any(module._forward_hooks for module in network.modules())
        expect(not hooks, "a hook is left on the network: keep what register_forward_hook returns, and remove() it")
        same = all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
        moved = "the moving averages have changed, as they do whenever a network runs in training mode"
        expect(same, f"{moved}: measure a copy.deepcopy of it")
        mode = "the network came in {} mode and goes in the other: put it back, or measure a copy.deepcopy"
        expect(network.training == training, mode.format("training" if training else "evaluation"))
        switched = "a switch of a module or a parameter, such as requires_grad, is not as it was"
        expect(settings(network) == was, f"{switched}: put it back, or measure a copy.deepcopy")
    return "every convolution's output, in training mode, and the network is as it was"


def settings(network: nn.Module) -> list:
    """Every switch and number among the modules' attributes, and which parameters are trained."""
    numbers = [{k: v for k, v in vars(m).items() if isinstance(v, bool | int | float)} for m in network.modules()]
    return [numbers, [parameter.requires_grad for parameter in network.parameters()]]


def as_tensor(found):
    """A tensor of numbers that came in a list, a tuple or a dictionary; anything else as it is."""
    values = list(found.values()) if isinstance(found, dict) else found
    return (
        torch.tensor([float(torch.as_tensor(value).detach()) for value in values])
        if isinstance(values, list | tuple)
        else values
    )


def measure(network: nn.Module, images: Tensor, kind: type | tuple, take: Callable, training: bool = True) -> Tensor:
    """take(module, input, output) of each module of a `kind`, in the order in which they run."""
    model, values = copy.deepcopy(network).train(training), []
    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda m, inputs, y: values.append(take(m, inputs[0], y)))
    with torch.no_grad():
        model(images)
    return torch.stack(values)


WRONG_VARIANCES = {
    "these are standard deviations: the variance is their square": (nn.Conv2d, lambda m, x, y: y.std()),
    "these are the variances of what goes into the layers: the hook's last argument is what comes out": (
        (nn.Conv2d, lambda m, x, y: x.var())
    ),
    "these are taken after batch normalisation: hook the nn.Conv2d": (nn.BatchNorm2d, lambda m, x, y: y.var()),
    "the mean is not subtracted: this is the mean of the squares": (nn.Conv2d, lambda m, x, y: y.square().mean()),
    "these are means and not variances": (nn.Conv2d, lambda m, x, y: y.mean()),
    "each channel has a variance of its own here, without what differs between channels: take all elements at once": (
        (nn.Conv2d, lambda m, x, y: y.var((0, 2, 3)).mean())
    ),
    "each image has a variance of its own here: take all elements at once": (
        (nn.Conv2d, lambda m, x, y: y.flatten(1).var(1).mean())
    ),
    "these are the variances of the weights: the hook's last argument is the layer's output": (
        (nn.Conv2d, lambda m, x, y: m.weight.var())
    ),
    "the classifier is among them: it is no convolution": ((nn.Conv2d, nn.Linear), lambda m, x, y: y.var()),
}


def wrong_variances(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each mistake gives instead of the variances."""
    evaluated = measure(network, images, nn.Conv2d, lambda m, x, y: y.var(), training=False)
    mode = "the network ran in evaluation mode: there, batch normalisation uses its moving averages and not the batch"
    return {mode: evaluated} | {
        mistake: measure(network, images, kind, take) for mistake, (kind, take) in WRONG_VARIANCES.items()
    }


@exercise("write correlation(a, b): for each image, the correlation of its gradient in a with that in b")
def check_correlation(correlation: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Of gradients (n, c, h, w) and (n, c, h, w): (n,), each in [-1, 1]."""
    a = torch.randn(5, 3, 4, 4) + torch.randn(5, 3, 1, 1)
    signs = torch.tensor([1, -1, 1, 1, -1]).view(5, 1, 1, 1)
    b = 2 * signs * (a + torch.randn(5, 3, 4, 4)) + torch.randn(5, 1, 1, 1) + 1
    before = a.clone(), b.clone()
    found = correlation(a, b)
    kept = torch.equal(a, before[0]) and torch.equal(b, before[1])
    expect(kept, "your function overwrites the gradients that it is given, as `a -= …` does: write `a = a - …`")
    match(found, analysis.correlation(a, b), wrong_correlations(a, b))
    scaled = correlation(1e-4 * a, 1e-3 * b)
    expect(
        is_same(scaled, found),
        "the answer changes when the gradients are multiplied by a number: a correlation does not",
    )
    return "for each image, over its pixels, centred and normalised"


def wrong_correlations(a: Tensor, b: Tensor) -> dict[str, Tensor | list[Tensor]]:
    """What each mistake gives instead of the correlations."""
    right, count = analysis.correlation(a, b), a[0].numel()
    x, y = (g.flatten(1) - g.flatten(1).mean(1, keepdim=True) for g in (a, b))
    covariance, variances = (x * y).mean(1), (x.square().mean(1), y.square().mean(1))

    def centred(*axes: int) -> Tensor:
        u, v = ((g - g.mean(axes, keepdim=True)).flatten(1) for g in (a, b))
        return F.cosine_similarity(u, v, dim=1)

    over_batch = analysis.correlation(a.transpose(0, 1).flatten(1), b.transpose(0, 1).flatten(1))
    each_pixel = analysis.correlation(a.flatten(1).T, b.flatten(1).T)
    return {
        "this is the cosine: the mean of each image's gradient is to be subtracted first": (
            F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)
        ),
        "the mean is subtracted above the line and not below it: both lengths are of the centred gradients": (
            (x * y).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
        ),
        "this is the covariance: divide by both standard deviations": [
            covariance, covariance * count, covariance * count / (count - 1)
        ],
        "the covariance is divided by the variances: divide by the standard deviations, their square roots": [
            covariance / variances[0] / variances[1], covariance / variances[0] / variances[1] / count
        ],
        "the mean is that of the batch: each image's gradient has a mean of its own, over its pixels": centred(0),
        "each channel has a mean of its own here: an image's gradient is one vector, over channels and pixels": centred(
            2, 3
        ),
        "each channel has a correlation of its own here: an image's gradient is one vector, over channels and pixels": (
            analysis.correlation(a.flatten(0, 1), b.flatten(0, 1)).view(5, 3).mean(1)
        ),
        "one mean is subtracted from all images: each image's gradient has its own": centred(0, 1, 2, 3),
        "the images are mixed: the correlation runs over the pixels of one image, not over the batch": [
            each_pixel, each_pixel.view(a.shape[1:]), over_batch
        ],
        "the answer is one number for all images: one for each is wanted, (n,)": [right.mean(), right.mean()[None]],
        "this is the square of the correlation: its sign is lost": right.square(),
        "this is the size of the correlation: its sign is lost": right.abs(),
        "the mean of the products goes over n and the standard deviations over n - 1: take correction=0 in both": (
            right * (count - 1) / count
        ),
        "this is 1 minus the correlation, a distance": 1 - right,
    }  # fmt: skip
