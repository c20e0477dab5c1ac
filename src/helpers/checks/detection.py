"""Checks of notebook 11: overlap of boxes, average precision of a ranked list, batch normalisation held fixed."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, generalized_box_iou

from helpers.checks.verdict import Mistake, exercise, expect, match


def areas(boxes: Tensor, pixel: int = 0) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] + pixel).prod(1)


def shared(a: Tensor, b: Tensor, pixel: int = 0, clamped: bool = True) -> Tensor:
    """The area common to each pair (n, m)."""
    sides = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2]) + pixel
    return (sides.clamp(min=0) if clamped else sides).prod(2)


@exercise("return the IoU (n, m) of every pair of boxes: the area they share over the area they cover together")
def check_iou(iou: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`iou(a, b)` for boxes (n, 4) and (m, 4), each left, top, right, bottom, compared with torchvision's."""
    a = torch.tensor([[0.0, 0, 4, 4], [1, 2, 9, 8], [20, 20, 26, 30]])
    b = torch.tensor([[2.0, 1, 6, 5], [0, 0, 4, 4], [3, 3, 5, 7], [12, 13, 14, 16], [5, 12, 7, 15]])
    total, common = areas(a)[:, None] + areas(b), shared(a, b)
    free, pixels = shared(a, b, clamped=False), shared(a, b, 1)
    hull = (torch.maximum(a[:, None, 2:], b[:, 2:]) - torch.minimum(a[:, None, :2], b[:, :2])).prod(2)
    as_sides = [torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], 1) for box in (a, b)]
    mistakes = {
        "boxes that lie apart share something: two negative sides make a positive area, so clamp sides at 0": free
        / (total - free),
        "what both cover is counted twice below the line: subtract it once from the sum of the areas": common / total,
        "each side has a pixel too much: edges are places, and a box from 0 to 4 is 4 wide": pixels
        / (areas(a, 1)[:, None] + areas(b, 1) - pixels),
        "the boxes are read as left, top, width, height: theirs are left, top, right, bottom": box_iou(*as_sides),
        "that is the share of the smaller box: divide by what at least one of them covers": common
        / torch.minimum(areas(a)[:, None], areas(b)),
        "that is the share of the first box: divide by what at least one of them covers": common / areas(a)[:, None],
        "below the line is the smallest box around both: it is the area that at least one of them covers": common
        / hull,
        "it is clamped too late: two negative sides make a positive area, so clamp each side at 0": [
            free.clamp(min=0) / (total - free.clamp(min=0)),
            (free / (total - free)).clamp(min=0),
        ],
        "that is the shared area: divide it by the area of both together": common,
        "that is the generalised IoU, below 0 for boxes apart: IoU is 0 there": generalized_box_iou(a, b),
        "rows and columns are exchanged: a's boxes are the rows": box_iou(b, a),
        "that compares the boxes one with one: every box of a meets every box of b": box_iou(a, b[:3]).diag(),
    }
    given = a.clone(), b.clone()
    match(iou(*given), box_iou(a, b), mistakes)
    kept = torch.equal(given[0], a) and torch.equal(given[1], b)
    expect(kept, "your function overwrites the boxes that it is given: compute with new tensors")
    return "as torchvision has it, 0 for boxes that lie apart"


# Eight detections of five objects: the first only grazes one that the seventh finds, the second could match two
# objects, two come second to one.
SCORES = torch.tensor([0.30, 0.90, 0.55, 0.80, 0.95, 0.70, 0.45, 0.10])
OVERLAPS = torch.tensor(
    [
        [0.0, 0.0, 0.66, 0.0, 0.0],
        [0.55, 0.0, 0.0, 0.85, 0.0],
        [0.0, 0.0, 0.0, 0.66, 0.1],
        [0.6, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.3, 0.0, 0.0],
        [0.0, 0.57, 0.0, 0.2, 0.0],
        [0.0, 0.7, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.35],
    ]
)


def ranked_hits(
    order: Tensor, threshold: float = 0.5, duplicates: bool = False, which: str = "most", grazed: bool = False
) -> Tensor:
    """1 for each detection that finds an object, in this order.

    An object is found once, or by all `duplicates`; of those that reach the threshold a detection finds the one it
    overlaps most, or the "first", or "all". With `grazed`, an overlap below the threshold uses an object up.
    """
    found, hits = set(), []
    for row in OVERLAPS[order]:
        reached = (row >= threshold).nonzero().flatten().tolist()
        matched = set(reached if which == "all" else reached[:1])
        if (reached or grazed) and which == "most":
            matched = {int(row.argmax())}
        hits.append(bool(reached and (matched if duplicates else matched - found)))
        found |= matched
    return torch.tensor(hits).float()


def precision_of(hits: Tensor, interpolated: bool = True) -> Tensor:
    """Precision at each rank; interpolated, the highest of any rank from there on."""
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return precision.flip(0).cummax(0).values.flip(0) if interpolated else precision


def area(hits: Tensor, objects: float, interpolated: bool = True) -> float:
    """The area under precision against recall."""
    return float((precision_of(hits, interpolated) * hits).sum() / objects)


def at_recalls(hits: Tensor, objects: int, recalls: Tensor) -> float:
    """Interpolated precision averaged over these recalls."""
    recall = hits.cumsum(0) / objects
    values = [precision_of(hits)[recall >= r].amax() if (recall >= r).any() else torch.zeros(()) for r in recalls]
    return float(torch.stack(values).mean())


def is_area(found: float, hits: Tensor, objects: int) -> bool:
    """Whether this is the area of the staircase, exact or as COCO's mean over 101 recalls."""
    right = area(hits, objects), at_recalls(hits, objects, torch.linspace(0, 1, 101))
    return min(abs(found - value) for value in right) < 1e-4


@exercise("return the average precision: rank, match each object once, and take the area under the highest precision")
def check_average_precision(average_precision: Callable[[Tensor, Tensor], float]) -> str:
    """`average_precision(scores, overlaps)`: scores (d,), their IoU with each object (d, objects), IoU 0.5 to match.

    COCO's 101 recalls are as right as the exact area.
    """
    order, objects = SCORES.argsort(descending=True), OVERLAPS.shape[1]
    hits = ranked_hits(order)
    mistakes = {
        "a second detection of an object counts as found again: it is a false positive": area(
            ranked_hits(order, duplicates=True), objects
        ),
        "the list is not ranked: the highest score comes first": area(ranked_hits(torch.arange(len(order))), objects),
        "the list is ranked the wrong way round: the highest score comes first": area(
            ranked_hits(order.flip(0)), objects
        ),
        "the precision is not interpolated: at each recall take the highest precision from there on": area(
            hits, objects, interpolated=False
        ),
        "recall is measured by the objects found: the missed ones count below the line too": area(hits, hits.sum()),
        "you divide by the number of detections: recall is the share of objects": area(hits, len(hits)),
        "any overlap counts as a match: it takes an IoU of 0.5": area(ranked_hits(order, 0.01), objects),
        "that is VOC 2007's mean over eleven recalls: the area is wanted": at_recalls(
            hits, objects, torch.linspace(0, 1, 11)
        ),
        "the highest precision is taken up to each recall: take it from there on": float(
            (precision_of(hits, interpolated=False).cummax(0).values * hits).sum() / objects
        ),
        "one detection finds several objects: it matches the one that it overlaps most": area(
            ranked_hits(order, which="all"), objects
        ),
        "a detection matches the first object with an IoU of 0.5: it matches the one that it overlaps most": area(
            ranked_hits(order, which="first"), objects
        ),
        "yours lets an overlap below 0.5 use the object up: only a match does": area(
            ranked_hits(order, grazed=True), objects
        ),
        "that is the precision of the whole list: the ranking does not matter to it": float(hits.mean()),
        "that is the recall of the whole list: precision does not matter to it": float(hits.sum() / objects),
    }
    found, right = average_precision(SCORES.clone(), OVERLAPS.clone()), area(hits, objects)
    expect(found is not None, "the answer is None, and a number is wanted: is a return missing?")
    found = float(found)
    if not is_area(found, hits, objects):
        for mistake, wrong in mistakes.items():
            expect(abs(found - wrong) > 1e-4, mistake)
        raise Mistake(f"for this list it is {right:.4f}, and yours is {found:.4f}: rank, match, interpolate, add up")
    kept = torch.arange(len(SCORES)) != order[0]  # without the first, which finds nothing, the next one is right
    again = float(average_precision(SCORES[kept], OVERLAPS[kept]))
    begins = "where the first detection is right, yours loses what it adds: recall begins at 0, before any detection"
    expect(is_area(again, hits[1:], objects), begins)
    return f"{right:.3f} for this list: every object it misses or finds twice costs something"


@exercise("return the network with its batch normalisation held fixed: the same function in training as in evaluation")
def check_freeze(freeze: Callable[[nn.Module], nn.Module]) -> str:
    """Appendix A: statistics, scale and shift are constants; the convolutions go on learning, after train() too."""
    inner = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    deep = nn.Sequential(nn.Sequential(inner))  # as deep as in a ResNet's block
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=0.1), nn.ReLU(), deep)
    for norm in (network[1], inner[1]):
        for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
            values.uniform_(0.5, 1.5)
    images, wanted = 2 + torch.randn(5, 3, 8, 8), copy.deepcopy(network).eval()
    convs = sum(layer.weight.numel() for layer in (network[0], inner[0]))
    norms = sum(p.numel() for norm in (network[1], inner[1]) for p in norm.parameters())
    answer = freeze(network)
    answer = (network if answer is None else answer).train()
    with torch.no_grad():
        right, first, alone = wanted(images), answer(images), answer(images[:2])
        answer(images + 3)
        later = copy.deepcopy(answer).eval()(images)
    learned = sum(p.numel() for p in answer.parameters() if p.requires_grad)
    same = torch.allclose(first, right, rtol=1e-4, atol=1e-5)
    constant = torch.allclose(first[:2], alone, rtol=1e-4, atol=1e-5)
    moved = not torch.allclose(later, right, rtol=1e-4, atol=1e-5)
    bare = network_without_norms(wanted, images)
    expect(not torch.allclose(first, bare, atol=1e-4), "batch normalisation is gone: keep it as a constant")
    carry = "carry each layer's mean, variance, scale, shift and eps over"
    expect(same or not constant, f"it is constant, and not the function that the network was in evaluation: {carry}")
    statistics = "the statistics of the batch are used: train() turns batch normalisation on again, and eval() before"
    expect(same or moved, "in training the batch's own statistics are used, though the averages stand still")
    expect(same, f"{statistics} it does not last; or a layer within a layer is left out")
    expect(not moved, "the moving averages still move in training: they are to be constants")
    expect(learned > 0, "nothing is left to learn: the convolutions are to be fine-tuned")
    expect(learned != convs + norms, "scale and shift of batch normalisation are still learned: they are constants too")
    expect(learned == convs, f"{learned} numbers are learned, and the convolutions have {convs}")
    through = answer(images).requires_grad
    expect(through, "no gradient gets through the fixed layers: they are constants, and what goes into them is not")
    return "a constant scale and shift of each channel, in training too"


def network_without_norms(network: nn.Module, images: Tensor) -> Tensor:
    """What the network outputs if every batch normalisation passes its input on."""
    bare = copy.deepcopy(network)
    bare[1], bare[3][0][0][1] = nn.Identity(), nn.Identity()
    return bare(images)
