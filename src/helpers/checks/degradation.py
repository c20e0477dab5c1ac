"""Checks of notebook 01: judging four errors, a layer that is an identity, batch normalisation that undoes itself."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers.checks.verdict import Mistake, exercise, expect, is_same, match
from helpers.models import conv

# training and test error of the shallow net, then of the deep one: all the ways in which two pairs can lie
ERRORS = [
    (1.4, 9.7, 5.9, 13.3),
    (5, 10, 6, 9.5),
    (5, 9, 0.1, 10),
    (5, 9, 3, 8),
    (5, 9, 5, 9),
    (5, 9, 5, 10),
    (5, 9, 1, 8.5),
    (5, 9, 6, 9),
    (5, 9, 3, 9),
    (5, 9, 5, 8),
    (5, 9, 5.01, 9),
    (5, 9, 5, 9.01),
    (20, 19, 18, 17.5),
    (20, 15, 18, 17),
]


@exercise('return "degradation", "overfitting" or "neither" for the errors of a shallow net and a deeper one')
def check_judge(judge: Callable[[float, float, float, float], str]) -> str:
    """Sec. 1: `judge(shallow_train, shallow_test, deep_train, deep_test)`, errors in percent."""
    found = [judge(*errors) for errors in ERRORS]
    known = ("degradation", "overfitting", "neither")
    for answer in found:
        expect(answer in known, f"{answer!r} is none of the three answers {', '.join(map(repr, known))}")
    for mistake, rule in WRONG_RULES.items():
        expect(found != [rule(*errors) for errors in ERRORS], mistake)
    for errors, answer in zip(ERRORS, found, strict=True):
        right = judge_rightly(*errors)
        numbers = "training {} and test {} shallow, training {} and test {} deep".format(*errors)
        expect(answer == right, f"{numbers}: that is {right}, and you say {answer}")
    return "the training errors say whether it is degradation, and only if they do not is the test error asked"


def judge_rightly(shallow_train: float, shallow_test: float, deep_train: float, deep_test: float) -> str:
    if deep_train > shallow_train:
        return "degradation"
    return "overfitting" if deep_test > shallow_test else "neither"


def name(degradation: bool, overfitting: bool) -> str:
    return "degradation" if degradation else "overfitting" if overfitting else "neither"


# a and b are the shallow net's training and test error, c and d the deep one's
WRONG_RULES = {
    "you look at the test errors for degradation: it is the training error that tells it from overfitting": (
        lambda a, b, c, d: name(d > b, c > a)
    ),
    "you let the test error alone decide: it rises in both cases": lambda a, b, c, d: name(d > b, False),
    "you call every higher test error overfitting: when the training error is higher too, it is degradation": (
        lambda a, b, c, d: name(c > a and d <= b, d > b)
    ),
    "you ask for both errors to be higher: the training error alone makes it degradation": (
        lambda a, b, c, d: name(c > a and d > b, d > b)
    ),
    "you compare the gaps between test and training error: a net with a larger gap can be the better one": (
        lambda a, b, c, d: name(c > a, d - c > b - a)
    ),
    "you compare a net's test error with its own training error: nearly every net's is higher": (
        lambda a, b, c, d: name(c > a, d > c)
    ),
    "you ask besides that the deep net's test error exceed its own training error: compare the two nets": (
        lambda a, b, c, d: name(c > a, d > b and d > c)
    ),
    "the nets are the wrong way round: it is the deeper one that is worse": lambda a, b, c, d: judge_rightly(
        c, d, a, b
    ),
    "you count equal errors as higher": lambda a, b, c, d: name(c >= a, d >= b),
    "you ignore small differences: higher is higher, and how sure one can be of it is a separate question": (
        lambda a, b, c, d: name(c > a + 0.1, d > b + 0.1)
    ),
    "you call it overfitting whenever it is not degradation: where no error is higher, it is neither": (
        lambda a, b, c, d: name(c > a, True)
    ),
    "no higher includes equal: with equal training errors and a higher test error it is overfitting": (
        lambda a, b, c, d: name(c > a, c < a and d > b)
    ),
    "the names are the wrong way round": lambda a, b, c, d: name(c <= a and d > b, c > a),
}


@exercise("change conv and norm in place so that norm(conv(x)) is x to the last bit, in evaluation mode")
def check_make_identity(make: Callable[[nn.Conv2d, nn.BatchNorm2d], None]) -> str:
    """Sec. 1's added layer: `make(conv, norm)` for a trained 3x3 convolution and its batch normalisation."""
    for channels, eps in ((4, 1e-5), (3, 4e-4), (2, 5e-4)):  # sqrt(1 + eps) happens to be exact at the first only
        layer, norm = conv(channels, channels, 3), nn.BatchNorm2d(channels, eps)
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
        x, old = torch.rand(2, channels, 5, 5), [t.detach().clone() for t in (*layer.parameters(), *states(norm))]
        make(layer, norm)
        keep = "norm.eps is changed: it belongs to the layer, which needs it in training. Set running_var instead"
        expect(norm.eps == eps, keep)
        with torch.no_grad():
            convolved = layer(x)
            found = norm.eval()(convolved)
        if torch.equal(found, x):
            continue
        if not torch.allclose(found, x, rtol=1e-4):
            match(convolved, x, wrong_convolutions(x, old[0]))
            match(found, x, wrong_norms(x, norm.eps, *old[1:]))
        off = f"nearly: with eps {eps:g} it is off by up to {(found - x).abs().max():.0e}"
        raise Mistake(f"{off}. Batch normalisation divides by sqrt(running_var + eps), so the sum has to be 1")
    return "a layer with weights, batch normalisation and all, that does nothing, to the last bit"


def states(norm: nn.BatchNorm2d) -> tuple[Tensor, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def wrong_convolutions(x: Tensor, old: Tensor) -> dict[str, Tensor | list[Tensor]]:
    """What a kernel that is no identity outputs, by the mistake; `old` are the weights it had."""
    channels = x.shape[1]
    centre = nn.init.dirac_(torch.empty_like(old))
    own = torch.eye(channels)[:, :, None, None].expand_as(old)
    first = centre * (torch.arange(channels) == 0)[:, None, None, None]
    every = torch.zeros_like(old)
    every[:, :, 1, 1] = 1
    shifted = [centre.roll((row, column), (2, 3)) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    corners = [kernel.sign() for kernel in (every.roll((-1, -1), (2, 3)), every.roll((1, 1), (2, 3)))]
    kernels = {
        "the convolution is as it was: change the weights of the one you were given, in place": [old],
        "the 1 is not in the middle of the kernel: that shifts the image by a pixel": shifted,
        "there is a 1 in the middle for every pair of channels: each channel then gets the sum of all": [every],
        "there is a 1 for every pair of channels, and not in the middle either": corners,
        "all nine weights between a channel and itself are 1: that blurs it": [own],
        "all weights are 1: that blurs, and mixes the channels": [torch.ones_like(old)],
        "only the first channel is passed on: each needs a 1 in its own kernel": [first],
        "all weights are 0: nothing is passed on": [torch.zeros_like(old)],
        "the old weights are still there beside the 1: set them to 0": [
            old + centre,
            torch.where(centre > 0, 1, old),
            torch.where(every > 0, centre, old),
        ],
    }
    return {
        mistake: [nn.functional.conv2d(x, kernel, padding=1) for kernel in some] for mistake, some in kernels.items()
    }


def wrong_norms(x: Tensor, eps: float, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> dict:
    """What batch normalisation after an identity kernel gives if some of its four vectors are as they were."""

    def norm(weight: Tensor | float = 1, bias: Tensor | float = 0, mean: Tensor | float = 0, variance=1.0) -> Tensor:
        vectors = [torch.as_tensor(v).expand(x.shape[1])[:, None, None] for v in (weight, bias, mean, variance)]
        return (x - vectors[2]) / (vectors[3] + eps).sqrt() * vectors[0] + vectors[1]

    left = {"weight": weight, "bias": bias, "mean": mean, "variance": variance}
    averages = norm(mean=mean, variance=variance)
    outputs = {
        "the convolution is right, and batch normalisation is as it was": norm(**left),
        "the running averages are as they were: in evaluation mode they are what x is normalised by": averages,
        "weight and bias of batch normalisation are as they were": norm(weight, bias),
        "the running variance is eps: then the sum is 2 eps, and it has to be 1": norm(variance=eps),
        "the running variance is 0: it has to be 1, or all but": norm(variance=0.0),
        "the scale is 0, so all is: zero is enough where the input is added, and here it is not": [
            norm(weight=0),
            norm(weight=0, bias=bias),
        ],
        f"eps is taken to be 1e-5, and it is {eps:g} here: norm.eps": [
            norm(variance=1 - 1e-5),
            norm((1 + 1e-5) ** 0.5),
        ],
    }
    names = {"mean": "running_mean", "variance": "running_var"}
    for key, value in left.items():
        outputs[f"{names.get(key, key)} of batch normalisation is as it was"] = norm(**{key: value})
    return outputs


@exercise("set weight and bias of norm so that, in training mode, norm(x) is x for this batch")
def check_match_batch(set_norm: Callable[[nn.BatchNorm2d, Tensor], None]) -> str:
    """Batch normalisation that undoes itself: `set_norm(norm, x)` for x (n, c, h, w), in place."""
    for shape, eps in (((2, 3, 2, 2), 1e-5), ((4, 4, 3, 3), 1e-3)):
        spread = torch.linspace(eps**0.5, 2, shape[1])[:, None, None]  # the first variance is as small as eps
        x = (torch.randn(shape) + 1.5) * spread
        norm, before = nn.BatchNorm2d(shape[1], eps), x.clone()
        set_norm(norm, x)
        expect(torch.equal(x, before), "your function changes x: only weight and bias of norm are to be set")
        with torch.no_grad():
            found = norm.train()(x)
        if not is_same(found / spread, x / spread):
            match(found / spread, x / spread, {k: v / spread for k, v in wrong_matches(x, norm.eps).items()})
    return "scale and shift undo the normalisation, for this batch: for another its own numbers would be needed"


def wrong_matches(x: Tensor, eps: float) -> dict[str, Tensor]:
    """norm(x) in training mode with scales and shifts that are wrong, by the mistake."""
    over, count = (0, 2, 3), x.numel() // x.shape[1]
    mean, variance = x.mean(over, keepdim=True), x.var(over, unbiased=False, keepdim=True)
    normalised, std = (x - mean) / (variance + eps).sqrt(), (variance + eps).sqrt()
    unbiased = variance * count / (count - 1)
    return {
        "weight and bias are as they were: in training mode the batch's own statistics are used, and the running "
        "ones are not": normalised,
        "eps is forgotten: x was divided by sqrt(variance + eps)": normalised * variance.sqrt() + mean,
        f"eps is taken to be 1e-5, and it is {eps:g} here: norm.eps": normalised * (variance + 1e-5).sqrt() + mean,
        "the weight is the variance: x was divided by its root": normalised * variance + mean,
        "the weight is variance + eps: its root is what x was divided by": normalised * (variance + eps) + mean,
        "the bias is missing: the mean was taken off": normalised * std,
        "the bias has the wrong sign: the mean was taken off, so add it": normalised * std - mean,
        "the weight is missing: x was divided by the standard deviation": normalised + mean,
        "the weight is one over the standard deviation: that divides by it twice": normalised / std + mean,
        "weight and bias are the wrong way round": normalised * mean + std,
        "your variance is divided by n - 1 (torch.var does that by default): here divide by n, unbiased=False": (
            normalised * (unbiased + eps).sqrt() + mean
        ),
        "your variance is divided by n - 1, and eps is forgotten": normalised * unbiased.sqrt() + mean,
        "mean and variance are those of all channels together: each channel has its own": (
            normalised * (x.var(unbiased=False) + eps).sqrt() + x.mean()
        ),
        "the mean is that of all channels together: each channel has its own": normalised * std + x.mean(),
        "the statistics are those of the first image: they are those of the whole batch": (
            normalised * (x[0].var((1, 2), unbiased=False) + eps).sqrt()[:, None, None]
            + x[0].mean((1, 2), keepdim=True)
        ),
    }
