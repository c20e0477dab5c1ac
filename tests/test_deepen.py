import copy
import dataclasses

import pytest
import torch
from torch import nn

from helpers.deepen import deepen
from helpers.models import ResNet, Spec

SHALLOW = Spec((1, 1, 2), (4, 6, 8), shortcut="plain")


def shallow(shortcut="plain", layout=torch.contiguous_format):
    """A net whose batch normalisation has seen images, as a trained one's has; and other images."""
    torch.manual_seed(0)
    network = ResNet(dataclasses.replace(SHALLOW, shortcut=shortcut)).to(memory_format=layout)
    for _ in range(3):
        network(torch.randn(16, 3, 16, 16) * 2 + 1)
    return network.eval(), torch.randn(8, 3, 16, 16).contiguous(memory_format=layout)


def more(network, blocks=(3, 2, 4), **changes):
    return dataclasses.replace(network.spec, blocks=blocks, **changes)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shortcut", ["plain", "A", "B"])
@torch.no_grad()
def test_the_deeper_net_puts_out_the_same_to_the_last_bit(shortcut, layout):
    network, images = shallow(shortcut, layout)
    deeper = deepen(network, more(network))
    assert not deeper.training and deeper.spec.depth == 20 and len(deeper.blocks) == 9
    assert torch.equal(deeper(images), network(images))
    for parameter in network.parameters():
        parameter.zero_()
    assert deeper(images).any(), "the deeper net shares nothing with the shallow one"


@torch.no_grad()
def test_in_training_mode_only_a_residual_net_stays_the_same():
    for shortcut in ("A", "plain"):
        network, images = shallow(shortcut)
        deeper = deepen(network.train(), more(network))
        assert deeper.training
        assert torch.equal(deeper(images), copy.deepcopy(network)(images)) == (shortcut == "A")


def test_the_added_layers_can_learn():
    for shortcut in ("A", "plain"):
        network, images = shallow(shortcut)
        deeper = deepen(network.train(), more(network))
        deeper(images).square().sum().backward()
        for index in (1, 2, 4, 7, 8):
            assert any(parameter.grad.any() for parameter in deeper.blocks[index].parameters())
            assert not isinstance(deeper.blocks[index].shortcut, nn.Sequential)


@pytest.mark.parametrize(
    "changes", [{"blocks": (1, 1, 1)}, {"blocks": (1, 1, 2, 1), "widths": (4, 6, 8, 8)}, {"shortcut": "A"}]
)
def test_a_spec_that_is_not_the_nets_with_more_blocks_is_refused(changes):
    network, _ = shallow()
    with pytest.raises(ValueError, match="with more blocks"):
        deepen(network, more(network, **changes))


@pytest.mark.parametrize("changes", [{"bottleneck": True}, {"shortcut": "C"}])
def test_blocks_that_cannot_be_an_identity_are_refused(changes):
    spec = dataclasses.replace(SHALLOW, shortcut="A")
    network = ResNet(dataclasses.replace(spec, **changes))
    with pytest.raises(ValueError, match="can be made an identity"):
        deepen(network, more(network))


def test_the_deeper_net_has_the_precision_of_the_shallower():
    network, images = shallow()
    deeper = deepen(network.double(), more(network))
    assert {parameter.dtype for parameter in deeper.parameters()} == {torch.float64}
    assert torch.equal(deeper(images.double()), network(images.double()))
