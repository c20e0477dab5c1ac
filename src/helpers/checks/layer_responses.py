"""Notebook 08: the standard deviation that Fig. 7 shows, and the layers it is taken of."""

import torch
from torch import Tensor, nn

from helpers.analysis import norms_of_3x3
from helpers.checks.verdict import exercise, expect, match
from helpers.models import ResNet, Spec


def wrong_deviations(batches: list[Tensor]) -> dict[str, Tensor | list[Tensor]]:
    """What each mistake gives instead of the standard deviation of all elements."""
    everything, counts = torch.cat(batches), torch.tensor([float(len(x)) for x in batches])
    mean, square, n = everything.mean(), everything.square().mean(), counts.sum()
    means, squares = (torch.stack([take(x) for x in batches]) for take in (torch.mean, lambda x: x.square().mean()))
    variances = squares - means**2
    deviations = variances.sqrt()
    return {
        "that is the mean of the batches' standard deviations: it misses that their means differ": [
            deviations.mean(), (counts * deviations).sum() / n
        ],
        "that is the mean of the batches' variances: it misses that their means differ": [
            variances.mean().sqrt(), ((counts * variances).sum() / n).sqrt(), variances.mean()
        ],
        "each batch counts alike, and they differ in size: add the sums up before you divide": (
            (squares.mean() - means.mean() ** 2).sqrt()
        ),
        "the mean is not squared before it is subtracted from the mean square": (square - mean).sqrt(),
        "the sum is squared before it is divided: square the mean": (square - n * mean**2).abs().sqrt(),
        "the sums are not divided by the count": ((square - mean**2) * n).sqrt(),
        "that is the variance: take its square root": everything.var(correction=0),
        "the mean is not subtracted: that is the root of the mean square": square.sqrt(),
        "that is the standard deviation of the last batch": deviations[-1],
        "that is the standard deviation of the first batch": deviations[0],
        "that is the mean of all elements": mean,
    }  # fmt: skip


@exercise("write pooled(sums): the standard deviation of all elements, from the sums of each batch")
def check_pooled(pooled) -> str:
    """pooled: list of (count, sum, sum of squares), one a batch -> the std of all elements (float or Tensor)."""
    shapes = ((300, 1, 2), (500, 3, -1), (40, 0.5, 4))
    batches = [scale * torch.randn(size, dtype=torch.float64) + shift for size, scale, shift in shapes]
    negative = "the root is of a negative number: it is the mean that is squared, not the sum"
    try:
        found = pooled([(len(x), float(x.sum()), float(x.square().sum())) for x in batches])
    except ValueError as error:  # of math.sqrt, which says so in one of two ways
        expect("domain" not in str(error) and "nonnegative" not in str(error), negative)
        raise
    expect(found is not None, "your function returns nothing: end it with `return`")
    expect(not isinstance(found, complex), negative)
    found = torch.as_tensor(found, dtype=torch.float64)
    expect(found.numel() == 1, "one number is wanted, for all batches together")
    expect(not found.isnan(), negative)
    right = [torch.cat(batches).std(correction=correction) for correction in (0, 1)]
    unknown = f"the right number is {float(right[0]):.3f} here, and yours is {float(found):.3f}"
    match(found.reshape(()), right, wrong_deviations(batches) | {unknown: found.reshape(())})
    return "sums can be added up over batches, standard deviations cannot."


@exercise("write layers_of_fig7(network): the names of the layers of Fig. 7, in their order")
def check_layers(layers) -> str:
    """layers: a ResNet -> names of its 3x3 convolutions, as `named_modules` has them (list of str)."""
    for option, bottleneck in (("A", False), ("C", False), ("B", True)):
        network = ResNet(Spec((1, 2), (4, 8), shortcut=option, bottleneck=bottleneck))
        modules = dict(network.named_modules())
        right = list(norms_of_3x3(network))
        found = layers(network)
        expect(found is not None, "your function returns nothing: end it with `return`")
        found = list(found)
        convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
        norms = [name for name, module in modules.items() if isinstance(module, nn.BatchNorm2d)]
        projections = [name for name in convolutions if "shortcut" in name]
        narrow = [name for name in convolutions if name not in [*right, *projections]]
        expect(found, "the list is empty: `named_modules` goes into the blocks, and a kernel_size is a pair, (3, 3)")
        expect(
            all(isinstance(name, str) and name in modules for name in found),
            "names of modules are wanted, as `named_modules` has them: blocks.0.conv1",
        )
        expect(not set(found) & set(norms), "these are batch normalisations: name the convolutions in front of them")
        expect("fc" not in found, "the classifier is no 3x3 layer")
        expect(set(found) <= set(convolutions), "only convolutions are layers in Fig. 7")
        expect(
            not set(found) & set(projections),
            "a projection on a shortcut is a 1x1 convolution: Fig. 7 has the 3x3 only",
        )
        expect(
            not set(found) & set(narrow),
            "the first and the last convolution of a bottleneck block are 1x1: look at kernel_size, not at names",
        )
        expect(right[0] in found, "the first convolution is missing: a net of 20 layers has 19 points in Fig. 7")
        missing = [name for name in right if name not in found]
        expect(not missing, f"{len(missing)} of the {len(right)} layers are missing, {missing[:1]} among them")
        expect(len(found) == len(set(found)), "a layer is named twice")
        expect(found == right, "all layers are there, in another order than the network has them")
    return "every 3x3 convolution, the first one too, and no 1x1."
