"""Every network of the paper, plain and residual, as one class built from one `Spec`."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["plain", "A", "B", "C"]
Initialisation = Literal["fan in", "fan out", "zero last", "near identity"]

IMAGENET_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
IMAGENET_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Spec:
    """A network as data (Sec. 3.3, 4.1 and 4.2)."""

    blocks: tuple[int, ...]  # blocks in each stage; all stages but the first begin with stride 2
    widths: tuple[int, ...]  # filters of the 3x3 layers in each stage; a bottleneck block outputs four times as many
    bottleneck: bool = False  # three layers a block (1x1, 3x3, 1x1) instead of two 3x3
    shortcut: Shortcut = "A"  # "plain": none at all; A, B, C: the paper's options
    stem: Literal["cifar", "imagenet"] = "cifar"  # 3x3 convolution; or 7x7 with stride 2, then max pooling
    classes: int = 10
    stride_on_3x3: bool = False  # where a bottleneck takes its stride: the first 1x1 as published, or the 3x3
    preactivation: bool = False  # BN and ReLU before each convolution of a block (He et al. 2016, arXiv:1603.05027)
    single: bool = False  # one 3x3 layer a block: y = W1 x + x (Sec. 3.2)
    strength: float = 1.0  # what every shortcut is multiplied by; 0 makes the net plain

    def __post_init__(self):
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"a spec needs one width a stage: {len(self.blocks)} stages, widths {self.widths}")
        if self.shortcut not in ("plain", "A", "B", "C"):
            raise ValueError(f"unknown shortcut {self.shortcut!r}: choose plain, A, B or C")
        if self.stem not in ("cifar", "imagenet"):
            raise ValueError(f"unknown stem {self.stem!r}: choose cifar or imagenet")
        if self.bottleneck + self.preactivation + self.single > 1:
            raise ValueError("a block has one form: choose one of bottleneck, preactivation and single")
        if self.preactivation and self.shortcut in ("B", "C"):
            raise ValueError(f"no shortcut {self.shortcut} in a pre-activation net: choose plain or A")

    @property
    def depth(self) -> int:
        """Weighted layers, counted as the paper does: without projection shortcuts."""
        return (3 if self.bottleneck else 1 if self.single else 2) * sum(self.blocks) + 2


def cifar_spec(depth: int, shortcut: Shortcut = "A") -> Spec:
    """The CIFAR-10 network of 6n+2 layers (Sec. 4.2). Raises ValueError for any other depth."""
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        below, above = (6 * n + 2, 6 * n + 8) if n >= 1 else (8, 14)
        raise ValueError(f"a CIFAR network has 6n+2 layers, {depth} is not: the nearest are {below} and {above}")
    return Spec(blocks=(n, n, n), widths=(16, 32, 64), shortcut=shortcut)


def imagenet_spec(depth: int, shortcut: Shortcut = "B") -> Spec:
    """The ImageNet network of Table 1. Raises ValueError for a depth that is not in the table."""
    if depth not in IMAGENET_BLOCKS:
        raise ValueError(
            f"Table 1 has no network of {depth} layers: choose from {', '.join(map(str, IMAGENET_BLOCKS))}"
        )
    return Spec(
        IMAGENET_BLOCKS[depth],
        IMAGENET_WIDTHS,
        bottleneck=depth >= 50,
        shortcut=shortcut,
        stem="imagenet",
        classes=1000,
    )


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the map's size at stride 1. No bias: batch normalisation follows."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


class PadShortcut(nn.Module):
    """Option A: identity, subsampled by `stride`, with zeros in the added channels (Sec. 3.3). No parameters.

    (n, c, h, w) -> (n, c + added, h / stride, w / stride)
    """

    def __init__(self, stride: int, added: int):
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


class Scale(nn.Module):
    """strength * x, of the shape of x."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        return self.strength * x


def make_shortcut(option: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The shortcut around one block; None for a plain net.

    A pads with zeros where the shape changes, B projects there, C projects everywhere (Sec. 4.1).
    """
    if option == "plain":
        return None
    same = stride == 1 and in_channels == out_channels
    if option == "C" or (option == "B" and not same):
        return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
    return nn.Identity() if same else PadShortcut(stride, out_channels - in_channels)


def add(y: Tensor, x: Tensor, shortcut: nn.Module | None) -> Tensor:
    """y + shortcut(x): Eq. 1 and 2; y alone in a plain net."""
    return y if shortcut is None else y + shortcut(x)


class BasicBlock(nn.Module):
    """Two 3x3 layers (Fig. 5 left). (n, in_channels, h, w) -> (n, width, h / stride, w / stride)"""

    def __init__(self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut = "A"):
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = make_shortcut(shortcut, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(add(y, x, self.shortcut))


class SingleBlock(nn.Module):
    """One 3x3 layer, a form in which the paper saw no advantage (Sec. 3.2). Shapes as in `BasicBlock`."""

    def __init__(self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut = "A"):
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.shortcut = make_shortcut(shortcut, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(add(self.bn1(self.conv1(x)), x, self.shortcut))


class PreactivationBlock(nn.Module):
    """Two 3x3 layers, BN and ReLU before each, and nothing after the addition (arXiv:1603.05027, Fig. 4e).

    Shapes as in `BasicBlock`.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1, shortcut: Shortcut = "A"):
        super().__init__()
        self.front = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.shortcut = make_shortcut(shortcut, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.front(x))
        y = self.conv2(F.relu(self.bn1(y)))
        return add(y, x, self.shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (Fig. 5 right). (n, in_channels, h, w) -> (n, 4 * width, h / stride, w / stride)"""

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        shortcut: Shortcut = "B",
        stride_on_3x3: bool = False,
    ):
        super().__init__()
        first, second = (1, stride) if stride_on_3x3 else (stride, 1)
        self.conv1 = conv(in_channels, width, 1, first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, second)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = make_shortcut(shortcut, in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(add(y, x, self.shortcut))


def make_stem(kind: str, width: int) -> nn.Sequential:
    """conv1: 3x3 for CIFAR; 7x7 with stride 2 and 3x3 max pooling with stride 2 for ImageNet (Table 1)."""
    if kind == "cifar":
        return nn.Sequential(conv(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(conv(3, width, 7, 2), nn.BatchNorm2d(width), nn.ReLU(), pool)


def make_block(spec: Spec, in_channels: int, width: int, stride: int) -> nn.Module:
    """One block of the form that `spec` asks for."""
    if spec.bottleneck:
        block = Bottleneck(in_channels, width, stride, spec.shortcut, spec.stride_on_3x3)
    else:
        form = PreactivationBlock if spec.preactivation else SingleBlock if spec.single else BasicBlock
        block = form(in_channels, width, stride, spec.shortcut)
    if spec.strength != 1 and block.shortcut is not None:
        block.shortcut = nn.Sequential(block.shortcut, Scale(spec.strength))
    return block


class ResNet(nn.Module):
    """The network of a `Spec`, freshly initialised: images (n, 3, h, w) -> logits (n, classes)."""

    def __init__(self, spec: Spec, initialisation: Initialisation = "fan in"):
        super().__init__()
        self.spec = spec
        channels = spec.widths[0]
        self.stem = make_stem(spec.stem, channels)
        self.blocks = nn.Sequential()
        for stage, (count, width) in enumerate(zip(spec.blocks, spec.widths, strict=True)):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                self.blocks.append(make_block(spec, channels, width, stride))
                channels = width * (4 if spec.bottleneck else 1)
        if spec.preactivation:
            self.blocks[0].front = nn.Identity()  # the stem's BN and ReLU serve both paths (arXiv:1603.05027, appendix)
        self.end = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if spec.preactivation else nn.Identity()
        self.fc = nn.Linear(channels, spec.classes)
        initialise(self, initialisation)

    def forward(self, images: Tensor) -> Tensor:
        x = self.end(self.blocks(self.stem(images)))
        return self.fc(x.mean((2, 3)))


def initialise(network: nn.Module, mode: Initialisation = "fan in") -> None:
    """He et al. 2015 (ref. 13), in place: normal with variance 2 / fan-in; the classifier's biases 0.

    "fan out": convolutions with variance 2 / fan-out. "zero last": each block's second BN at 0, so that the block of
    two layers begins as its shortcut; other blocks as by "fan in". "near identity": in convolutions that keep the
    number of channels, four times the identity is added to the kernel, and a third of the sum taken (notebook 12).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan = "fan_out" if mode == "fan out" else "fan_in"
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
            if mode == "near identity" and module.in_channels == module.out_channels:
                identity = nn.init.dirac_(torch.empty_like(module.weight))
                module.weight.data.add_(4 * identity).div_(3)  # a filter's squared length is 2 on average, as before
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, BasicBlock) and mode == "zero last":
            nn.init.zeros_(module.bn2.weight)


class SplitNorm(nn.BatchNorm2d):
    """Batch normalisation over each of `parts` of a batch separately, as on several GPUs that share the batch.

    The moving averages are updated by one part after another.
    """

    def __init__(self, channels: int, parts: int):
        super().__init__(channels)
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return torch.cat([super(SplitNorm, self).forward(part) for part in x.chunk(self.parts)])


def split_norms(network: nn.Module, parts: int) -> None:
    """Make every batch normalisation of a network normalise `parts` of a batch separately, in place."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                norm = SplitNorm(child.num_features, parts)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)


def count_parameters(network: nn.Module) -> int:
    """Learned numbers: convolutions, batch normalisation's scale and shift, the classifier."""
    return sum(parameter.numel() for parameter in network.parameters())
