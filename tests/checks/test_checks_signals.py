import copy

import pytest
import torch
import torch.nn.functional as F
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


def correlation(a, b):
    a, b = (g.flatten(1) - g.flatten(1).mean(1, keepdim=True) for g in (a, b))
    return (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)


def by_torch(a, b):
    return torch.stack([torch.stack([a[i].flatten(), b[i].flatten()]).corrcoef()[0, 1] for i in range(len(a))])


def covariance(a, b):
    a, b = (g.flatten(1) - g.flatten(1).mean(1, keepdim=True) for g in (a, b))
    return (a * b).mean(1)


def centred(*axes):
    return lambda a, b: F.cosine_similarity(*((g - g.mean(axes, keepdim=True)).flatten(1) for g in (a, b)), dim=1)


def overwriting(a, b):
    a -= a.mean((1, 2, 3), keepdim=True)
    b -= b.mean((1, 2, 3), keepdim=True)
    return F.cosine_similarity(a.flatten(1), b.flatten(1))


CORRELATIONS = {
    "not centred": (lambda a, b: F.cosine_similarity(a.flatten(1), b.flatten(1)), "this is the cosine"),
    "centred above alone": (
        lambda a, b: 48 * covariance(a, b) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)),
        "not below it",
    ),
    "covariance": (covariance, "this is the covariance"),
    "variances": (
        lambda a, b: covariance(a, b) / a.flatten(1).var(1, correction=0) / b.flatten(1).var(1, correction=0),
        "square roots",
    ),
    "centred over the batch": (centred(0), "mean is that of the batch"),
    "centred by channel": (centred(2, 3), "each channel"),
    "one mean": (centred(0, 1, 2, 3), "from all images"),
    "wrong axis": (lambda a, b: correlation(a.flatten(1).T, b.flatten(1).T), "not over the batch"),
    "one number": (lambda a, b: correlation(a, b).mean(), "one number for all images"),
    "squared": (lambda a, b: correlation(a, b) ** 2, "square of the correlation"),
    "absolute": (lambda a, b: correlation(a, b).abs(), "size of the correlation"),
    "sum of products": (lambda a, b: 48 * covariance(a, b), "this is the covariance"),
    "sums of squares": (lambda a, b: covariance(a, b) / covariance(a, a) / covariance(b, b) / 48, "square roots"),
    "by channel": (lambda a, b: correlation(a.flatten(0, 1), b.flatten(0, 1)).view(5, 3).mean(1), "of its own here"),
    "n and n - 1": (lambda a, b: covariance(a, b) / a.flatten(1).std(1) / b.flatten(1).std(1), "correction=0"),
    "a distance": (lambda a, b: 1 - correlation(a, b), "1 minus"),
    "overwritten": (overwriting, "overwrites the gradients"),
    "an epsilon": (lambda a, b: covariance(a, b) / (covariance(a, a) * covariance(b, b) + 1e-6).sqrt(), "multiplied"),
    "other": (lambda a, b: 2 * correlation(a, b), "values are not"),
}


@parametrised(VARIANCES)
def test_wrong_variances_are_told_what_is_wrong(mutant, phrase):
    assert_named(checks.check_variances(mutant), phrase)


@parametrised(CORRELATIONS)
def test_wrong_correlations_are_told_what_is_wrong(mutant, phrase):
    assert_named(checks.check_correlation(mutant), phrase)


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
        correlation,
        centred(1, 2, 3),
        by_torch,
        lambda a, b: covariance(a, b) / (covariance(a, a) * covariance(b, b)).sqrt(),
    ],
)
def test_right_correlations_are_accepted(answer):
    assert checks.check_correlation(answer).state == "right", checks.check_correlation(answer)
