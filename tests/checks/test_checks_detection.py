import pytest
import torch
from mutants import assert_named, parametrised, stub
from torch import nn
from torchvision.ops import FrozenBatchNorm2d, box_iou, generalized_box_iou

from helpers import checks
from helpers.detection import freeze_norms


def iou(a, b, pixel=0, low=0.0, twice=False):
    sides = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2]) + pixel
    common = sides.clamp(min=low).prod(2)
    total = (a[:, 2:] - a[:, :2] + pixel).prod(1)[:, None] + (b[:, 2:] - b[:, :2] + pixel).prod(1)
    return common / (total if twice else total - common)


def area(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def common(a, b):
    return (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0).prod(2)


def as_corners(boxes):
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


@parametrised(
    {
        "not clamped": (lambda a, b: iou(a, b, low=-99.0), "clamp sides at 0"),
        "counted twice": (lambda a, b: iou(a, b, twice=True), "counted twice"),
        "a pixel more": (lambda a, b: iou(a, b, pixel=1), "a pixel too much"),
        "width and height": (lambda a, b: iou(as_corners(a), as_corners(b)), "width, height"),
        "smaller": (lambda a, b: common(a, b) / torch.minimum(area(a)[:, None], area(b)), "smaller box"),
        "first": (lambda a, b: common(a, b) / area(a)[:, None], "first box"),
        "area": (common, "shared area"),
        "generalised": (generalized_box_iou, "generalised"),
        "exchanged": (lambda a, b: iou(b, a), "exchanged"),
        "one by one": (lambda a, b: iou(a, b[:3]).diag(), "every box"),
    }
)
def test_a_wrong_iou_is_named(mutant, phrase):
    assert_named(checks.check_iou(mutant), phrase)


def by_loops(a, b):
    return torch.stack([torch.cat([iou(x[None], y[None])[0] for y in b]) for x in a])


@pytest.mark.parametrize("answer", [iou, box_iou, by_loops])
def test_a_right_iou_is_accepted(answer):
    assert checks.check_iou(answer).state == "right"


def precision(scores, overlaps, duplicates=False, threshold=0.5, rank=lambda s: s.argsort(descending=True)):
    taken, hits = set(), []
    for row in overlaps[rank(scores)]:
        best = int(row.argmax())
        hits.append(bool(row[best] > threshold) and (duplicates or best not in taken))
        if hits[-1]:
            taken.add(best)
    hits = torch.tensor(hits).float()
    return hits, hits.cumsum(0) / torch.arange(1, len(hits) + 1)


def envelope(values):
    return values.flip(0).cummax(0).values.flip(0)


def exact(scores, overlaps, **changes):
    hits, values = precision(scores, overlaps, **changes)
    return (envelope(values) * hits).sum() / overlaps.shape[1]


def at(scores, overlaps, points):
    hits, values = precision(scores, overlaps)
    recall = hits.cumsum(0) / overlaps.shape[1]
    kept = [values[recall >= r].amax().item() if (recall >= r).any() else 0.0 for r in torch.linspace(0, 1, points)]
    return sum(kept) / points


def raw(scores, overlaps):
    hits, values = precision(scores, overlaps)
    return float((values * hits).sum() / overlaps.shape[1])


def over(divisor):
    return lambda s, o: float(exact(s, o) * o.shape[1] / divisor(s, o))


@parametrised(
    {
        "duplicates": (lambda s, o: exact(s, o, duplicates=True), "second detection"),
        "unsorted": (lambda s, o: exact(s, o, rank=lambda s: torch.arange(len(s))), "not ranked"),
        "ascending": (lambda s, o: exact(s, o, rank=torch.argsort), "wrong way round"),
        "raw": (raw, "not interpolated"),
        "found": (over(lambda s, o: precision(s, o)[0].sum()), "missed ones count"),
        "detections": (over(lambda s, o: len(s)), "number of detections"),
        "no threshold": (lambda s, o: exact(s, o, threshold=0.01), "IoU of 0.5"),
        "eleven": (lambda s, o: at(s, o, 11), "VOC 2007"),
        "precision": (lambda s, o: precision(s, o)[0].mean(), "precision of the whole list"),
        "recall": (lambda s, o: precision(s, o)[0].sum() / o.shape[1], "recall of the whole list"),
        "other": (lambda s, o: 0.123, "rank, match, interpolate"),
    }
)
def test_a_wrong_average_precision_is_named(mutant, phrase):
    assert_named(checks.check_average_precision(mutant), phrase)


@pytest.mark.parametrize("answer", [exact, lambda s, o: float(exact(s, o)), lambda s, o: at(s, o, 101)])
def test_a_right_average_precision_is_accepted(answer):
    assert checks.check_average_precision(answer).state == "right"


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def for_each(change, everything=False):
    def freeze(network):
        for module in network.modules() if everything else norms(network):
            change(module)
        return network

    return freeze


def keep_in_evaluation(network):
    for norm in norms(network):
        norm.eval().requires_grad_(False)
        norm.train = lambda mode=True: None
    return network


def outer_only(network):
    fixed = FrozenBatchNorm2d(4)
    fixed.load_state_dict(network[1].state_dict())
    network[1] = fixed
    return network


def keep_but_learn(network):
    for norm in norms(network):
        norm.eval()
        norm.train = lambda mode=True: None
    return network


@parametrised(
    {
        "nothing": (lambda network: network, "train() turns batch normalisation on again"),
        "evaluation": (lambda network: network.eval(), "train() turns batch normalisation on again"),
        "not learned": (for_each(lambda norm: norm.requires_grad_(False)), "train() turns batch normalisation on"),
        "momentum": (for_each(lambda norm: setattr(norm, "momentum", 0.0)), "stand still"),
        "outer only": (outer_only, "a layer within a layer"),
        "scale learned": (keep_but_learn, "scale and shift"),
        "nothing learned": (lambda network: freeze_norms(network).requires_grad_(False), "nothing is left"),
        "removed": (lambda n: nn.Sequential(n[0], n[2], n[3][0], n[3][2]), "batch normalisation is gone"),
        "one learned": (
            lambda n: freeze_norms(n).requires_grad_(False)[0].requires_grad_() and n,
            "numbers are learned",
        ),
    }
)
def test_a_wrong_freeze_is_named(mutant, phrase):
    assert_named(checks.check_freeze(mutant), phrase)


@pytest.mark.parametrize("answer", [freeze_norms, keep_in_evaluation, lambda n: freeze_norms(n) and None])
def test_a_right_freeze_is_accepted(answer):
    assert checks.check_freeze(answer).state == "right"


@pytest.mark.parametrize("check", ["check_iou", "check_average_precision", "check_freeze"])
def test_a_stub_is_unsolved(check):
    assert getattr(checks, check)(stub).state == "unsolved"
