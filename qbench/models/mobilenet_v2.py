"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381) for images of 28×28 or 32×32 pixels.

The blocks and their channels are those of Table 2 of the paper, for width 1. The network for
ImageNet halves an image five times; a 28×28 image would be a single pixel. Here the first
convolution and the first block of 24 channels have stride 1, as in the CIFAR networks of
kuangliu/pytorch-cifar. 28×28 pixels become 4×4 before the average. Unlike that code, a block whose
channels change has no shortcut, as in the paper.

A block ends with a linear convolution, without an activation function. The inputs of the first
convolution of the next block, and of the last convolution of the network, therefore have negative
values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from qbench.models.network import Network, he_initialise

# Expansion, output channels, blocks and stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FIRST, _LAST = 32, 1280  # channels


class MobileNetV2Small(Network):
    """MobileNetV2 for small images.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    smallest_alone: int | None = 9

    def __init__(self, num_classes: int, in_channels: int) -> None:
        first = Conv2dNormActivation(in_channels, _FIRST, 3, activation_layer=nn.ReLU6)
        last = Conv2dNormActivation(_STAGES[-1][1], _LAST, 1, activation_layer=nn.ReLU6)
        super().__init__(
            OrderedDict(
                [
                    ("features", nn.Sequential(first, *_blocks(), last)),
                    ("average", nn.AdaptiveAvgPool2d(1)),
                    ("flatten", nn.Flatten()),
                    ("classifier", nn.Linear(_LAST, num_classes)),
                ]
            )
        )
        he_initialise(self, "fan_out")


def _blocks() -> Iterator[nn.Module]:
    channels = _FIRST
    for expansion, outputs, count, stride in _STAGES:
        for block in range(count):
            yield InvertedResidual(channels, outputs, 1 if block else stride, expansion)
            channels = outputs
