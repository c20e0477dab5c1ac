import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import Subset
from torchvision.ops import box_iou

from helpers.detection import (
    RegionPooling,
    evaluate_detector,
    faster_rcnn,
    freeze_norms,
    resnet_parts,
    train_detector,
    vgg_parts,
)
from helpers.models import ResNet, Spec, imagenet_spec
from helpers.voc import DRAWN, draw_scene, draw_voc, load_voc

TINY = Spec((1, 1, 1, 1), (4, 8, 8, 8), shortcut="B", stem="imagenet")
NAMES = list(DRAWN)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    draw_voc(folder, {"trainval": 6, "test": 4})
    return folder


def tiny_detector():
    torch.manual_seed(0)
    parts = resnet_parts(freeze_norms(ResNet(TINY)))
    return faster_rcnn(parts, len(NAMES), shorter=64, longer=64, anchors=(16, 32), regions=8)


def test_the_halves_of_a_resnet_are_the_network():
    torch.manual_seed(0)
    network, images = ResNet(TINY).eval(), torch.randn(2, 3, 64, 96)
    parts = resnet_parts(network)
    maps = parts.shared(images)
    assert maps.shape == (2, parts.channels, 4, 6), "stride 16"
    assert torch.allclose(network.fc(parts.region(maps)), network(images), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "channels", "pooled", "features"),
    [
        (lambda: resnet_parts(ResNet(imagenet_spec(101))), 1024, 14, 2048),
        (lambda: vgg_parts(torchvision.models.vgg16()), 512, 7, 4096),
    ],
)
def test_the_papers_backbones_are_cut_where_it_says(build, channels, pooled, features):
    with torch.device("meta"):
        parts = build()
        assert parts.shared(torch.empty(1, 3, 160, 240)).shape == (1, channels, 10, 15)
        assert parts.side == pooled
        assert parts.region(torch.empty(5, channels, pooled, pooled)).shape == (5, features)


def test_frozen_norms_are_constants():
    torch.manual_seed(0)
    network, images = ResNet(TINY), torch.randn(4, 3, 64, 64)
    network.train()(images)
    expected = copy.deepcopy(network).eval()(images)
    frozen = freeze_norms(network).train()
    assert torch.allclose(frozen(images), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(frozen(images + 5), copy.deepcopy(frozen).eval()(images + 5))
    assert all(parameter.ndim > 1 or "fc" in name for name, parameter in frozen.named_parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())


def test_the_drawn_set_is_read_back_as_it_was_drawn(root):
    generator = torch.Generator().manual_seed(0)
    dataset = load_voc(root, "trainval", NAMES)
    assert len(dataset) == 6
    for image, target in dataset:
        drawn, boxes, labels = draw_scene(generator)
        assert (image - drawn / 255).abs().mean() < 0.05, "but for what JPEG loses"
        assert torch.equal(target["boxes"], boxes)
        assert torch.equal(target["labels"], labels + 1)
        assert not target["iscrowd"].any()


def test_boxes_fit_what_is_drawn():
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        image, boxes, labels = draw_scene(generator, 100, 140)
        assert image.shape == (3, 100, 140) and 1 <= len(boxes) == len(labels) <= 3
        assert (boxes >= 0).all() and (boxes[:, 2] <= 140).all() and (boxes[:, 3] <= 100).all()
        assert not box_iou(boxes, boxes).fill_diagonal_(0).any()
        outside = torch.ones(100, 140, dtype=torch.bool)
        for left, top, right, bottom in boxes.int().tolist():
            outside[top:bottom, left:right] = False
        assert (image[:, outside] / 255).std(1).max() < 0.06, "outside all boxes there is only noise"


def test_voc_counts_pixels_from_one_and_includes_the_last(root):
    text = sorted((root / "VOCdevkit/VOC2007/Annotations").glob("*.xml"))[0].read_text()
    box = load_voc(root, "trainval", NAMES)[0][1]["boxes"][0]
    assert f"<xmin>{int(box[0]) + 1}</xmin>" in text and f"<xmax>{int(box[2])}</xmax>" in text


def test_a_detector_trains_and_its_frozen_norms_stay(root):
    detector, dataset = tiny_detector(), load_voc(root, "trainval", NAMES)
    before = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    weight = detector.roi_heads.box_head[0].conv1.weight.clone()
    torch.manual_seed(0)
    rows = list(train_detector(detector, dataset, steps=4, lr=0.01))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    losses = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert all(losses == set(row) - {"step"} for row in rows)
    assert all(torch.equal(before[name], buffer) for name, buffer in detector.named_buffers())
    assert not torch.equal(weight, detector.roi_heads.box_head[0].conv1.weight)


def test_a_set_smaller_than_a_batch_is_trained_on_all_the_same(root):
    dataset = Subset(load_voc(root, "trainval", NAMES), range(1))
    assert len(list(train_detector(tiny_detector(), dataset, steps=2, lr=0.0))) == 2


def test_three_hundred_proposals_at_most():
    assert tiny_detector().rpn._post_nms_top_n["testing"] == 300


def test_a_region_is_pooled_from_where_it_lies():
    columns = torch.arange(6.0).expand(1, 1, 4, 6).contiguous()
    assert RegionPooling(1)({"0": columns}, [torch.tensor([[32.0, 0, 36, 63]])], []).item() == 2


class Listening(nn.Module):
    """A detector that keeps what it is to find; its loss is its only weight."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, images, targets):
        self.seen += targets
        return {"loss": self.weight}


def test_difficult_objects_are_left_out_and_the_rate_falls_after_three_quarters():
    target = {"boxes": torch.zeros(2, 4), "labels": torch.tensor([1, 2]), "iscrowd": torch.tensor([0, 1])}
    detector = Listening()
    list(train_detector(detector, [(torch.zeros(3, 8, 8), target)], steps=4, batch_size=1, lr=0.01))
    assert [seen["labels"].tolist() for seen in detector.seen] == [[1]] * 4
    moved = 0.01 * (1 + 1.9 + 2.71 + 0.1 * 3.439)  # the sums of velocities, the last at a tenth of the rate
    assert detector.weight.item() == pytest.approx(1 - moved, abs=1e-4)


def test_what_voc_calls_difficult_is_read(tmp_path):
    draw_voc(tmp_path, {"trainval": 1})
    [path] = (tmp_path / "VOCdevkit/VOC2007/Annotations").glob("*.xml")
    path.write_text(path.read_text().replace("<difficult>0<", "<difficult>1<", 1))
    assert load_voc(tmp_path, "trainval", NAMES)[0][1]["iscrowd"].tolist()[0] == 1


class Telling(nn.Module):
    """A detector that puts out the truth, changed."""

    def __init__(self, dataset, change):
        super().__init__()
        self.answers = iter([change(target) for _, target in dataset])

    def forward(self, _images):
        return [next(self.answers)]


def certain(target):
    return {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(len(target["boxes"]))}


def test_the_truth_scores_a_hundred_and_nothing_scores_nothing(root):
    dataset = load_voc(root, "test", NAMES)
    assert set(evaluate_detector(Telling(dataset, certain), dataset).values()) == {100.0}
    misnamed = Telling(dataset, lambda t: certain(t) | {"labels": t["labels"] % 3 + 1})
    assert evaluate_detector(misnamed, dataset)["mAP@.5"] < 50
    shifted = Telling(dataset, lambda t: certain(t) | {"boxes": t["boxes"] + 6})
    found = evaluate_detector(shifted, dataset)
    assert found["mAP@[.5,.95]"] < found["mAP@.5"], "a shifted box fails at high thresholds"


def test_voc_2007_averages_over_eleven_recalls():
    """One of two objects found, behind a wrong detection: precision 1/2 up to recall 1/2, that is at six of eleven."""
    target = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]),
        "labels": torch.tensor([1, 1]),
        "iscrowd": torch.tensor([0, 0]),
    }
    answer = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]),
        "labels": torch.tensor([1, 1]),
        "scores": torch.tensor([0.9, 0.95]),
    }
    dataset = [(torch.zeros(3, 64, 64), target)]
    found = evaluate_detector(Telling(dataset, lambda _: answer), dataset)
    assert found["VOC 2007"] == pytest.approx(100 * 6 / 11 / 2, abs=1e-3)
    assert found["mAP@.5"] == pytest.approx(100 * 51 / 101 / 2, abs=1e-3)
