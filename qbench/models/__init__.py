"""Models of the low-bit literature, tiny ones, and all of torchvision and timm.

A model is a callable with the keyword arguments ``num_classes`` and ``in_channels``, registered as
an entry point of the group ``qbench.models``. An activation quantizer acts on the input of a layer.
Therefore normalisation and ReLU, with or without pooling, precede each convolution or linear layer.
"""

from qbench.models.timm_models import check_timm_name, is_timm, timm_model
from qbench.models.tiny import ConvNetTiny, ResidualBlock, ResNetTiny, conv_bn_relu
from qbench.models.torchvision import torchvision_model, torchvision_names

__all__ = [
    "ConvNetTiny",
    "ResNetTiny",
    "ResidualBlock",
    "check_timm_name",
    "conv_bn_relu",
    "is_timm",
    "timm_model",
    "torchvision_model",
    "torchvision_names",
]
