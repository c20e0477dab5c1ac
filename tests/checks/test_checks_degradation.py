import pytest
import torch
from mutants import assert_named, parametrised
from torch import nn

from helpers import checks


def judge(shallow_train, shallow_test, deep_train, deep_test):
    if deep_train > shallow_train:
        return "degradation"
    return "overfitting" if deep_test > shallow_test else "neither"


def say(degradation, overfitting):
    return "degradation" if degradation else "overfitting" if overfitting else "neither"


JUDGES = {
    "test errors": (lambda a, b, c, d: say(d > b, c > a), "look at the test errors"),
    "test errors alone": (lambda a, b, c, d: say(d > b, False), "rises in both"),
    "overfitting first": (lambda a, b, c, d: "overfitting" if d > b else say(c > a, False), "every higher test error"),
    "both": (lambda a, b, c, d: say(c > a and d > b, d > b), "ask for both"),
    "gaps": (lambda a, b, c, d: say(c > a, d - c > b - a), "compare the gaps"),
    "its own test error": (lambda a, b, c, d: say(c > a, d > c), "own training error"),
    "its own test error too": (
        lambda a, b, c, d: "degradation" if c > a else "overfitting" if d > c and d > b else "neither",
        "exceed its own training error",
    ),
    "nets swapped": (lambda a, b, c, d: judge(c, d, a, b), "nets are the wrong way"),
    "equal is higher": (lambda a, b, c, d: say(c >= a, d >= b), "equal errors"),
    "names swapped": (
        lambda *e: {"degradation": "overfitting", "overfitting": "degradation"}.get(judge(*e), "neither"),
        "names are the wrong way",
    ),
    "a tolerance": (lambda a, b, c, d: say(c > a + 0.5, d > b + 0.5), "you ignore small differences"),
    "rounded": (lambda *e: judge(*map(round, e)), "you ignore small differences"),
    "in proportion": (lambda a, b, c, d: say(c / a > 1.01, d / b > 1.01), "you ignore small differences"),
    "an equal test error": (lambda a, b, c, d: say(c > a, d > b or (d == b and c < a)), "that is neither"),
    "never neither": (lambda a, b, c, d: say(c > a, True), "whenever it is not degradation"),
    "no higher is lower": (lambda a, b, c, d: say(c > a, c < a and d > b), "no higher includes equal"),
    "another word": (lambda *e: "worse", "'worse' is none of the three"),
    "a number": (lambda *e: True, "none of the three"),
    "nothing": (lambda *e: None, "None is none of the three"),
    "always": (lambda *e: "degradation", "and you say degradation"),
}


@parametrised(JUDGES)
def test_a_wrong_judgement_is_told_why(mutant, phrase):
    assert_named(checks.check_judge(mutant), phrase)


@pytest.mark.parametrize(
    "right", [judge, lambda a, b, c, d: ("neither", "overfitting", "degradation")[2 if c > a else int(d > b)]]
)
def test_right_judgements_are_accepted(right):
    assert checks.check_judge(right).state == "right"


def neutral(norm, **changes):
    values = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1 - norm.eps} | changes
    with torch.no_grad():
        for key, value in values.items():
            if value is not None:
                getattr(norm, key).fill_(value)


def identity(conv, norm):
    nn.init.dirac_(conv.weight)
    neutral(norm)


def with_norm(**changes):
    def make(conv, norm):
        nn.init.dirac_(conv.weight)
        neutral(norm, **changes)

    return make


def with_weights(change):
    def make(conv, norm):
        neutral(norm)
        with torch.no_grad():
            conv.weight.copy_(change(conv.weight.clone(), nn.init.dirac_(torch.empty_like(conv.weight))))

    return make


def all_centres(weight, centre):
    weight.zero_()[:, :, 1, 1] = 1
    return weight


def beside(weight, centre):
    return torch.where(centre > 0, 1.0, weight)


def centres_only(weight, centre):
    weight[:, :, 1, 1] = torch.eye(len(weight))
    return weight


def root(conv, norm):
    with_norm(running_var=1, weight=(1 + norm.eps) ** 0.5)(conv, norm)


def own_root(conv, norm):
    with_norm(running_var=None, running_mean=None)(conv, norm)
    with torch.no_grad():
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)


def without_eps(conv, norm):
    with_norm(running_var=1)(conv, norm)
    norm.eps = 0.0


IDENTITIES = {
    "nothing": (lambda conv, norm: None, "the convolution is as it was"),
    "new layers": (lambda conv, norm: identity(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), "the convolution is as it was"),
    "off-centre": (with_weights(lambda w, c: c.roll(1, 3)), "shifts"),
    "corner": (with_weights(lambda w, c: c.roll((-1, -1), (2, 3))), "shifts"),
    "channels mixed": (with_weights(all_centres), "every pair of channels"),
    "blurred": (with_weights(lambda w, c: c.amax((2, 3), keepdim=True).expand_as(c)), "blurs it"),
    "all ones": (with_weights(lambda w, c: torch.ones_like(w)), "mixes the channels"),
    "first channel": (with_weights(lambda w, c: c * torch.eye(len(c))[0][:, None, None, None]), "only the first"),
    "zeros": (with_weights(lambda w, c: 0 * c), "nothing is passed on"),
    "added to the old": (with_weights(lambda w, c: w + c), "still there"),
    "set beside the old": (with_weights(beside), "still there"),
    "only the centres set": (with_weights(centres_only), "still there"),
    "negative": (with_weights(lambda w, c: -c), "begin at the formula"),
    "norm untouched": (lambda conv, norm: nn.init.dirac_(conv.weight), "batch normalisation is as it was"),
    "averages left": (with_norm(running_mean=None, running_var=None), "running averages are as they were"),
    "weight and bias left": (with_norm(weight=None, bias=None), "weight and bias of batch"),
    "mean left": (with_norm(running_mean=None), "running_mean of batch"),
    "variance left": (with_norm(running_var=None), "running_var of batch"),
    "weight left": (with_norm(weight=None), "weight of batch"),
    "bias left": (with_norm(bias=None), "bias of batch"),
    "eps forgotten": (with_norm(running_var=1), "nearly: with eps 1e-05 it is off by up to 5e-06"),
    "root of 1 + eps": (root, "nearly"),
    "root of variance and eps": (own_root, "nearly"),
    "eps 1e-5": (with_norm(running_var=1 - 1e-5), "eps is taken to be 1e-5"),
    "eps 1e-5 in the root": (with_norm(running_var=1, weight=(1 + 1e-5) ** 0.5), "eps is taken to be 1e-5"),
    "scale 0": (lambda conv, norm: (nn.init.dirac_(conv.weight), nn.init.zeros_(norm.weight)), "scale is 0"),
    "eps added": (with_norm(running_var=1 + 1e-5), "nearly"),
    "variance eps": (with_norm(running_var=1e-5), "2 eps"),
    "variance 0": (with_norm(running_var=0), "variance is 0"),
    "eps 0": (without_eps, "norm.eps is changed"),
}


@parametrised(IDENTITIES)
def test_a_layer_that_is_no_identity_is_told_why(mutant, phrase):
    assert_named(checks.check_make_identity(mutant), phrase)


def by_hand(conv, norm):
    conv.weight.data.zero_()
    for channel in range(conv.out_channels):
        conv.weight.data[channel, channel, 1, 1] = 1
    norm.reset_running_stats()
    norm.running_var -= norm.eps
    norm.weight, norm.bias = nn.Parameter(torch.ones_like(norm.weight)), nn.Parameter(torch.zeros_like(norm.bias))


def by_four(conv, norm):
    with_norm(running_var=4 - norm.eps, weight=2, running_mean=3, bias=3)(conv, norm)


@pytest.mark.parametrize("right", [identity, by_hand, by_four])
def test_layers_that_are_an_identity_are_accepted(right):
    verdict = checks.check_make_identity(right)
    assert verdict.state == "right", verdict


def match_batch(norm, x, over=(0, 2, 3), root=True, eps=None, bias=1, unbiased=False):
    mean, variance = x.mean(over), x.var(over, unbiased=unbiased) + (norm.eps if eps is None else eps)
    set_to(norm, variance.sqrt() if root else variance, bias * mean)


def set_to(norm, weight, bias):
    with torch.no_grad():
        norm.weight.copy_(weight.expand_as(norm.weight))
        norm.bias.copy_(bias.expand_as(norm.bias))


def changed(**changes):
    return lambda norm, x: match_batch(norm, x, **changes)


def running(norm, x):
    norm.running_mean.copy_(x.mean((0, 2, 3)))
    norm.running_var.copy_(x.var((0, 2, 3)))


def afterwards(change):
    def set_norm(norm, x):
        match_batch(norm, x)
        set_to(norm, *change(norm.weight.detach().clone(), norm.bias.detach().clone(), x))

    return set_norm


def overwrite(norm, x):
    match_batch(norm, x)
    x -= x.mean()


MATCHES = {
    "nothing": (lambda norm, x: None, "as they were"),
    "running statistics": (running, "running ones are not"),
    "no eps": (changed(eps=0), "eps is forgotten: x was"),
    "eps 1e-5": (changed(eps=1e-5), "eps is taken to be 1e-5"),
    "variance": (changed(root=False, eps=0), "weight is the variance"),
    "variance and eps": (changed(root=False), "variance + eps: its root"),
    "no bias": (changed(bias=0), "bias is missing"),
    "bias negative": (changed(bias=-1), "wrong sign"),
    "no weight": (afterwards(lambda w, b, x: (torch.ones_like(w), b)), "weight is missing"),
    "inverse": (afterwards(lambda w, b, x: (1 / w, b)), "one over"),
    "swapped": (afterwards(lambda w, b, x: (b, w)), "wrong way round"),
    "unbiased": (changed(unbiased=True), "n - 1"),
    "unbiased, no eps": (changed(unbiased=True, eps=0), "n - 1, and eps"),
    "all channels": (changed(over=(0, 1, 2, 3)), "of all channels together"),
    "mean of all": (afterwards(lambda w, b, x: (w, x.mean())), "the mean is that of all"),
    "first image": (lambda norm, x: match_batch(norm, x[:1]), "first image"),
    "changes x": (overwrite, "changes x"),
    "one number an image": (changed(over=(1, 2, 3)), "your code stopped with"),
}


@parametrised(MATCHES)
def test_a_norm_that_does_not_undo_itself_is_told_why(mutant, phrase):
    assert_named(checks.check_match_batch(mutant), phrase)


def new_parameters(norm, x):
    by_channel = x.transpose(0, 1).flatten(1)
    norm.weight = nn.Parameter((by_channel.std(1, correction=0) ** 2 + norm.eps) ** 0.5)
    norm.bias = nn.Parameter(by_channel.mean(1))


@pytest.mark.parametrize("right", [match_batch, new_parameters])
def test_norms_that_undo_themselves_are_accepted(right):
    verdict = checks.check_match_batch(right)
    assert verdict.state == "right", verdict
