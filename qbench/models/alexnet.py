"""AlexNet with batch normalisation, the form that low-bit papers train on ImageNet.

Five convolutions, two hidden linear layers and a classifier (Krizhevsky et al., NeurIPS 2012),
without groups, local response normalisation or dropout. Channels, kernels, padding, the order
convolution, normalisation, ReLU, pooling, and the 1e-3 in batch normalisation are those of the code
released with Quantization Networks (aliyun/alibabacloud-quantization-networks,
``models/alexnet.py``), which has them from XNOR-Net's (allenai/XNOR-Net, ``models/alexnet.lua``)::

    conv1 11×11/4, 96 - pool - conv2 5×5, 256 - pool - conv3 3×3, 384 - conv4 3×3, 384 -
    conv5 3×3, 256 - pool - fc6 4096 - fc7 4096 - fc8

Where sources differ:

==================  =========================  ==========================  =======================
                    Quantization Networks      DoReFa-Net (tensorpack)     LQ-Nets, HWGQ
==================  =========================  ==========================  =======================
conv1               11×11, padding 2           12×12, no padding, no       11×11, no padding
                                               normalisation
groups              1                          2 in conv2, conv4, conv5    1 (HWGQ: 1)
pooling             after ReLU                 between normalisation and   before normalisation
                                               activation
biases before
normalisation       yes                        no                          in fc6, fc7 (HWGQ: no)
dropout             0.1                        none                        none
==================  =========================  ==========================  =======================

Normalisation cancels a bias before it, so there is none here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from qbench.models.network import Network, he_initialise
from qbench.quant.surgery import pass_signs, pool_before_norm

EPSILON = 1e-3


class AlexNetBN(Network):
    """AlexNet with batch normalisation; 62.4 million parameters at 1000 classes.

    Images have 224×224 pixels, or any size from 63×63. Features are averaged, or repeated, to the
    6×6 of a 224×224 image.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    smallest: ClassVar[int] = 63
    smallest_alone: int | None = None

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(
            OrderedDict(
                [
                    ("conv1", nn.Conv2d(in_channels, 96, 11, stride=4, padding=2, bias=False)),
                    ("norm1", nn.BatchNorm2d(96, EPSILON)),
                    ("relu1", nn.ReLU()),
                    ("pool1", nn.MaxPool2d(3, 2)),
                    ("conv2", nn.Conv2d(96, 256, 5, padding=2, bias=False)),
                    ("norm2", nn.BatchNorm2d(256, EPSILON)),
                    ("relu2", nn.ReLU()),
                    ("pool2", nn.MaxPool2d(3, 2)),
                    ("conv3", nn.Conv2d(256, 384, 3, padding=1, bias=False)),
                    ("norm3", nn.BatchNorm2d(384, EPSILON)),
                    ("relu3", nn.ReLU()),
                    ("conv4", nn.Conv2d(384, 384, 3, padding=1, bias=False)),
                    ("norm4", nn.BatchNorm2d(384, EPSILON)),
                    ("relu4", nn.ReLU()),
                    ("conv5", nn.Conv2d(384, 256, 3, padding=1, bias=False)),
                    ("norm5", nn.BatchNorm2d(256, EPSILON)),
                    ("relu5", nn.ReLU()),
                    ("pool5", nn.MaxPool2d(3, 2)),
                    ("resize", nn.AdaptiveAvgPool2d(6)),
                    ("flatten", nn.Flatten()),
                    ("fc6", nn.Linear(256 * 6 * 6, 4096, bias=False)),
                    ("norm6", nn.BatchNorm1d(4096, EPSILON)),
                    ("relu6", nn.ReLU()),
                    ("fc7", nn.Linear(4096, 4096, bias=False)),
                    ("norm7", nn.BatchNorm1d(4096, EPSILON)),
                    ("relu7", nn.ReLU()),
                    ("fc8", nn.Linear(4096, num_classes)),
                ]
            )
        )
        he_initialise(self, "fan_in")


class XNORAlexNet(AlexNetBN):
    """AlexNet of the code of XNOR-Net (allenai/XNOR-Net, ``models/alexnetxnor.lua``).

    The stem, convolution, normalisation, ReLU and pooling, is as in `AlexNetBN`. Every further
    layer but the last is normalised directly before the sign of its input is taken, after pooling;
    this needs one more normalisation, behind the stem. A ReLU precedes the classifier. The code has
    no activation function beside the signs. Here a hard tanh takes the place of each, so that the
    network at full precision is not a linear one; it changes neither a sign nor its gradient.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        layers = list(self._modules.items())
        stem = [name for name, _ in layers].index("pool1") + 1
        layers[stem:stem] = [("norm", nn.BatchNorm2d(96, EPSILON)), ("tanh", nn.Hardtanh())]
        self._modules.clear()
        self._modules.update(layers)
        pass_signs(pool_before_norm(self))
