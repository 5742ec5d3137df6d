"""ResNets as authors of binary and ternary activations train them.

A quantizer of one or two fixed thresholds needs an input of zero mean and unit variance. These
networks therefore normalise directly before each activation that is quantized; torchvision's
ResNets add the shortcut in between, and pool after the first normalisation. There are three forms,
each at the depths of He et al. (CVPR 2016, arXiv:1512.03385): 18, 34 and 50 for 224×224 images; 20,
32, 44, 56 and, for 8×8 images, 8 for small ones, with 16, 32 and 64 channels.

`HWGQResNet`, of the code of HWGQ (zhaoweicai/hwgq, ``examples/imagenet/res{18,34,50}-*``)::

    conv - pool - norm;   y = norm(conv(relu(norm(… conv(relu(norm(x)))))));   relu - average - fc

Where the shape changes, both paths start from the activated input, and the shortcut is a 1×1
convolution, quantized like any other, with normalisation. The normalisation after the stem serves
as that of the first block, whose shortcut takes it before the ReLU. Nothing normalises the last
sum. A bottleneck has its stride in the first 1×1 convolution.

`TBNResNet`, of the code of TBN (dnvtmf/TBN, ``models/preact_resnet.py``)::

    conv - pool;   y = conv(tanh(norm(… conv(tanh(norm(x))))));   norm - relu - average - fc

with biases in convolutions. Where the shape changes, the shortcut averages over the stride,
normalises, has a ReLU, and then a 1×1 convolution at full precision (18 and 34 layers), or zeros
for the new channels (50 layers). A bottleneck has its stride in the 3×3 convolution. The code has
no activation function where it quantizes. Here a hard tanh takes that place, so that the network at
full precision is not a linear one.

`BNNResNet`, of the code of BNN (itayhubara/BinaryNet.pytorch, ``models/resnet_binary.py``)::

    conv - pool - norm - tanh;   y = tanh(norm(conv(tanh(norm(conv(x)))) + x));   average - norm -
    tanh - fc

The sum is normalised, except the last one. Where the shape changes, the shortcut is a 1×1
convolution, quantized like any other, with normalisation. Departures: the code has five times as
many channels for small images, and a normalisation of the scores; its bottleneck raises an error,
and here is the block that it begins.

The forms of small networks follow those of 18 layers, without the pooling and with a 3×3
convolution first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.models.network import Network, he_initialise
from qbench.quant.surgery import FloatConvolution


@dataclass(frozen=True)
class Depth:
    """Arrangement of a ResNet.

    Attributes:
        blocks: Number of blocks of each stage.
        width: Number of channels of the first stage. Every further one has twice as many.
        bottleneck: Whether a block has three convolutions and four times as many outputs.
    """

    blocks: tuple[int, ...]
    width: int = 64
    bottleneck: bool = False

    @property
    def small(self) -> bool:
        """Whether it is for images of 32×32 pixels or fewer."""
        return len(self.blocks) == 3

    @property
    def smallest_alone(self) -> int:
        """Smallest longer side in pixels of the only image of a training batch."""
        return 5 if self.small else 33

    @property
    def channels(self) -> int:
        """Number of channels of the last stage."""
        return self.width * 2 ** (len(self.blocks) - 1) * (4 if self.bottleneck else 1)


DEPTHS = {
    8: Depth((1, 1, 1), 16),
    **{6 * n + 2: Depth((n, n, n), 16) for n in (3, 5, 7, 9)},
    18: Depth((2, 2, 2, 2)),
    34: Depth((3, 4, 6, 3)),
    50: Depth((3, 4, 6, 3), bottleneck=True),
}


class HWGQBlock(nn.Module):
    """Block of `HWGQResNet`.

    Args:
        inputs: Number of input channels.
        width: Number of channels inside the block.
        stride: Stride of the first convolution.
        bottleneck: Whether there are three convolutions.
        first: Whether it is the first block, whose input is normalised.
    """

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, first: bool) -> None:
        super().__init__()
        self.activation = nn.ReLU() if first else nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        layers: list[nn.Module] = []
        for convolution in _convolutions(inputs, width, stride, bottleneck, 0, bias=False):
            outputs = convolution.out_channels
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        activated = self.activation(x)
        same = isinstance(self.shortcut, nn.Identity)
        y: Tensor = self.body(activated) + (x if same else self.shortcut(activated))
        return y


class TBNBlock(nn.Module):
    """Block of `TBNResNet`.

    Args:
        inputs: Number of input channels.
        width: Number of channels inside the block.
        stride: Stride of the first convolution, or of the second of three.
        bottleneck: Whether there are three convolutions.
    """

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        place = 1 if bottleneck else 0
        for convolution in _convolutions(inputs, width, stride, bottleneck, place, bias=True):
            norm = nn.BatchNorm2d(convolution.in_channels)
            layers += [norm, nn.Hardtanh(), convolution]
            outputs = convolution.out_channels
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = AveragedShortcut(inputs, outputs, stride, padded=bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


class AveragedShortcut(nn.Module):
    """Average pooling, normalisation, ReLU, and more channels, all at full precision.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels, at least ``inputs``.
        stride: Factor by which height and width become smaller, rounded up.
        padded: Whether new channels are zeros, in place of a 1×1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, padded: bool) -> None:
        super().__init__()
        self.stride, self.missing = stride, outputs - inputs
        self.norm = nn.BatchNorm2d(inputs)
        self.convolution: nn.Module | None = None
        if not padded:
            convolution = nn.Conv2d(inputs, outputs, 1)
            he_initialise(convolution, "fan_out")
            self.convolution = FloatConvolution(convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        height, width = (-(-side // self.stride) for side in x.shape[2:])
        y = F.relu(self.norm(F.adaptive_avg_pool2d(x, (height, width))))
        if self.convolution is None:
            return F.pad(y, (0, 0, 0, 0, 0, self.missing))
        passed: Tensor = self.convolution(y)
        return passed


class BNNBlock(nn.Module):
    """Block of `BNNResNet`.

    Args:
        inputs: Number of input channels.
        width: Number of channels inside the block.
        stride: Stride of the first convolution, or of the second of three.
        bottleneck: Whether there are three convolutions.
        last: Whether it is the last block, whose sum is neither normalised nor activated.
    """

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, last: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        place = 1 if bottleneck else 0
        for convolution in _convolutions(inputs, width, stride, bottleneck, place, bias=False):
            outputs = convolution.out_channels
            layers += [convolution, nn.BatchNorm2d(outputs), nn.Hardtanh()]
        self.body = nn.Sequential(*layers[:-2])
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.activation: nn.Module = nn.Identity()
        if not last:
            self.activation = nn.Sequential(nn.BatchNorm2d(outputs), nn.Hardtanh())

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return y


class BinaryResNet(Network):
    """Base class of the networks: the arrangement of layers, the last one, and initial weights.

    Args:
        depth: Number of layers, of `DEPTHS`.
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        plan = DEPTHS[depth]
        layers = self.features(plan, in_channels)
        layers["fc"] = nn.Linear(plan.channels, num_classes)
        super().__init__(layers)
        self.smallest_alone = plan.smallest_alone
        he_initialise(self, "fan_out")

    @staticmethod
    def features(plan: Depth, in_channels: int) -> OrderedDict[str, nn.Module]:
        """Build all layers but the last, by name, in their order.

        Args:
            plan: Arrangement of the network.
            in_channels: Number of channels of an image.
        """
        raise NotImplementedError


class HWGQResNet(BinaryResNet):
    """ResNet of HWGQ; arguments as of `BinaryResNet`."""

    @staticmethod
    def features(plan: Depth, in_channels: int) -> OrderedDict[str, nn.Module]:
        """Build all layers but the last."""

        def block(inputs: int, width: int, stride: int, place: int) -> nn.Module:
            return HWGQBlock(inputs, width, stride, plan.bottleneck, first=place == 0)

        layers = _stem(plan, in_channels, bias=False)
        layers["norm1"] = nn.BatchNorm2d(plan.width)
        layers |= _stages(plan, block)
        layers |= {"relu": nn.ReLU(), **_averaged()}
        return layers


class TBNResNet(BinaryResNet):
    """ResNet of TBN; arguments as of `BinaryResNet`."""

    @staticmethod
    def features(plan: Depth, in_channels: int) -> OrderedDict[str, nn.Module]:
        """Build all layers but the last."""

        def block(inputs: int, width: int, stride: int, place: int) -> nn.Module:
            return TBNBlock(inputs, width, stride, plan.bottleneck)

        layers = _stem(plan, in_channels, bias=True)
        layers |= _stages(plan, block)
        layers |= {"norm": nn.BatchNorm2d(plan.channels), "relu": nn.ReLU(), **_averaged()}
        return layers


class BNNResNet(BinaryResNet):
    """ResNet of BNN; arguments as of `BinaryResNet`."""

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__(depth, num_classes, in_channels)
        self.smallest_alone = None  # it normalises averages, of which an image has one

    @staticmethod
    def features(plan: Depth, in_channels: int) -> OrderedDict[str, nn.Module]:
        """Build all layers but the last."""

        def block(inputs: int, width: int, stride: int, place: int) -> nn.Module:
            last = place == sum(plan.blocks) - 1
            return BNNBlock(inputs, width, stride, plan.bottleneck, last)

        layers = _stem(plan, in_channels, bias=False)
        layers |= {"norm1": nn.BatchNorm2d(plan.width), "tanh1": nn.Hardtanh()}
        layers |= _stages(plan, block)
        layers |= {**_averaged(), "norm2": nn.BatchNorm1d(plan.channels), "tanh2": nn.Hardtanh()}
        return layers


def _stem(plan: Depth, in_channels: int, bias: bool) -> OrderedDict[str, nn.Module]:
    """Build the layers before the first normalisation."""
    size, stride, padding = (3, 1, 1) if plan.small else (7, 2, 3)
    first = nn.Conv2d(in_channels, plan.width, size, stride=stride, padding=padding, bias=bias)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=first)
    if not plan.small:
        layers["pool"] = nn.MaxPool2d(3, 2, padding=1)
    return layers


def _stages(plan: Depth, block: Callable[[int, int, int, int], nn.Module]) -> dict[str, nn.Module]:
    """Build the stages of blocks, by name.

    Args:
        plan: Arrangement of the network.
        block: Builds a block from its numbers of input channels and of channels inside, its stride,
            and its place in the network, from 0.
    """
    stages: dict[str, nn.Module] = {}
    inputs, place = plan.width, 0
    for stage, count in enumerate(plan.blocks):
        blocks, width = [], plan.width * 2**stage
        for i in range(count):
            blocks.append(block(inputs, width, 2 if stage > 0 and i == 0 else 1, place))
            inputs, place = width * (4 if plan.bottleneck else 1), place + 1
        stages[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    return stages


def _averaged() -> dict[str, nn.Module]:
    return {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}


def _convolutions(
    inputs: int, width: int, stride: int, bottleneck: bool, strided: int, bias: bool
) -> list[nn.Conv2d]:
    """Build the convolutions of a block: two of 3×3, or 1×1, 3×3 and 1×1.

    Args:
        inputs: Number of input channels.
        width: Number of channels inside the block.
        stride: Stride of one of them.
        bottleneck: Whether there are three.
        strided: Which of them has the stride.
        bias: Whether they have biases.
    """
    sizes = (1, 3, 1) if bottleneck else (3, 3)
    outputs = [width, width, 4 * width] if bottleneck else [width, width]
    return [
        nn.Conv2d(
            *(before, after, size),
            stride=stride if i == strided else 1,
            padding=size // 2,
            bias=bias,
        )
        for i, (before, after, size) in enumerate(
            zip([inputs, *outputs], outputs, sizes, strict=False)
        )
    ]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Build a 1×1 convolution with normalisation if shapes differ, else the identity."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    convolution = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


hwgq_resnet8 = partial(HWGQResNet, 8)
hwgq_resnet20 = partial(HWGQResNet, 20)
hwgq_resnet32 = partial(HWGQResNet, 32)
hwgq_resnet44 = partial(HWGQResNet, 44)
hwgq_resnet56 = partial(HWGQResNet, 56)
hwgq_resnet18 = partial(HWGQResNet, 18)
hwgq_resnet34 = partial(HWGQResNet, 34)
hwgq_resnet50 = partial(HWGQResNet, 50)
tbn_resnet8 = partial(TBNResNet, 8)
tbn_resnet20 = partial(TBNResNet, 20)
tbn_resnet32 = partial(TBNResNet, 32)
tbn_resnet44 = partial(TBNResNet, 44)
tbn_resnet56 = partial(TBNResNet, 56)
tbn_resnet18 = partial(TBNResNet, 18)
tbn_resnet34 = partial(TBNResNet, 34)
tbn_resnet50 = partial(TBNResNet, 50)
bnn_resnet8 = partial(BNNResNet, 8)
bnn_resnet20 = partial(BNNResNet, 20)
bnn_resnet32 = partial(BNNResNet, 32)
bnn_resnet44 = partial(BNNResNet, 44)
bnn_resnet56 = partial(BNNResNet, 56)
bnn_resnet18 = partial(BNNResNet, 18)
bnn_resnet34 = partial(BNNResNet, 34)
bnn_resnet50 = partial(BNNResNet, 50)
