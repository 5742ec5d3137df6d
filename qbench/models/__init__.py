"""Models: those of the low-bit literature, two tiny ones, and every classifier of torchvision.

Each is a callable with the keyword arguments ``num_classes`` and ``in_channels``, registered under
``qbench.models``. A layer's quantizer sits on its input, so what comes before a convolution or a
linear layer ends with normalisation and ReLU, pooled or not.
"""

from qbench.models.tiny import ConvNetTiny, ResidualBlock, ResNetTiny, conv_bn_relu
from qbench.models.torchvision import torchvision_model, torchvision_names

__all__ = [
    "ConvNetTiny",
    "ResNetTiny",
    "ResidualBlock",
    "conv_bn_relu",
    "torchvision_model",
    "torchvision_names",
]
