"""Checks of notebook 09: the variance of every layer's output, the growth of the gradient with any nonlinearity."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.analysis import with_statistics
from helpers.checks.verdict import exercise, expect, match
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


NONLINEARITIES = {
    "ReLU": F.relu,
    "no nonlinearity at all": lambda z: z,
    "leaky ReLU, with a slope of 0.1": lambda z: F.leaky_relu(z, 0.1),
    "the hyperbolic tangent": torch.tanh,
    "softplus": F.softplus,
    "twice the sine": lambda z: 2 * z.sin(),
}


@exercise("write growth(value, slope): the factor by which the gradient's length grows at each layer")
def check_growth(growth: Callable[[Tensor, Tensor], float | Tensor]) -> str:
    """Of φ(z) and φ′(z), (n,) each, for a sample of normal z: one number."""
    z = torch.randn(200_000, dtype=torch.float64, requires_grad=True)
    answers, samples = [], []
    for phi in NONLINEARITIES.values():
        value = phi(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
        samples.append((value.detach(), slope))
        answer = growth(value.detach().clone(), slope.clone())
        expect(answer is not None, "your function returns nothing: end it with `return`")
        answer = torch.as_tensor(answer, dtype=torch.float64).detach()
        expect(answer.numel() == 1, "one number is wanted, a mean over all z: the answer has one for each z")
        answers.append(answer.reshape(()))
    found = torch.stack(answers)
    expect(len(found.unique()) > 1, "the answer is the same for every φ: begin with the numbers that belong to ReLU")
    right = torch.stack([slope.square().mean().sqrt() / value.std() for value, slope in samples])
    name, yours, wanted = max(zip(NONLINEARITIES, found, right, strict=True), key=lambda row: abs(row[1] / row[2] - 1))
    unknown = f"with {name} the right number is {float(wanted):.3f}, and yours is {float(yours):.3f}"
    match(found, right, wrong_growths(samples) | {unknown: found})
    return "what φ lets through on the way back, over what BN divides by"


def wrong_growths(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor | list[Tensor]]:
    """What each mistake gives instead of the factors."""
    through = torch.stack([slope.square().mean() for _, slope in samples])
    left = torch.stack([value.var() for value, _ in samples])
    squares = torch.stack([value.square().mean() for value, _ in samples])
    sizes = torch.stack([slope.abs().mean() for _, slope in samples])
    means = torch.stack([slope.mean() for _, slope in samples])
    spread = torch.stack([slope.var() for _, slope in samples])
    return {
        "φ(z) and φ′(z) have the same mean square with ReLU, not with every φ: which of the two meets the gradient?": (
            (squares / left).sqrt()
        ),
        "ReLU lets half of the gradient's squared length through: what is that share with another φ?": (
            (0.5 / left).sqrt()
        ),
        "the mean of φ(z) counts here, and BN removes it before it divides": (through / squares).sqrt(),
        "that is the factor of the squared length: take the root": through / left,
        "that is turned over: BN divides by its standard deviation, on the way back too": [
            (left / through).sqrt(), left / through
        ],
        "the variance of the weights, 2 / fan-in, is on one of the two ways alone: it counts on both": [
            (2 * through / left).sqrt(), (through / left / 2).sqrt()
        ],
        "the root is of the slopes' mean square alone: BN divides by a standard deviation": through.sqrt() / left,
        "the root is of the variance alone: the squared slopes multiply the squared length": through / left.sqrt(),
        "square the slopes before you take the mean": [means / left.sqrt(), sizes / left.sqrt()],
        "that is the variance of the slopes: their mean square is wanted": (spread / left).sqrt(),
        "BN is missing: that is what φ lets through on the way back": [through, through.sqrt()],
        "what φ lets through on the way back is missing": [left, left.sqrt(), 1 / left, 1 / left.sqrt()],
    }  # fmt: skip
