"""Pre-activation ResNet-18 (He et al., ECCV 2016, arXiv:1603.05027), in its low-bit form.

A block normalises and activates its input, convolves, normalises, activates, convolves, and adds
its input. Every quantized activation follows a ReLU, and the shortcut is never clipped.
As in the code of LQ-Nets (microsoft/LQ-Nets, ``resnet_model.py``, ``--mode preact``):

- where the shape changes, both paths start from the activated input, and the shortcut is a 1×1
  convolution (type B), quantized like any other;
- the second convolution of a block and that 1×1 convolution are followed by batch normalisation
  too, which He et al. do not have: a low-bit convolution needs its scale restored before the sum;
- the stem is that of ResNet (7×7/2, normalisation, ReLU, pooling), so the first block has no
  activation of its own.

The code of DoReFa-Net (tensorpack, ``resnet-dorefa.py``) has no normalisation before the sum,
average pooling instead of the stride, and none after the stem.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from qbench.models.network import Network, he_initialise
from qbench.models.tiny import conv_bn_relu


class PreActBlock(nn.Module):
    """Two 3×3 convolutions, each before its normalisation, and a shortcut around both.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        stride: Stride of the first convolution. The shortcut is a 1×1 convolution if shapes differ.
        activated: Whether the input is already normalised and activated, for both paths.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activated: bool) -> None:
        super().__init__()
        self.activation: nn.Module = nn.Identity()
        if not activated:
            self.activation = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.body = nn.Sequential(
            *conv_bn_relu(inputs, outputs, stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride), before activation."""
        y: Tensor = self.body(self.activation(x)) + self.shortcut(x)
        return y


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Stack two blocks, and the activation before the next stage or the classifier."""
    return nn.Sequential(
        PreActBlock(inputs, outputs, stride, activated=True),
        PreActBlock(outputs, outputs, 1, activated=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class PreActResNet18(Network):
    """Pre-activation ResNet-18 with the stem for ImageNet.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    smallest_alone: int | None = 33

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(
            OrderedDict(
                [
                    ("conv1", nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)),
                    ("norm1", nn.BatchNorm2d(64)),
                    ("relu", nn.ReLU()),
                    ("pool", nn.MaxPool2d(3, 2, padding=1)),
                    ("layer1", _stage(64, 64, 1)),
                    ("layer2", _stage(64, 128, 2)),
                    ("layer3", _stage(128, 256, 2)),
                    ("layer4", _stage(256, 512, 2)),
                    ("average", nn.AdaptiveAvgPool2d(1)),
                    ("flatten", nn.Flatten()),
                    ("fc", nn.Linear(512, num_classes)),
                ]
            )
        )
        he_initialise(self, "fan_out")
