import itertools

import pytest
import torch
import torchvision.transforms.functional as TF

from helpers import data
from helpers.data import (
    DataError,
    Draw,
    Split,
    augment,
    batches,
    channel_statistics,
    draw_epoch,
    draw_steps,
    gather,
    load_data,
    mean_image,
    normalise,
    synthetic,
)


def numbered(count: int) -> Split:
    """Images whose every pixel tells which image it is."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 4, 4).contiguous()
    return Split(images, torch.arange(count))


def test_augment_is_torchvisions_pad_crop_and_flip():
    images = torch.rand(81 * 2, 3, 32, 32) - 0.5
    offsets = torch.tensor(list(itertools.product(range(9), range(9))) * 2)
    flips = torch.arange(162) >= 81
    for ours, image, (top, left), flip in zip(augment(images, offsets, flips), images, offsets, flips, strict=True):
        theirs = TF.crop(TF.pad(image, [4]), int(top), int(left), 32, 32)
        assert torch.equal(ours, TF.hflip(theirs) if flip else theirs)


def test_offsets_and_flips_cover_their_range_evenly():
    draw = draw_epoch(50_000, seed=0, epoch=3)
    counts = torch.bincount(draw.offsets[:, 0] * 9 + draw.offsets[:, 1], minlength=81)
    assert counts.min() > 500 and counts.max() < 740
    assert draw.flips.float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_an_epoch_shows_every_image_once_and_batches_run_across_its_end():
    split = numbered(50)
    stream = itertools.islice(batches(split, 16, seed=0), 25)  # 400 images: eight epochs
    labels = torch.cat([labels for _, labels in stream])
    orders = labels.view(8, 50)
    assert torch.equal(orders.sort(1).values, torch.arange(50).expand(8, 50))
    assert len(set(map(tuple, orders.tolist()))) == 8, "each epoch has an order of its own"


@pytest.mark.parametrize(("count", "batch_size"), [(50, 16), (48, 16), (10, 25)])
def test_a_stream_begun_later_goes_on_as_the_whole_one(count, batch_size):
    split = numbered(count)
    whole = list(itertools.islice(batches(split, batch_size, seed=7), 12))
    assert all(len(labels) == batch_size for _, labels in whole)
    for first in range(12):
        images, labels = next(batches(split, batch_size, seed=7, first_step=first))
        assert torch.equal(images, whole[first][0]) and torch.equal(labels, whole[first][1])


def orders(sampling, count=50, batch_size=16, steps=30):
    return draw_steps(count, batch_size, 0, 0, steps, sampling).order


def test_with_replacement_images_repeat_within_an_epoch():
    order = orders("replacement").flatten()
    assert order.min() >= 0 and order.max() < 50
    distinct = [len(part.unique()) for part in order.split(50)[:-1]]
    assert 25 < sum(distinct) / len(distinct) < 38, "a share of 1 - 1/e, 32 of 50, is expected"


def test_the_last_partial_batch_can_be_dropped():
    """As torch's DataLoader does: three batches of 16 an epoch, no image twice in it, two left out."""
    epochs = orders("drop last").view(10, 48)
    assert all(len(epoch.unique()) == 48 for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 10
    later = draw_steps(50, 16, 0, 7, 2, "drop last").order
    assert torch.equal(later, orders("drop last")[7:9])


@pytest.mark.parametrize("padding", ["black", "reflect"])
def test_other_paddings_are_torchvisions(padding):
    """Padded with black before the mean is subtracted; or by reflection."""
    split, mean = Split(torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40)), torch.rand(3, 8, 8)
    draw = Draw(*(part[0] for part in draw_steps(40, 20, 0, 0, 1)))
    images, _ = gather(split, mean, draw, padding=padding)
    for ours, index, (top, left), flip in zip(images, *draw, strict=True):
        mode = "reflect" if padding == "reflect" else "constant"
        theirs = TF.pad(split.images[index].float() / 255 - (mean if mode == "reflect" else 0), [4], padding_mode=mode)
        theirs = TF.crop(theirs, int(top), int(left), 8, 8)
        theirs = TF.hflip(theirs) if flip else theirs
        torch.testing.assert_close(ours, theirs - (0 if mode == "reflect" else mean))


def test_channel_statistics_are_torchs():
    split = Split(torch.randint(0, 256, (2100, 3, 4, 5), dtype=torch.uint8), torch.zeros(2100))
    mean, std = channel_statistics(split)
    exact = split.images.double() / 255
    torch.testing.assert_close(mean.flatten().double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(std.flatten().double(), exact.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)
    whitened = normalise(split.images, mean, std)
    torch.testing.assert_close(whitened.std((0, 2, 3), correction=0), torch.ones(3))


def test_seeds_and_epochs_differ():
    drawn = [draw_epoch(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    for part in zip(*drawn, strict=True):
        assert len({tuple(one.flatten().tolist()) for one in part}) == 9


def test_images_and_labels_stay_together_and_the_mean_is_taken_before_padding():
    split = numbered(50)
    mean = torch.full((3, 4, 4), 0.5)
    images, labels = next(batches(split, 50, seed=0, mean=mean))
    for image, label in zip(images, labels, strict=True):
        assert set(image.unique().tolist()) <= {0.0, (label / 255 - 0.5).item()}, "padding is zero after the mean"


def test_mean_image_is_per_pixel():
    split = Split(torch.randint(0, 256, (100, 3, 5, 6), dtype=torch.uint8), torch.zeros(100))
    torch.testing.assert_close(mean_image(split), (split.images.double() / 255).mean(0).float())


def test_synthetic_depends_on_its_seed_alone():
    (train, test), (again, _), (other, _) = (synthetic(200, 100), synthetic(200, 100), synthetic(200, 100, seed=1))
    assert torch.equal(train.images, again.images) and not torch.equal(train.images, other.images)
    assert train.images.shape == (200, 3, 32, 32) and train.images.dtype == torch.uint8
    assert torch.equal(test.labels.bincount(), torch.full((10,), 10))


def test_chance_draws_what_it_always_drew():
    """Recorded runs, and those that are half finished, rest on it: another stream would be another experiment."""
    draw = draw_epoch(50_000, 0, 0)
    assert draw.order[:5].tolist() == [25956, 5555, 44484, 8695, 11144]
    assert draw.offsets[:5].tolist() == [[2, 0], [2, 3], [4, 6], [0, 7], [6, 4]]
    assert draw.flips[:5].tolist() == [True, False, False, True, True]
    drawn = torch.cat([split.images[:3] for split in synthetic()]).float().mean((1, 2, 3))
    # not to the last bit, since processors round differently
    assert drawn.tolist() == pytest.approx([107.95, 56.88, 68.67, 98.42, 84.61, 109.56], abs=0.05)


def test_synthetic_takes_learning():
    """A linear classifier is above chance, and a nearest-shape look would do far better: see test_train."""
    train, test = synthetic(2000, 1000)
    features = [s.images.flatten(1).double() / 255 for s in (train, test)]
    middle = features[0].mean(0)
    x, y = features[0] - middle, torch.nn.functional.one_hot(train.labels).double()
    weights = torch.linalg.solve(x.T @ x + 100 * torch.eye(x.shape[1]), x.T @ (y - 0.1))
    error = 100 * float((((features[1] - middle) @ weights).argmax(1) != test.labels).double().mean())
    assert 50 < error < 80


def test_a_missing_file_is_named_where_nothing_may_be_downloaded(tmp_path):
    with pytest.raises(DataError, match="data_batch_1 is missing"):
        data.load_cifar10(tmp_path, download=False)


def test_auto_takes_what_is_there(small_cifar, tmp_path):
    assert load_data("auto", small_cifar.parent).name == "cifar10"
    assert load_data("auto", tmp_path / "nothing").name == "synthetic"
    with pytest.raises(DataError, match="choose cifar10, synthetic or auto"):
        load_data("mnist")


def test_the_real_data_are_what_everyone_measured(cifar):
    assert cifar.train.labels.bincount().tolist() == [5000] * 10
    assert cifar.test.labels.bincount().tolist() == [1000] * 10
    assert mean_image(cifar.train).mean((1, 2)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
