"""VOC's data format: reading it, and a small drawn detection set written in it."""

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor
from torchvision.datasets import VOCDetection
from torchvision.ops import box_iou, masks_to_boxes
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from helpers.data import shapes

DRAWN = {"disc": 0, "plus": 4, "triangle": 6}  # the classes of the drawn set, by their place in `data.shapes`


def load_voc(root: str | Path, image_set: str, names: list[str], year: str = "2007") -> VOCDetection:
    """VOC, or what is drawn in its format: pairs of an image, float (3, h, w) from 0 to 1, and its objects.

    The objects: boxes (n, 4) in pixels, left, top, right, bottom; labels (n,) counted in `names` from 1, since 0 is
    the background; iscrowd (n,), 1 for what VOC calls difficult and the metrics leave out.
    """
    return VOCDetection(root, year, image_set, transforms=partial(as_tensors, names=names))


def as_tensors(image, annotation: dict, names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    objects = annotation["annotation"]["object"]
    boxes = [[float(entry["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")] for entry in objects]
    target = {
        "boxes": torch.tensor(boxes).reshape(-1, 4) - torch.tensor([1.0, 1.0, 0.0, 0.0]),  # VOC's first pixel is 1
        "labels": torch.tensor([1 + names.index(entry["name"]) for entry in objects], dtype=torch.int64),
        "iscrowd": torch.tensor([int(entry.get("difficult", 0)) for entry in objects], dtype=torch.int64),
    }
    return pil_to_tensor(image) / 255, target


def draw_scene(generator: torch.Generator, height: int = 128, width: int = 128):
    """One to three shapes whose boxes do not overlap: image uint8 (3, h, w), boxes (n, 4), and places in DRAWN (n,)."""

    def uniform(low: float, high: float, count: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    paper, short = uniform(0, 1, 3)[:, None, None], min(height, width)
    image, boxes, labels = paper.expand(3, height, width), torch.empty(0, 4), []
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        label, radius = int(torch.randint(len(DRAWN), (), generator=generator)), uniform(0.1 * short, 0.24 * short)
        x = torch.arange(width)[None, None] - uniform(float(radius), width - float(radius))
        y = torch.arange(height)[None, :, None] - uniform(float(radius), height - float(radius))
        mask = shapes(x, y, radius)[list(DRAWN.values())[label]]
        box = masks_to_boxes(mask) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        if box_iou(box, boxes).any():
            continue
        ink = (paper + uniform(0.3, 0.7, 3)[:, None, None]) % 1  # in each channel at least 0.3 from the paper's
        image, boxes, labels = torch.where(mask, ink, image), torch.cat([boxes, box]), [*labels, label]
    image = image + 0.05 * torch.randn(image.shape, generator=generator)
    return (255 * image.clamp(0, 1)).to(torch.uint8), boxes, torch.tensor(labels)


def draw_voc(root: str | Path, counts: dict[str, int], seed: int = 0) -> None:
    """Write drawn scenes to `root` where VOC 2007 would lie; `counts`: how many for each image set, as "test"."""
    generator, folder, number = torch.Generator().manual_seed(seed), Path(root) / "VOCdevkit" / "VOC2007", 0
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for image_set, count in counts.items():
        stems = [f"{number + k:06}" for k in range(1, count + 1)]
        number += count
        (folder / "ImageSets" / "Main" / f"{image_set}.txt").write_text("\n".join(stems) + "\n")
        for stem in stems:
            image, boxes, labels = draw_scene(generator)
            to_pil_image(image).save(folder / "JPEGImages" / f"{stem}.jpg", quality=95)
            annotation(boxes, labels).write(folder / "Annotations" / f"{stem}.xml")


def annotation(boxes: Tensor, labels: Tensor) -> ElementTree.ElementTree:
    """The objects of a scene in VOC's XML, whose pixels are counted from 1 and whose right and bottom are included."""
    root = ElementTree.Element("annotation")
    for box, label in zip((boxes + torch.tensor([1, 1, 0, 0])).int().tolist(), labels.tolist(), strict=True):
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = list(DRAWN)[label]
        ElementTree.SubElement(entry, "difficult").text = "0"
        sides = ElementTree.SubElement(entry, "bndbox")
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(sides, side).text = str(value)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)
