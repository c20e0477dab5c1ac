import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms.v2.functional import resize

from helpers.analysis import count_cost, multiply_adds
from helpers.imagenet import (
    colour_axes,
    cost_by_stage,
    from_torchvision,
    multi_scale_scores,
    shift_colour,
    ten_crop_scores,
    ten_crops,
    to_torchvision,
    training_views,
)
from helpers.models import ResNet, Spec, imagenet_spec
from helpers.paper import load_table

SMALL = Spec((1, 1, 1, 1), (8, 8, 8, 8), shortcut="B", stem="imagenet", classes=5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_weights_from_torchvision_give_its_outputs_and_go_back_unchanged(name):
    torch.manual_seed(0)
    theirs, images = getattr(torchvision.models, name)(num_classes=7).eval(), torch.randn(2, 3, 64, 64)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = from_torchvision(theirs).eval()
    with torch.no_grad():
        expected = theirs(images)
        assert (ours(images) - expected).abs().max() < 1e-5 * expected.abs().max()
    back = to_torchvision(ours).state_dict()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


def test_a_network_that_torchvision_does_not_have_is_refused():
    with torch.device("meta"):
        published = ResNet(imagenet_spec(50))  # its stride is on the first 1x1
    with pytest.raises(ValueError, match="stride_on_3x3=True"):
        to_torchvision(published)


@pytest.mark.parametrize("depth", [18, 50, 152])
def test_the_stages_are_those_of_table_1_and_add_up(depth):
    table = cost_by_stage(imagenet_spec(depth))
    assert table.side.tolist() == [112, 56, 28, 14, 7, 1]
    assert table.layers.sum() == depth
    assert table.multiply_adds.sum() == count_cost(imagenet_spec(depth))["multiply_adds"]


@pytest.mark.parametrize("layers", [16, 19])
def test_vgg_costs_what_the_paper_says(layers):
    with torch.device("meta"):
        network, images = getattr(torchvision.models, f"vgg{layers}")().eval(), torch.empty(1, 3, 224, 224)
    published = load_table("vgg").set_index("layers").multiply_adds[layers]
    assert multiply_adds(network, images) == pytest.approx(published, rel=0.015)


def gradient_image(height=100, width=150):
    """Its first channel grows to the right, its second downwards: a view shows where it was cut."""
    across = torch.linspace(0, 1, width).expand(height, width)
    down = torch.linspace(0, 1, height)[:, None].expand(height, width)
    return torch.stack([across, down, torch.zeros(height, width)])


def test_training_views_differ_in_scale_place_and_flip_and_keep_the_shape():
    torch.manual_seed(0)
    views = [training_views(64)(gradient_image()) for _ in range(200)]
    assert all(view.shape == (3, 64, 64) for view in views)
    # a view of 64 pixels of an image whose shorter side is s covers 64 / s of its height
    sides = torch.tensor([63 / float(view[1, -1].mean() - view[1, 0].mean()) for view in views])
    assert sides.min() > 71 and sides.max() < 139 and sides.max() - sides.min() > 50
    assert 70 < sum(bool(view[0, :, 0].mean() > view[0, :, -1].mean()) for view in views) < 130
    wide = [abs(float(v[0, 0, -1] - v[0, 0, 0])) / abs(float(v[1, -1, 0] - v[1, 0, 0])) for v in views]
    assert torch.tensor(wide).mean() == pytest.approx(100 / 150, rel=0.05), "width and height are scaled alike"


def test_colours_shift_along_the_axes_of_their_variance():
    torch.manual_seed(0)
    scales = torch.tensor([3.0, 1.0, 0.2])[:, None, None]
    images = scales * torch.randn(20, 3, 30, 30)
    axes = colour_axes(images)
    assert torch.allclose(axes.norm(dim=0), torch.tensor([0.04, 1.0, 9.0]), rtol=0.05)
    assert axes[:, 2].abs().argmax() == 0
    shifts = torch.stack([shift_colour(torch.zeros(3, 2, 2), axes) for _ in range(3000)])
    assert torch.equal(shifts[..., 0, 0], shifts[..., 1, 1]), "one colour for the whole image"
    assert torch.allclose(shifts[:, 0, 0, 0].std(), torch.tensor(0.9), rtol=0.1)


def test_ten_crops_are_views_of_the_resized_image():
    views = ten_crops(gradient_image()[None], 64)
    assert views.shape == (10, 1, 3, 64, 64)
    corners = views[[1, 0, 3, 2]].flip(-1)
    assert torch.equal(views[5:9], corners), "the left of the mirror image is the right of the image"
    assert float(views[0, 0, 1, -1].mean()) == pytest.approx(63 / 72, abs=0.01), "64 of 73 rows"
    assert views[0, 0, 0, 0, 0] < 0.02 and views[3, 0, 0, -1, -1] > 0.98
    across, down = views[4, 0, 0].mean(), views[4, 0, 1].mean()
    assert (float(across), float(down)) == pytest.approx((0.5, 0.5), abs=0.01)


def test_scores_are_averaged_probabilities():
    torch.manual_seed(0)
    network, images = ResNet(SMALL).eval(), torch.randn(3, 3, 90, 120)
    with torch.no_grad():
        expected = sum(network(view).softmax(1) for view in ten_crops(images, 32)) / 10
    assert torch.allclose(ten_crop_scores(network, images, 32), expected, atol=1e-6)
    with torch.no_grad():
        expected = sum(network(resize(images, side)).softmax(1) for side in (32, 37, 55, 69, 91)) / 5
    assert torch.allclose(multi_scale_scores(network, images, 32), expected, atol=1e-6)


def test_multi_scale_scores_see_five_shorter_sides():
    sides = []

    class Watching(nn.Module):
        def forward(self, images):
            sides.append(tuple(images.shape[2:]))
            return torch.zeros(len(images), 2)

    multi_scale_scores(Watching(), torch.zeros(1, 3, 100, 200))
    assert sides == [(224, 448), (256, 512), (384, 768), (480, 960), (640, 1280)]
