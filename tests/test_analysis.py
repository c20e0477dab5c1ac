import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.analysis import (
    block_signals,
    correlation,
    count_cost,
    gradient_correlation,
    gradient_norms,
    input_gradients,
    layer_responses,
    norms_of_3x3,
    rounding_cosines,
    with_statistics,
    without_block,
)
from helpers.models import ResNet, Spec, cifar_spec, imagenet_spec

TINY = Spec((1, 1), (4, 6))


@contextmanager
def unchanged(network):
    """Weights, averages and mode are as before, and neither a gradient nor a hook is left."""
    before, mode = {name: tensor.clone() for name, tensor in network.state_dict().items()}, network.training
    yield
    assert network.training == mode
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("depth", "layers"), [(20, 19), (56, 55), (110, 109)])
def test_every_3x3_layer_responds(depth, layers):
    """Fig. 7 has 6n+1 points: the first convolution, and both of each block."""
    for shortcut in ("plain", "A", "B", "C"):
        with torch.device("meta"):
            assert len(norms_of_3x3(ResNet(cifar_spec(depth, shortcut)))) == layers


def test_responses_are_taken_after_batch_norm_and_before_relu_or_addition():
    torch.manual_seed(0)
    network, images = ResNet(TINY).eval(), torch.randn(30, 3, 8, 8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -1, 1)
    with torch.no_grad():
        stem = network.stem[1](network.stem[0](images))
        block, x = network.blocks[0], stem.relu()
        first = block.bn1(block.conv1(x))
        second = block.bn2(block.conv2(first.relu()))
    responses = layer_responses(network, images, batch_size=7)
    expected = [float(layer.std(correction=0)) for layer in (stem, first, second)]
    assert responses.iloc[:3].tolist() == pytest.approx(expected, rel=1e-5)
    assert list(responses.index[:3]) == ["stem.0", "blocks.0.conv1", "blocks.0.conv2"]


def test_in_a_preactivation_net_the_second_layers_norm_is_the_next_blocks():
    network = ResNet(Spec((2, 1), (4, 6), preactivation=True))
    a, b, c = network.blocks
    expected = [network.stem[1], a.bn1, b.front[0], b.bn1, c.front[0], c.bn1, network.end[0]]
    assert list(norms_of_3x3(network).values()) == expected
    assert list(norms_of_3x3(network))[:3] == ["stem.0", "blocks.0.conv1", "blocks.0.conv2"]


def test_only_3x3_layers_count_in_an_imagenet_net():
    responses = layer_responses(ResNet(imagenet_spec(50)), torch.randn(1, 3, 64, 64))
    assert len(responses) == 3 + 4 + 6 + 3


def test_gradient_norms_agree_with_finite_differences():
    torch.manual_seed(0)
    network = ResNet(TINY).double()
    images, labels = torch.randn(6, 3, 4, 4).double(), torch.randint(10, (6,))
    norms = gradient_norms(network, images, labels)
    assert list(norms.index) == [
        "stem.0", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "fc",
    ]  # fmt: skip
    for name in ("stem.0", "fc"):
        weight, step = network.get_submodule(name).weight, 1e-6
        slopes = []
        with torch.no_grad():
            for index in range(weight.numel()):
                losses = []
                for sign in (1, -1):
                    weight.view(-1)[index] += sign * step
                    losses.append(F.cross_entropy(network(images), labels))
                    weight.view(-1)[index] -= sign * step
                slopes.append((losses[0] - losses[1]) / (2 * step))
        assert float(torch.stack(slopes).norm()) == pytest.approx(norms[name], rel=1e-5)


def test_cost_counts_a_convolution_by_hand():
    assert count_cost(Spec((1,), (4,), shortcut="plain")) == {
        "parameters": 3 * 4 * 9 + 8 + 2 * (4 * 4 * 9 + 8) + 4 * 10 + 10,
        "multiply_adds": 1024 * (3 * 4 * 9 + 2 * 4 * 4 * 9) + 40,
    }


DEEP = Spec((9, 9, 9), (4, 4, 4))
IMAGES, LABELS = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10


@pytest.mark.parametrize(
    "measure",
    [
        block_signals,
        gradient_norms,
        rounding_cosines,
        lambda *batch: gradient_correlation(*batch, [0.1]),
        lambda network, images, _: layer_responses(network, images),
        lambda network, images, _: with_statistics(network, images),
    ],
    ids=["signals", "norms", "rounding_cosines", "gradient_correlation", "responses", "with_statistics"],
)
@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_network_as_it_was(measure, training):
    network, images = ResNet(TINY).train(training), IMAGES.clone()
    with unchanged(network):
        measure(network, images, LABELS)
    assert torch.equal(images, IMAGES)


def test_signals_are_the_blocks_outputs_and_the_gradients_with_respect_to_them():
    network = ResNet(TINY).train()
    outputs = [network.stem(IMAGES).detach().requires_grad_()]
    for block in network.blocks:
        outputs.append(block(outputs[-1]))
    loss = F.cross_entropy(network.fc(outputs[-1].mean((2, 3))), LABELS)
    norms = [float(gradient.norm()) for gradient in torch.autograd.grad(loss, outputs)]
    signals = block_signals(network, IMAGES, LABELS)
    assert list(signals.index) == ["stem", "blocks.0", "blocks.1"]
    assert signals.backward.tolist() == pytest.approx(norms, rel=1e-4)
    assert signals.forward.tolist() == pytest.approx([float(x.detach().std()) for x in outputs], rel=1e-4)


def test_rounding_turns_the_gradients_of_a_deep_plain_net_and_not_of_a_residual_one():
    torch.manual_seed(0)
    plain = rounding_cosines(ResNet(dataclasses.replace(DEEP, shortcut="plain")), IMAGES, LABELS)
    residual = rounding_cosines(ResNet(DEEP), IMAGES, LABELS)
    assert abs(plain.iloc[:10].median()) < 0.4 and plain.fc > 0.8
    assert residual.min() > 0.6
    assert gradient_norms(ResNet(DEEP).double(), IMAGES.double(), LABELS).notna().all(), "in double precision too"


def test_correlation_is_numpys():
    a, b = torch.randn(5, 3, 4, 4) + 2, torch.randn(5, 3, 4, 4) - 1
    expected = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a, b, strict=True)]
    assert correlation(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_input_gradients_are_those_of_each_image_alone():
    network, images = with_statistics(ResNet(TINY).double(), IMAGES.double()), IMAGES.double()
    gradients, step = input_gradients(network, images, LABELS), torch.zeros_like(images)
    step[:, 1, 2, 3] = 1e-6
    with torch.no_grad():
        losses = [F.cross_entropy(network(images + sign * step), LABELS, reduction="none") for sign in (1, -1)]
    assert gradients[:, 1, 2, 3].tolist() == pytest.approx(((losses[0] - losses[1]) / 2e-6).tolist(), rel=1e-4)


def test_the_statistics_are_those_of_the_images():
    network = with_statistics(ResNet(TINY), IMAGES)
    first = network.stem[0](IMAGES)
    assert not network.training
    torch.testing.assert_close(network.stem[1].running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(network.stem[1].running_var, first.var((0, 2, 3)))


class Ripples(nn.Module):
    """Logits whose slope has another sign every pi / 1000."""

    def forward(self, x):
        return (1000 * x).sin().flatten(1)[:, :190].reshape(-1, 10, 19).sum(2)


def test_gradients_agree_in_a_smooth_function_and_not_in_a_rippled_one():
    torch.manual_seed(0)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))  # its gradient has one direction everywhere
    found = gradient_correlation(smooth, IMAGES, torch.zeros(12, dtype=torch.int64), [0.0, 0.1, 1.0])
    assert found.tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert (found.name, found.index.name, list(found.index)) == ("correlation", "distance", [0.0, 0.1, 1.0])
    rippled = gradient_correlation(Ripples(), IMAGES, LABELS, [0.0, 0.1, 1.0])
    assert rippled[0.0] == pytest.approx(1, abs=1e-5) and rippled.loc[[0.1, 1.0]].abs().max() < 0.2


def test_gradients_shatter_in_a_deep_plain_net_and_not_in_a_residual_one():
    torch.manual_seed(0)
    plain = gradient_correlation(ResNet(dataclasses.replace(DEEP, shortcut="plain")), IMAGES, LABELS, [0.01])
    residual = gradient_correlation(ResNet(DEEP), IMAGES, LABELS, [0.01])
    assert abs(plain[0.01]) < 0.2 and residual[0.01] > 0.5


@pytest.mark.parametrize(
    "changes", [{}, {"shortcut": "C"}, {"strength": 0.5}, {"preactivation": True}], ids=["A", "C", "strength", "pre"]
)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_block_is_removed_as_if_its_branch_were_zero(changes, index):
    network = with_statistics(ResNet(Spec((2, 1), (4, 6), **changes)), IMAGES)
    with unchanged(network):
        found = without_block(network, index)
    last = network.blocks[index].conv2 if network.spec.preactivation else network.blocks[index].bn2
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    assert torch.allclose(found(IMAGES), network(IMAGES), atol=1e-6)
    assert not found.training


def test_a_removed_plain_block_hands_its_input_on():
    network = with_statistics(ResNet(Spec((2, 1), (4, 6), shortcut="plain")), IMAGES)
    x = network.stem(IMAGES)
    assert torch.equal(without_block(network, 1).blocks[:2](x), network.blocks[0](x))
    shorter = network.blocks[:2](x)
    padded = F.pad(shorter[:, :, ::2, ::2], (0, 0, 0, 0, 0, 2))
    assert torch.equal(without_block(network, 2).blocks(x), padded)
