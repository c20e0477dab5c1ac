"""The ImageNet networks beside torchvision's, and the paper's views of an image in training and testing (Sec. 3.4)."""

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models import resnet as tv
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import resize, ten_crop

from helpers.analysis import multiply_adds
from helpers.models import IMAGENET_WIDTHS, ResNet, Spec

CROP, SHORTER, TEN_CROP_SIDE = 224, (256, 480), 256  # pixels
TEST_SIDES = (224, 256, 384, 480, 640)


def torchvision_spec(blocks: tuple[int, ...], bottleneck: bool, classes: int) -> Spec:
    """A network as torchvision builds it: with projections where shapes change, and the stride on the 3x3 layer."""
    return Spec(blocks, IMAGENET_WIDTHS, bottleneck, "B", "imagenet", classes, stride_on_3x3=bottleneck)


def from_torchvision(theirs: tv.ResNet) -> ResNet:
    """Our network with the weights of torchvision's ResNet-18, 34, 50, 101 or 152: the same outputs."""
    blocks = tuple(len(getattr(theirs, f"layer{stage}")) for stage in (1, 2, 3, 4))
    bottleneck = isinstance(theirs.layer1[0], tv.Bottleneck)
    ours = ResNet(torchvision_spec(blocks, bottleneck, theirs.fc.out_features))
    ours.load_state_dict(renamed(theirs, ours))
    return ours


def to_torchvision(ours: ResNet) -> tv.ResNet:
    """torchvision's network with our weights. Raises ValueError where torchvision builds another network."""
    spec, block = ours.spec, tv.Bottleneck if ours.spec.bottleneck else tv.BasicBlock
    wanted = torchvision_spec(spec.blocks, spec.bottleneck, spec.classes)
    if spec != wanted:
        raise ValueError(f"torchvision has no such network: {spec} would have to be {wanted}")
    theirs = tv.ResNet(block, list(spec.blocks), num_classes=spec.classes)
    theirs.load_state_dict(renamed(ours, theirs))
    return theirs


def renamed(source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """The weights of `source` by their names in `target`: both build the same layers in the same order."""
    return dict(zip(target.state_dict(), source.state_dict().values(), strict=True))


def cost_by_stage(spec: Spec) -> pd.DataFrame:
    """Table 1 for one network: side of the output, weighted layers and multiply-adds of conv1 to conv5_x and fc."""
    with torch.device("meta"):
        network, x = ResNet(spec).eval(), torch.empty(1, 3, 224, 224)
    ends = torch.tensor(spec.blocks).cumsum(0).tolist()
    parts = [("conv1", network.stem[:3], 1)]
    for stage, (end, count) in enumerate(zip(ends, spec.blocks, strict=True)):
        blocks = network.blocks[end - count : end]
        pooled = nn.Sequential(network.stem[3], *blocks) if stage == 0 else blocks
        parts.append((f"conv{stage + 2}_x", pooled, (3 if spec.bottleneck else 2) * count))
    parts.append(("fc", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.fc), 1))
    rows = []
    for name, part, layers in parts:
        cost, x = multiply_adds(part, x), part(x)
        rows.append((name, x.shape[-1] if x.ndim == 4 else 1, layers, cost))
    return pd.DataFrame(rows, columns=["stage", "side", "layers", "multiply_adds"]).set_index("stage")


def training_views(crop: int = CROP) -> v2.Compose:
    """One random view of an image (3, h, w) -> (3, crop, crop), its proportions kept; scale, place and flip are random.

    The shorter side is drawn from [256, 480] for a crop of 224, in proportion for another. The random
    numbers are the global generator's.
    """
    low, high = (round(side * crop / CROP) for side in SHORTER)
    return v2.Compose([v2.RandomShortestSize(range(low, high + 1)), v2.RandomCrop(crop), v2.RandomHorizontalFlip()])


def colour_axes(images: Tensor) -> Tensor:
    """Krizhevsky's colour augmentation (the paper's ref. 21): the principal axes of the pixels' colours.

    Images (n, 3, h, w) -> (3, 3), one axis per column, as long as the variance along it.
    """
    variances, axes = torch.linalg.eigh(torch.cov(images.transpose(0, 1).flatten(1)))
    return axes * variances


def shift_colour(image: Tensor, axes: Tensor) -> Tensor:
    """One random colour added to every pixel of an image (3, h, w): normal along each axis, with deviation 0.1."""
    return image + (axes @ (0.1 * torch.randn(3)))[:, None, None]


def ten_crops(images: Tensor, crop: int = CROP) -> Tensor:
    """Four corners and the centre of images (n, 3, h, w), and their mirror images: (10, n, 3, crop, crop).

    The shorter side is 256 for a crop of 224, in proportion for another.
    """
    return torch.stack(ten_crop(resize(images, round(TEN_CROP_SIDE * crop / CROP)), crop))


@torch.no_grad()
def ten_crop_scores(network: nn.Module, images: Tensor, crop: int = CROP) -> Tensor:
    """Softmax scores (n, classes) averaged over ten crops of images (n, 3, h, w), for comparisons (Table 3)."""
    return torch.stack([network(view).softmax(1) for view in ten_crops(images, crop)]).mean(0)


@torch.no_grad()
def multi_scale_scores(network: nn.Module, images: Tensor, crop: int = CROP) -> Tensor:
    """Softmax scores (n, classes) of the whole image, averaged over five scales, for the best results (Table 4).

    The shorter sides are 224 to 640 for a crop of 224, in proportion for another. Since the classifier is linear,
    its scores averaged over all places of the map are its scores of the averaged map: the network's output.
    """
    sides = [round(side * crop / CROP) for side in TEST_SIDES]
    return torch.stack([network(resize(images, side)).softmax(1) for side in sides]).mean(0)
