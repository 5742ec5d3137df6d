"""The ResNets for CIFAR's 32×32 images (He et al., CVPR 2016, arXiv:1512.03385, Section 4.2).

A ResNet has 6n + 2 layers: a 3×3 convolution, n blocks each of 16, 32 and 64 channels, average
pooling and a linear layer. The second and third group of blocks halve the image. Shortcuts have no
parameters (option A): where the shape changes, they take every second pixel and append channels of
zeros.

Low-bit codes differ in the shortcut. Those of IR-Net and EWGS have option A, like the network of
akamaster/pytorch_resnet_cifar10 that they start from, with zeros on both sides; both put a
normalisation before the linear layer. APoT's has option B, a 1×1 convolution that is quantized too.
DoReFa-Net's (tensorpack, ``cifar10-resnet.py``) averages instead of taking every second pixel, and
is pre-activated.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models.resnet import BasicBlock

from qbench.models.network import Network, he_initialise
from qbench.models.tiny import conv_bn_relu


class PaddedShortcut(nn.Module):
    """Shortcut that takes every second pixel and appends as many zero channels as there are.

    Args:
        channels: Number of input channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 2C, ⌈H/2⌉, ⌈W/2⌉)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.channels))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Stack basic blocks of torchvision; the first halves the image if channels double."""
    first = BasicBlock(inputs, outputs)
    if inputs != outputs:
        first = BasicBlock(inputs, outputs, stride=2, downsample=PaddedShortcut(inputs))
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


class CifarResNet(Network):
    """A ResNet of 6n + 2 layers.

    Args:
        n: Number of blocks of each width, 1 or more.
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    smallest_alone: int | None = 5

    def __init__(self, n: int, num_classes: int, in_channels: int) -> None:
        conv, norm, relu = conv_bn_relu(in_channels, 16)
        super().__init__(
            OrderedDict(
                [
                    ("conv1", conv),
                    ("norm1", norm),
                    ("relu", relu),
                    ("layer1", _stage(16, 16, n)),
                    ("layer2", _stage(16, 32, n)),
                    ("layer3", _stage(32, 64, n)),
                    ("average", nn.AdaptiveAvgPool2d(1)),
                    ("flatten", nn.Flatten()),
                    ("fc", nn.Linear(64, num_classes)),
                ]
            )
        )
        he_initialise(self, "fan_out")


def resnet20(num_classes: int, in_channels: int) -> CifarResNet:
    """Build ResNet-20: 0.27 million parameters at 10 classes. See `CifarResNet` for arguments."""
    return CifarResNet(3, num_classes, in_channels)


def resnet32(num_classes: int, in_channels: int) -> CifarResNet:
    """Build ResNet-32: 0.46 million parameters at 10 classes. See `CifarResNet` for arguments."""
    return CifarResNet(5, num_classes, in_channels)


def resnet44(num_classes: int, in_channels: int) -> CifarResNet:
    """Build ResNet-44: 0.66 million parameters at 10 classes. See `CifarResNet` for arguments."""
    return CifarResNet(7, num_classes, in_channels)


def resnet56(num_classes: int, in_channels: int) -> CifarResNet:
    """Build ResNet-56: 0.85 million parameters at 10 classes. See `CifarResNet` for arguments."""
    return CifarResNet(9, num_classes, in_channels)
