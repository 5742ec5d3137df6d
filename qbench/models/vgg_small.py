"""VGG-small, for CIFAR's 32×32 images, as in the code of LQ-Nets (``cifar10-vgg-small.py``).

Six 3×3 convolutions of 128, 128, 256, 256, 512 and 512 channels, pooling after every second, and
one linear layer. Pooling comes between convolution and normalisation, so that quantized activations
have just been normalised. The codes of BNN (MatthieuCourbariaux/BinaryNet, ``cifar10.py``) and
IR-Net (htqin/IR-Net) have the same convolutions in the same order; BNN's has two hidden linear
layers of 1024 more, and binarises the first and the last layer too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from qbench.models.network import Network, he_initialise

CHANNELS = (128, 128, 256, 256, 512, 512)


class VGGSmall(Network):
    """VGG-small; 4.7 million parameters at 10 classes.

    Images have 32×32 pixels, or any size from 8×8. Features are averaged, or repeated, to the 4×4
    of a 32×32 image.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    smallest: ClassVar[int] = 8
    smallest_alone: int | None = 16

    def __init__(self, num_classes: int, in_channels: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = in_channels
        for i, outputs in enumerate(CHANNELS, 1):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            if i % 2 == 0:
                layers[f"pool{i}"] = nn.MaxPool2d(2)
            layers[f"norm{i}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{i}"] = nn.ReLU()
            inputs = outputs
        layers["resize"] = nn.AdaptiveAvgPool2d(4)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(inputs * 4 * 4, num_classes)
        super().__init__(layers)
        he_initialise(self, "fan_in")
