import dataclasses

import pytest
import torch
import torchvision
from torch import nn

from helpers.analysis import count_cost
from helpers.experiments import EXPERIMENTS, VARIANTS
from helpers.models import (
    BasicBlock,
    Bottleneck,
    PadShortcut,
    PreactivationBlock,
    ResNet,
    Scale,
    SingleBlock,
    Spec,
    SplitNorm,
    cifar_spec,
    count_parameters,
    imagenet_spec,
    split_norms,
)
from helpers.paper import load_table

TABLE_6 = load_table("table6").query("method == 'ResNet'").set_index("layers").exact_parameters
TABLE_1 = load_table("table1").set_index("depth").multiply_adds
FOUR = pytest.mark.parametrize("shortcut", ["plain", "A", "B", "C"])


def parameters_on_meta(spec):
    with torch.device("meta"):
        return count_parameters(ResNet(spec))


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7"), (1202, "19.4")]
)
def test_cifar_parameters_are_the_papers(depth, millions):
    """97,216 for each n: two layers of each stage, 18 c^2 + 4 c of c channels, and what the first ones lack."""
    parameters = parameters_on_meta(cifar_spec(depth))
    assert parameters == TABLE_6[depth] == 97_216 * (depth - 2) // 6 - 21_926
    assert f"{parameters / 1e6:.{len(millions.split('.')[1])}f}" == millions
    assert parameters_on_meta(cifar_spec(depth, "plain")) == parameters, "option A adds no parameter"


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_imagenet_parameters_are_torchvisions(depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")()
    assert parameters_on_meta(imagenet_spec(depth)) == count_parameters(theirs)


# the bottleneck nets use B (Sec. 4.1); with A they would have no projection and 8 % less to do
@pytest.mark.parametrize(
    ("depth", "shortcut"), [(18, "A"), (18, "B"), (34, "A"), (34, "B"), (50, "B"), (101, "B"), (152, "B")]
)
def test_multiply_adds_are_those_of_table_1(depth, shortcut):
    assert count_cost(imagenet_spec(depth, shortcut))["multiply_adds"] == pytest.approx(TABLE_1[depth], rel=0.02)


def test_resnet_50_with_stride_on_3x3_costs_what_torchvisions_does():
    spec = Spec((3, 4, 6, 3), (64, 128, 256, 512), True, "B", "imagenet", 1000, stride_on_3x3=True)
    assert count_cost(spec)["multiply_adds"] == pytest.approx(4.09e9, rel=0.002)


def test_bottleneck_takes_its_stride_on_the_first_1x1_as_published():
    block = Bottleneck(256, 128, stride=2)
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    block = Bottleneck(256, 128, stride=2, stride_on_3x3=True)
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


@FOUR
@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_every_kind_of_network_gives_logits(shortcut, bottleneck, stem):
    spec = Spec((2, 1, 1), (4, 6, 8), bottleneck, shortcut, stem, classes=7)
    assert ResNet(spec)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("block", "last"), [(BasicBlock(8, 8, shortcut="A"), "bn2"), (Bottleneck(8, 2, shortcut="A"), "bn3")]
)
def test_a_zeroed_residual_branch_leaves_the_identity(block, last):
    nn.init.zeros_(getattr(block, last).weight)
    x = torch.rand(4, 8, 5, 5)
    assert torch.equal(block(x), x)


def test_a_plain_block_with_a_zeroed_branch_puts_out_zeros():
    block = BasicBlock(8, 8, shortcut="plain")
    nn.init.zeros_(block.bn2.weight)
    assert not block(torch.rand(4, 8, 5, 5)).any()


@pytest.mark.parametrize(("form", "last"), [(BasicBlock, "bn2"), (SingleBlock, "bn1")])
def test_relu_comes_after_the_addition(form, last):
    block = form(4, 4, shortcut="A")
    norm = block.get_submodule(last)
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, -1.0)
    x = torch.rand(2, 4, 5, 5) * 2
    assert torch.equal(block(x), (x - 1).relu())


def test_option_a_keeps_channels_apart():
    x = torch.rand(2, 4, 6, 6)
    x[:, 1] = torch.nan
    y = PadShortcut(stride=2, added=4)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, [0, 2, 3]], x[:, [0, 2, 3], ::2, ::2])
    assert y[:, 1].isnan().all()
    assert not y[:, 4:].any(), "the added channels are zeros"


def test_options_project_where_the_paper_says():
    def projections(option):
        return [isinstance(block.shortcut, nn.Sequential) for block in ResNet(cifar_spec(20, option)).blocks]

    assert not any(projections("A"))
    assert projections("B") == [False, False, False, True, False, False, True, False, False]
    assert all(projections("C"))


@pytest.mark.parametrize(
    ("spec", "depth"),
    [
        (dataclasses.replace(cifar_spec(20), preactivation=True), 20),
        (Spec((6, 6, 6), (16, 32, 64), single=True), 20),
        (EXPERIMENTS["resnet-56-single"].spec, 56),
    ],
    ids=["preactivation", "single", "resnet-56-single"],
)
def test_without_its_shortcuts_every_form_of_block_makes_the_plain_net(spec, depth):
    """What differs is only where the additions are; so plain-56 stands beside resnet-56-single."""
    plain, other = ResNet(cifar_spec(depth, "plain")), ResNet(dataclasses.replace(spec, shortcut="plain"))
    other.load_state_dict(dict(zip(other.state_dict(), plain.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 16, 16)
    assert other.spec.depth == depth
    assert torch.equal(other(images), plain(images))


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_preactivation_moves_layers_and_adds_no_parameter(depth):
    assert parameters_on_meta(dataclasses.replace(cifar_spec(depth), preactivation=True)) == TABLE_6[depth]


def test_nothing_follows_the_addition_of_a_preactivation_block():
    block = PreactivationBlock(4, 4)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(block(x), x), "negative values too"
    block = PreactivationBlock(4, 6, stride=2)
    y = block.conv2(block.bn1(block.conv1(block.front[0](x).relu())).relu())
    torch.testing.assert_close(block(x), y + PadShortcut(2, 2)(x))


def test_the_first_preactivation_block_takes_what_the_stem_has_activated():
    first, second = ResNet(Spec((2,), (4,), preactivation=True)).blocks
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(first(x), first.conv2(first.bn1(first.conv1(x)).relu()) + x)
    assert not torch.allclose(second(x), second.conv2(second.bn1(second.conv1(x)).relu()) + x)


@pytest.mark.parametrize("shortcut", ["A", "C"])
@pytest.mark.parametrize("form", [{}, {"single": True}, {"bottleneck": True}], ids=["basic", "single", "bottleneck"])
def test_the_strength_multiplies_the_shortcut_and_nothing_else(shortcut, form):
    torch.manual_seed(0)
    blocks = [ResNet(Spec((1, 1), (4, 6), shortcut=shortcut, strength=s, **form)).blocks[1] for s in (1.0, 0.25)]
    full, weak = blocks
    weak.load_state_dict(dict(zip(weak.state_dict(), full.state_dict().values(), strict=True)))
    x, summed = torch.randn(3, full.conv1.in_channels, 8, 8), []
    for block in blocks:
        last = [module for module in block.children() if isinstance(module, nn.BatchNorm2d)][-1]
        nn.init.constant_(last.bias, 100.0)  # ReLU is open, so that its input shows
        summed.append(block(x))
    torch.testing.assert_close(summed[0] - summed[1], 0.75 * full.shortcut(x), rtol=1e-3, atol=1e-3)


def test_at_strength_0_a_residual_net_is_the_plain_one_and_at_1_it_has_no_multiplication():
    weights = ResNet(cifar_spec(20)).state_dict()
    images, outputs = torch.randn(2, 3, 32, 32), {}
    for name, spec in {"plain": cifar_spec(20, "plain"), 0: dataclasses.replace(cifar_spec(20), strength=0.0)}.items():
        network = ResNet(spec)
        network.load_state_dict(weights)
        outputs[name] = network(images)
    assert torch.equal(outputs["plain"], outputs[0])
    assert not any(isinstance(module, Scale) for module in ResNet(cifar_spec(20)).modules())


def test_initialisation_is_he_normal_by_fan_in():
    torch.manual_seed(0)
    network = ResNet(imagenet_spec(18))
    conv = network.blocks[2].conv1
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.01)
    assert network.fc.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.01)
    assert not network.fc.bias.any()


def test_initialisation_by_fan_out_is_torchvisions():
    torch.manual_seed(0)
    network = ResNet(imagenet_spec(18), "fan out")
    theirs = torchvision.models.resnet18()
    for ours, layer in ((network.stem[0], theirs.conv1), (network.blocks[2].conv1, theirs.layer2[0].conv1)):
        assert ours.weight.std().item() == pytest.approx(layer.weight.std().item(), rel=0.03)


def test_blocks_with_a_last_norm_of_zero_begin_as_their_shortcuts():
    network = ResNet(Spec((2,), (8,)), "zero last")
    images = torch.randn(4, 3, 8, 8)
    stem = network.stem(images)
    torch.testing.assert_close(network.blocks(stem), stem)


def test_another_initialisation_draws_the_same_numbers():
    """So that what is compared, seed by seed, differs in nothing else."""
    usual, zero, out = (seeded(Spec((1,), (8,)), how).state_dict() for how in ("fan in", "zero last", "fan out"))
    differing = [name for name in usual if not torch.equal(usual[name], zero[name])]
    assert differing == ["blocks.0.bn2.weight"]
    stem = usual["stem.0.weight"] * (3 / 8) ** 0.5  # a fan-in of 3 channels, a fan-out of 8
    torch.testing.assert_close(out["stem.0.weight"], stem)
    assert torch.equal(out["fc.weight"], usual["fc.weight"])


def test_near_the_identity_a_kernel_passes_its_channels_on_and_stays_as_long():
    """The weights of notebook 12's plain net, with a = 4, on both kinds of layers."""
    usual, near = (seeded(cifar_spec(20, "plain"), how).state_dict() for how in ("fan in", "near identity"))
    for name, weight in usual.items():
        if weight.ndim == 4 and weight.shape[0] == weight.shape[1]:
            centre = torch.zeros(3, 3)
            centre[1, 1] = 1
            identity = torch.eye(len(weight))[:, :, None, None] * centre
            torch.testing.assert_close(near[name], (weight + 4 * identity) / 9**0.5)
            assert near[name].square().sum((1, 2, 3)).mean().item() == pytest.approx(2, rel=0.1)
        else:
            assert torch.equal(near[name], weight), name


def test_a_split_norm_is_one_norm_for_each_part():
    network = ResNet(Spec((1,), (4,), shortcut="C"))
    split_norms(network, 2)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 4 and all(type(norm) is SplitNorm for norm in norms)
    x, norm, alone = torch.randn(6, 4, 5, 5), norms[0], nn.BatchNorm2d(4)
    torch.testing.assert_close(norm(x), torch.cat([alone(x[:3]), alone(x[3:])]))
    torch.testing.assert_close(norm.running_var, alone.running_var)
    torch.testing.assert_close(norm.eval()(x), alone.eval()(x))
    assert network.state_dict().keys() == ResNet(network.spec).state_dict().keys()


def seeded(spec, initialisation="fan in"):
    torch.manual_seed(0)
    return ResNet(spec, initialisation)


@pytest.mark.parametrize(("depth", "near"), [(21, "20 and 26"), (19, "14 and 20"), (2, "8 and 14"), (-4, "8 and 14")])
def test_a_depth_that_is_not_6n_plus_2_names_its_neighbours(depth, near):
    with pytest.raises(ValueError, match=near):
        cifar_spec(depth)


def test_unknown_depths_shortcuts_and_stems_are_refused():
    with pytest.raises(ValueError, match="18, 34, 50, 101, 152"):
        imagenet_spec(42)
    with pytest.raises(ValueError, match="plain, A, B or C"):
        cifar_spec(20, "D")
    with pytest.raises(ValueError, match="unknown stem 'mnist': choose cifar or imagenet"):
        Spec((1,), (8,), stem="mnist")
    with pytest.raises(ValueError, match="one width a stage"):
        Spec((1, 1), (8,))
    with pytest.raises(ValueError, match="choose one of bottleneck, preactivation and single"):
        Spec((1,), (8,), bottleneck=True, single=True)
    with pytest.raises(ValueError, match="no shortcut B in a pre-activation net: choose plain or A"):
        Spec((1,), (8,), shortcut="B", preactivation=True)


@pytest.mark.parametrize(
    ("spec", "depth"), [(cifar_spec(110), 110), (imagenet_spec(34), 34), (imagenet_spec(152), 152)]
)
def test_depth_counts_weighted_layers(spec, depth):
    assert spec.depth == depth


@pytest.mark.parametrize("name", ["plain-20", "resnet-20", "resnet-20-C", *VARIANTS])
def test_norms_average_as_the_design_says(name):
    """PyTorch's momentum of 0.1 is other frameworks' 0.9."""
    with torch.device("meta"):
        norms = [m for m in ResNet(EXPERIMENTS[name].spec).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps, norm.affine) for norm in norms} == {(0.1, 1e-5, True)}


def test_a_variant_is_what_its_name_says():
    widths = (16, 32, 64)
    expected = {f"resnet-56-strength-{s}": Spec((9, 9, 9), widths, strength=s) for s in (0.25, 0.5, 0.75)}
    expected |= {"resnet-56-single": Spec((18, 18, 18), widths, single=True)}
    expected |= {f"resnet-{6 * n + 2}-preactivation": Spec((n,) * 3, widths, preactivation=True) for n in (9, 18)}
    expected |= {"plain-56-identity": Spec((9, 9, 9), widths, shortcut="plain")}
    assert {name: config.spec for name, config in VARIANTS.items()} == expected
    assert {name for name, config in VARIANTS.items() if config.initialisation != "fan in"} == {"plain-56-identity"}
    assert VARIANTS["plain-56-identity"].initialisation == "near identity"
