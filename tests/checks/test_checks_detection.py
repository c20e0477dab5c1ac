import pytest
import torch
from mutants import assert_named, parametrised
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


def around(a, b):
    return (torch.maximum(a[:, None, 2:], b[:, 2:]) - torch.minimum(a[:, None, :2], b[:, :2])).prod(2)


def late(a, b):
    both = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).prod(2).clamp(min=0)
    return both / (area(a)[:, None] + area(b) - both)


def as_corners(boxes):
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def corners_in_place(a, b):
    for boxes in (a, b):
        boxes[:, 2:] += boxes[:, :2]
    return iou(a, b)


@parametrised(
    {
        "not clamped": (lambda a, b: iou(a, b, low=-99.0), "clamp sides at 0"),
        "clamped late": (lambda a, b: iou(a, b, low=-99.0).clamp(min=0), "clamped too late"),
        "product clamped": (late, "clamped too late"),
        "box around": (lambda a, b: common(a, b) / around(a, b), "smallest box around"),
        "counted twice": (lambda a, b: iou(a, b, twice=True), "counted twice"),
        "a pixel more": (lambda a, b: iou(a, b, pixel=1), "a pixel too much"),
        "width and height": (lambda a, b: iou(as_corners(a), as_corners(b)), "width, height"),
        "width and height, in place": (corners_in_place, "width, height"),
        "overwritten": (lambda a, b: (iou(a, b), a.zero_())[0], "overwrites the boxes"),
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


def from_the_front(scores, overlaps):
    hits, values = precision(scores, overlaps)
    return float((values.cummax(0).values * hits).sum() / overlaps.shape[1])


def all_at_once(scores, overlaps):
    """One detection takes every object that it overlaps."""
    taken, hits = set(), []
    for row in overlaps[scores.argsort(descending=True)]:
        new = set((row >= 0.5).nonzero().flatten().tolist()) - taken
        hits.append(bool(new))
        taken |= new
    hits = torch.tensor(hits).float()
    return float((envelope(hits.cumsum(0) / torch.arange(1, len(hits) + 1)) * hits).sum() / overlaps.shape[1])


def first_that_reaches(scores, overlaps):
    """The first object with an IoU of 0.5, whether another is overlapped more or not."""
    return exact(scores, (overlaps >= 0.5).float())


def best_that_is_left(scores, overlaps):
    """As COCO matches: the object overlapped most of those that no one has found yet."""
    left, hits = overlaps.clone(), []
    for detection in scores.argsort(descending=True):
        hits.append(float(left[detection].max() >= 0.5))
        if hits[-1]:
            left[:, left[detection].argmax()] = 0
    hits = torch.tensor(hits)
    return float((envelope(hits.cumsum(0) / torch.arange(1, len(hits) + 1)) * hits).sum() / overlaps.shape[1])


def using_up_what_is_grazed(scores, overlaps):
    taken, hits = set(), []
    for row in overlaps[scores.argsort(descending=True)]:
        best = int(row.argmax())
        hits.append(float(row[best] >= 0.5 and best not in taken))
        taken.add(best)
    hits = torch.tensor(hits)
    return float((envelope(hits.cumsum(0) / torch.arange(1, len(hits) + 1)) * hits).sum() / overlaps.shape[1])


def from_the_first_recall(scores, overlaps):
    hits, values = precision(scores, overlaps)
    return float(((hits.cumsum(0) / overlaps.shape[1]).diff() * envelope(values)[1:]).sum())


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
        "from the front": (from_the_front, "up to each recall"),
        "all at once": (all_at_once, "finds several objects"),
        "first": (first_that_reaches, "the first object"),
        "grazed": (using_up_what_is_grazed, "use the object up"),
        "from the first recall": (from_the_first_recall, "recall begins at 0"),
        "stricter": (lambda s, o: exact(s, o, threshold=0.59), "rank, match, interpolate"),
        "no return": (lambda s, o: None, "is a return missing"),
        "eleven": (lambda s, o: at(s, o, 11), "VOC 2007"),
        "precision": (lambda s, o: precision(s, o)[0].mean(), "precision of the whole list"),
        "recall": (lambda s, o: precision(s, o)[0].sum() / o.shape[1], "recall of the whole list"),
        "other": (lambda s, o: 0.123, "rank, match, interpolate"),
    }
)
def test_a_wrong_average_precision_is_named(mutant, phrase):
    assert_named(checks.check_average_precision(mutant), phrase)


@pytest.mark.parametrize("answer", [exact, best_that_is_left, lambda s, o: at(s, o, 101)])
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


def two_levels_only(network):
    for parent in [network, *network.children()]:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                fixed = FrozenBatchNorm2d(layer.num_features, layer.eps)
                fixed.load_state_dict(layer.state_dict())
                setattr(parent, name, fixed)
    return network


class Dark(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = FrozenBatchNorm2d(norm.num_features, norm.eps)
        self.norm.load_state_dict(norm.state_dict())

    def forward(self, x):
        with torch.no_grad():
            return self.norm(x)


def in_the_dark(network):
    for path in [path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]:
        network.set_submodule(path, Dark(network.get_submodule(path)))
    return network


def fix_with(*values):
    """Constant layers, of these of the old one's values alone."""

    def freeze(network):
        for path in [path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]:
            old = network.get_submodule(path)
            fixed = FrozenBatchNorm2d(old.num_features, old.eps if "eps" in values else 1e-5)
            fixed.load_state_dict({k: v for k, v in old.state_dict().items() if k in values}, strict=False)
            network.set_submodule(path, fixed)
        return network

    return freeze


STATE = ("running_mean", "running_var", "weight", "bias")


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
        "two levels": (two_levels_only, "a layer within a layer"),
        "detached": (in_the_dark, "no gradient gets through"),
        "no eps": (fix_with(*STATE), "mean, variance, scale, shift and eps"),
        "no values": (fix_with("eps"), "mean, variance, scale, shift and eps"),
        "nothing learned": (lambda network: freeze_norms(network).requires_grad_(False), "nothing is left"),
        "removed": (lambda n: nn.Sequential(n[0], n[2], n[3][0][0][0], n[3][0][0][2]), "batch normalisation is gone"),
        "one learned": (
            lambda n: freeze_norms(n).requires_grad_(False)[0].requires_grad_() and n,
            "numbers are learned",
        ),
    }
)
def test_a_wrong_freeze_is_named(mutant, phrase):
    assert_named(checks.check_freeze(mutant), phrase)


@pytest.mark.parametrize(
    "answer", [freeze_norms, keep_in_evaluation, fix_with(*STATE, "eps"), lambda n: freeze_norms(n) and None]
)
def test_a_right_freeze_is_accepted(answer):
    assert checks.check_freeze(answer).state == "right"
