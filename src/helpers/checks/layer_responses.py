"""Notebook 08: the standard deviation that Fig. 7 shows, and the layers it is taken of."""

import torch
from torch import nn

from helpers.analysis import norms_of_3x3
from helpers.checks.verdict import exercise, expect, match
from helpers.models import ResNet, Spec


@exercise("write pooled(sums): the standard deviation of all elements, from the sums of each batch")
def check_pooled(pooled) -> str:
    """pooled: list of (count, sum, sum of squares), one a batch -> the std of all elements (float or Tensor)."""
    shapes = ((300, 1, 2), (500, 3, -1), (40, 0.5, 4))
    batches = [scale * torch.randn(size, dtype=torch.float64) + shift for size, scale, shift in shapes]
    everything = torch.cat(batches)
    sums = [(len(x), float(x.sum()), float(x.square().sum())) for x in batches]
    counts = torch.tensor([float(len(x)) for x in batches], dtype=torch.float64)
    deviations = torch.stack([x.std(correction=0) for x in batches])
    variances = deviations.square()
    mistakes = {
        "that is the mean of the batches' standard deviations: it misses that their means differ": [
            deviations.mean(),
            (counts * deviations).sum() / counts.sum(),
        ],
        "that is the mean of the batches' variances: it misses that their means differ": [
            variances.mean().sqrt(),
            ((counts * variances).sum() / counts.sum()).sqrt(),
            variances.mean(),
        ],
        "that is the variance: take its square root": everything.var(correction=0),
        "the mean is not subtracted: that is the root of the mean square": everything.square().mean().sqrt(),
        "that is the standard deviation of the last batch": deviations[-1],
        "that is the standard deviation of the first batch": deviations[0],
        "that is the mean of all elements": everything.mean(),
    }
    found = torch.as_tensor(pooled(list(sums)), dtype=torch.float64)
    right = [everything.std(correction=0), everything.std()]
    match(found, right, mistakes)
    return "sums can be added up over batches, standard deviations cannot."


@exercise("write layers(network): the names of the layers of Fig. 7, in their order")
def check_layers(layers) -> str:
    """layers: a ResNet -> names of its 3x3 convolutions, as `named_modules` has them (list of str)."""
    for option in ("A", "C"):
        network = ResNet(Spec((1, 2), (4, 8), shortcut=option))
        modules = dict(network.named_modules())
        right = list(norms_of_3x3(network))
        found = list(layers(network))
        convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
        norms = [name for name, module in modules.items() if isinstance(module, nn.BatchNorm2d)]
        projections = [name for name in convolutions if name not in right]
        expect(found, "the list is empty")
        expect(
            all(isinstance(name, str) and name in modules for name in found),
            "names are wanted, as `named_modules` has them",
        )
        expect(not set(found) & set(norms), "these are batch normalisations: name the convolutions in front of them")
        expect("fc" not in found, "the classifier is no 3x3 layer")
        expect(set(found) <= set(convolutions), "only convolutions are layers in Fig. 7")
        expect(
            not set(found) & set(projections),
            "a projection on a shortcut is a 1x1 convolution: Fig. 7 has the 3x3 only",
        )
        expect(right[0] in found, "the first convolution is missing: a net of 20 layers has 19 points in Fig. 7")
        missing = [name for name in right if name not in found]
        expect(not missing, f"{len(missing)} of the {len(right)} layers are missing, {missing[:1]} among them")
        expect(len(found) == len(set(found)), "a layer is named twice")
        expect(found == right, "all layers are there, in another order than the network has them")
    return "every 3x3 convolution, the first one too, and no projection."
