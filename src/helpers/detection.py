"""Faster R-CNN on the course's networks (Sec. 4.3 and Appendix A)."""

from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import VGG
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, roi_pool

from helpers.models import ResNet

STRIDE = 16  # pixels of the image for one of the shared map
MEAN_COLOUR = (0.485, 0.456, 0.406)  # ImageNet's


class Parts(NamedTuple):
    """An image classifier cut in two: what sees the whole image once, and what sees each region."""

    shared: nn.Module  # images (n, 3, h, w) -> maps (n, channels, h / 16, w / 16)
    channels: int
    side: int  # a region is pooled to side x side
    region: nn.Module  # regions (r, channels, side, side) -> (r, features)
    features: int


def resnet_parts(network: ResNet) -> Parts:
    """conv1 to conv4_x are shared, conv5_x sees each region; RoI pooling to 14x14, which conv5_1 halves."""
    last = network.spec.blocks[-1]
    shared = nn.Sequential(network.stem, *network.blocks[:-last])
    region = nn.Sequential(*network.blocks[-last:], network.end, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    convs = [module for module in shared.modules() if isinstance(module, nn.Conv2d)]
    return Parts(shared, convs[-1].out_channels, 14, region, network.fc.in_features)


def vgg_parts(network: VGG) -> Parts:
    """The baseline: all convolutions are shared, the two fully-connected layers see each region, pooled to 7x7."""
    region = nn.Sequential(nn.Flatten(), *network.classifier[:-1])
    return Parts(network.features[:-1], 512, 7, region, 4096)


def freeze_norms(module: nn.Module) -> nn.Module:
    """Make every batch normalisation a constant scale and shift, in place (Appendix A): neither learned nor counted."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            fixed = FrozenBatchNorm2d(child.num_features, child.eps).to(child.weight.device)
            fixed.load_state_dict(child.state_dict())
            setattr(module, name, fixed)
        else:
            freeze_norms(child)
    return module


class RegionPooling(nn.Module):
    """RoI max pooling of the shared map, called as torchvision's detectors do: (r, channels, side, side)."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, maps: dict[str, Tensor], regions: list[Tensor], _sizes: list[tuple[int, int]]) -> Tensor:
        return roi_pool(maps["0"], regions, self.side, 1 / STRIDE)


def faster_rcnn(
    parts: Parts,
    classes: int,
    shorter: int = 600,
    longer: int = 1000,
    anchors=(128, 256, 512),
    regions: int = 128,
    mean=MEAN_COLOUR,
) -> FasterRCNN:
    """The detector: proposals (300 in testing), RoI pooling, sibling layers for `classes` and background, and boxes.

    Images (3, h, w) from 0 to 1 are scaled until their sides are `shorter`, or `longer` if that is less. Anchors
    are squares of these sides in pixels and their 1:2 and 2:1 variants. Training classifies
    `regions` of each image.
    """
    parts.shared.out_channels = parts.channels
    detector = FasterRCNN(
        parts.shared,
        min_size=shorter,
        max_size=longer,
        image_mean=list(mean),
        image_std=[1.0, 1.0, 1.0],
        rpn_anchor_generator=AnchorGenerator((tuple(anchors),), ((0.5, 1.0, 2.0),)),
        rpn_post_nms_top_n_test=300,
        box_head=parts.region,
        box_predictor=FastRCNNPredictor(parts.features, classes + 1),
        box_batch_size_per_image=regions,
        box_nms_thresh=0.3,
    )
    detector.roi_heads.box_roi_pool = RegionPooling(parts.side)
    return detector


def train_detector(
    detector: FasterRCNN, dataset: Dataset, steps: int, batch_size: int = 2, lr: float = 0.001
) -> Iterator[dict[str, float]]:
    """A row of the four losses after each step; the rate falls to a tenth after three quarters, as in Appendix A.

    The random numbers are the global generator's: seed it for the same order of images and, with the same detector,
    the same regions.
    """
    order = torch.Generator().manual_seed(int(torch.randint(2**31, ())))  # its own, since sampling regions draws too
    loader = DataLoader(dataset, batch_size, shuffle=True, collate_fn=list, generator=order)
    learned = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learned, lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [3 * steps // 4])
    detector.train()
    for step, pairs in enumerate(islice(chain.from_iterable(repeat(loader)), steps), start=1):
        losses = detector([image for image, _ in pairs], [without_difficult(target) for _, target in pairs])
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        schedule.step()
        yield {"step": step} | {name: loss.item() for name, loss in losses.items()}


def without_difficult(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """The objects to train on: those that VOC does not mark as difficult."""
    kept = target["iscrowd"] == 0
    return {name: values[kept] for name, values in target.items()}


@torch.no_grad()
def evaluate_detector(detector: FasterRCNN, dataset: Dataset) -> dict[str, float]:
    """Mean average precision in percent: at VOC 2007's eleven recalls (Table 7), and as COCO defines it (Table 8).

    Both by COCO's code, which matches a detection with objects not found before; VOC's takes the one overlapped most.
    """
    metrics = {
        "voc07": MeanAveragePrecision(iou_thresholds=[0.5], rec_thresholds=[k / 10 for k in range(11)]),
        "coco": MeanAveragePrecision(),
    }
    detector.eval()
    for image, target in dataset:
        found = detector([image])
        for metric in metrics.values():
            metric.update(found, [target])
    values = {name: metric.compute() for name, metric in metrics.items()}
    return {
        "VOC 2007": 100 * float(values["voc07"]["map"]),
        "mAP@.5": 100 * float(values["coco"]["map_50"]),
        "mAP@[.5,.95]": 100 * float(values["coco"]["map"]),
    }
