"""The solution by construction of Sec. 1: identity layers added to a trained net."""

import copy
from dataclasses import replace

from torch import nn

from helpers.models import BasicBlock, ResNet, Spec


def deepen(network: ResNet, spec: Spec) -> ResNet:
    """The deeper net of `spec` that computes what `network` does.

    Each stage has copies of the network's blocks, then new ones that pass their input through. In evaluation mode the
    outputs agree to the last bit, in float32 on a CPU; those of a residual net in training mode too. Raises ValueError
    unless `spec` is the network's with more blocks, and these have two layers and an identity shortcut or none.
    """
    old = network.spec
    fewer = any(new < had for new, had in zip(spec.blocks, old.blocks, strict=False))
    if fewer or spec.widths != old.widths or replace(spec, blocks=old.blocks) != old:
        raise ValueError(f"{spec} is not {old} with more blocks: only the numbers of blocks may differ, and only grow")
    deeper = ResNet(spec).to(network.fc.weight)  # of its device and precision
    blocks, position = iter(network.blocks), 0
    for part in ("stem", "end", "fc"):
        setattr(deeper, part, copy.deepcopy(getattr(network, part)))
    for had, count in zip(old.blocks, spec.blocks, strict=True):
        for index in range(count):
            if index < had:
                deeper.blocks[position] = copy.deepcopy(next(blocks))
            else:
                become_identity(deeper.blocks[position])
            position += 1
    return deeper.train(network.training)


def become_identity(block: nn.Module) -> None:
    """Make a new block of two layers pass its input through, provided that is nowhere negative; in place.

    A residual block gets a residual branch of zeros. A plain one, in evaluation mode only: identity kernels, and a
    running variance that is one when batch normalisation has added its eps.
    """
    if not isinstance(block, BasicBlock) or not isinstance(block.shortcut, nn.Identity | None):
        raise ValueError("only a block of two layers with an identity shortcut, or none, can be made an identity")
    if block.shortcut is not None:
        nn.init.zeros_(block.bn2.weight)
        return
    for layer, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
        nn.init.dirac_(layer.weight)
        norm.running_var.fill_(1 - norm.eps)
