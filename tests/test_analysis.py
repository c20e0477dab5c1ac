import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.analysis import count_cost, gradient_norms, layer_responses, norms_of_3x3
from helpers.models import ResNet, Spec, cifar_spec, imagenet_spec

TINY = Spec((1, 1), (4, 6))


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


def test_responses_leave_no_hook_and_keep_the_mode():
    network = ResNet(TINY).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layer_responses(network, torch.randn(4, 3, 8, 8))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


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


def test_gradient_norms_leave_the_network_as_it_was():
    network = ResNet(TINY).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradient_norms(network, torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_cost_counts_a_convolution_by_hand():
    assert count_cost(Spec((1,), (4,), shortcut="plain"), size=8) == {
        "parameters": 3 * 4 * 9 + 8 + 2 * (4 * 4 * 9 + 8) + 4 * 10 + 10,
        "multiply_adds": 64 * (3 * 4 * 9 + 2 * 4 * 4 * 9) + 40,
    }


def test_responses_are_a_named_series():
    responses = layer_responses(ResNet(TINY), torch.randn(2, 3, 8, 8))
    assert isinstance(responses, pd.Series)
    assert (responses.name, responses.index.name) == ("std", "layer")
