import copy

import pytest
import torch
from mutants import assert_named, parametrised
from torch import nn

from helpers import checks


def variances(network, images, take=lambda m, x, y: y.var(), kind=nn.Conv2d, training=True, copied=True, removed=True):
    """The answer; a mutant has one of its settings changed."""
    network = copy.deepcopy(network) if copied else network
    found, handles = [], []
    for module in network.modules():
        if isinstance(module, kind):
            handles.append(module.register_forward_hook(lambda m, i, y: found.append(take(m, i[0], y))))
    with torch.no_grad():
        (network.train() if training else network.eval())(images)
    for handle in handles if removed else []:
        handle.remove()
    return torch.stack(found)


def changed(**settings):
    return lambda network, images: variances(network, images, **settings)


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def in_whichever_mode(network, images):
    found = []
    handles = [m.register_forward_hook(lambda m, i, y: found.append(y.var())) for m in convolutions(network)]
    network(images)
    for handle in handles:
        handle.remove()
    return found


def restored(network, images, mode=True, averages=True):
    """Right: no copy, but everything put back; a mutant forgets a part of it."""
    before, training = copy.deepcopy(network.state_dict()), network.training
    found = variances(network, images, copied=False)
    if averages:
        network.load_state_dict(before)
    if mode:
        network.train(training)
    return found


def untracked(network, images):
    """Batch normalisation told to keep no averages, and left so."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    return restored(network, images)


VARIANCES = {
    "std": (changed(take=lambda m, x, y: y.std()), "standard deviations"),
    "inputs": (changed(take=lambda m, x, y: x.var()), "what goes into"),
    "behind batch norm": (changed(kind=nn.BatchNorm2d), "after batch normalisation"),
    "not centred": (changed(take=lambda m, x, y: (y**2).mean()), "mean is not subtracted"),
    "mean": (changed(take=lambda m, x, y: y.mean()), "means and not variances"),
    "by channel": (changed(take=lambda m, x, y: y.var((0, 2, 3)).mean()), "each channel"),
    "by image": (changed(take=lambda m, x, y: y.var((1, 2, 3)).mean()), "each image"),
    "of the weights": (changed(take=lambda m, x, y: m.weight.var()), "of the weights"),
    "classifier too": (changed(kind=(nn.Conv2d, nn.Linear)), "classifier"),
    "evaluation mode": (changed(training=False), "in evaluation mode"),
    "whichever mode": (in_whichever_mode, "in evaluation mode"),
    "hook left": (changed(copied=False, removed=False), "hook is left"),
    "averages moved": (lambda n, x: restored(n, x, averages=False), "moving averages have changed"),
    "mode left": (lambda n, x: restored(n, x, mode=False), "came in evaluation mode and goes in the other"),
    "setting of batch norm left": (untracked, "a switch of a module"),
    "parameters frozen": (lambda n, x: variances(n.requires_grad_(False), x), "requires_grad, is not as it was"),
    "3x3 only": (
        lambda n, x: torch.stack([v for v, m in zip(variances(n, x), convolutions(n), strict=True) if m.padding[0]]),
        "shape is (5,), and (6,) is right",
    ),
    "only one": (lambda n, x: variances(n, x)[:1], "shape is (1,)"),
    "nothing": (lambda n, x: None, "NoneType"),
}


def growth(value, slope):
    return (slope.square().mean() / value.var()).sqrt()


def by_moments(value, slope):
    variance = value.square().mean() - value.mean() ** 2
    return float(slope.square().mean() / variance) ** 0.5


def by_steps(value, slope):
    """The three steps with He's weights, which cancel."""
    back = 2 * slope.square().mean() / (2 * value.var(correction=0))
    return back.sqrt()


GROWTHS = {
    "ReLU's number": (lambda value, slope: 1.211, "the same for every φ"),
    "ReLU's share": (lambda value, slope: (value.square().mean() / value.var()).sqrt(), "which of the two meets"),
    "ReLU's half": (lambda value, slope: 1 / (2 * value.var()).sqrt(), "lets half"),
    "not centred": (lambda value, slope: slope.norm() / value.norm(), "BN removes it"),
    "squared": (lambda value, slope: growth(value, slope) ** 2, "take the root"),
    "turned over": (lambda value, slope: 1 / growth(value, slope), "turned over"),
    "twice back": (lambda value, slope: 2**0.5 * growth(value, slope), "counts on both"),
    "twice forward": (lambda value, slope: growth(value, slope) / 2**0.5, "counts on both"),
    "divided by the variance": (
        lambda value, slope: slope.square().mean().sqrt() / value.var(),
        "slopes' mean square alone",
    ),
    "no root above": (lambda value, slope: slope.square().mean() / value.std(), "variance alone"),
    "mean slope": (lambda value, slope: slope.mean() / value.std(), "square the slopes"),
    "mean size of the slope": (lambda value, slope: slope.abs().mean() / value.std(), "square the slopes"),
    "variance of the slope": (lambda value, slope: slope.std() / value.std(), "variance of the slopes"),
    "back alone": (lambda value, slope: slope.square().mean().sqrt(), "BN is missing"),
    "forward alone": (lambda value, slope: 1 / value.std(), "on the way back is missing"),
    "for each z": (lambda value, slope: slope / value.std(), "one number is wanted"),
    "nothing": (lambda value, slope: print(growth(value, slope)), "returns nothing"),
    "other": (lambda value, slope: 3 * growth(value, slope), "the right number is"),
}


@parametrised(VARIANCES)
def test_wrong_variances_are_told_what_is_wrong(mutant, phrase):
    assert_named(checks.check_variances(mutant), phrase)


@parametrised(GROWTHS)
def test_wrong_growths_are_told_what_is_wrong(mutant, phrase):
    assert_named(checks.check_growth(mutant), phrase)


@pytest.mark.parametrize(
    "answer",
    [
        variances,
        restored,
        changed(take=lambda m, x, y: y.var(correction=0)),
        changed(take=lambda m, x, y: y.std() ** 2),
        lambda network, images: variances(network, images).tolist(),
        lambda network, images: dict(enumerate(variances(network, images))),
        lambda network, images: variances(network, images).double(),
    ],
)
def test_right_variances_are_accepted(answer):
    assert checks.check_variances(answer).state == "right", checks.check_variances(answer)


@pytest.mark.parametrize(
    "answer",
    [
        growth,
        by_moments,
        by_steps,
        lambda value, slope: growth(value.float(), slope.float()),
        lambda value, slope: slope.norm() / (value - value.mean()).norm(),
        lambda value, slope: (slope.square().mean() / (value.var() + 1e-8)).sqrt()[None],
    ],
)
def test_right_growths_are_accepted(answer):
    assert checks.check_growth(answer).state == "right", checks.check_growth(answer)
