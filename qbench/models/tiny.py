"""Two small networks for images of 8×8 to 14×14 pixels."""

from __future__ import annotations

from torch import Tensor, nn


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """Return a 3×3 convolution, batch normalisation and ReLU, the usual block of the literature.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        stride: Stride of the convolution, which has padding 1 and no bias.

    Returns:
        Three modules, to apply in order.
    """
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class ConvNetTiny(nn.Sequential):
    """Four 3×3 convolutions with batch normalisation, average pooling, one linear layer.

    The first two convolutions have 16 channels, the others 32. The first convolution and the linear
    layer stay in full precision under the default layer policy, so three convolutions are
    quantized.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(
            *conv_bn_relu(in_channels, 16),
            *conv_bn_relu(16, 16),
            nn.MaxPool2d(2),
            *conv_bn_relu(16, 32),
            *conv_bn_relu(32, 32),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, num_classes),
        )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al., CVPR 2016, arXiv:1512.03385, Fig. 2).

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        stride: Stride of the first convolution. The shortcut is a 1×1 convolution if shapes differ.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
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
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        return self.relu(self.body(x) + self.shortcut(x))


class ResNetTiny(nn.Sequential):
    """Three residual blocks of 16, 32 and 64 channels: a CIFAR ResNet-8 for small images.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(
            *conv_bn_relu(in_channels, 16),
            ResidualBlock(16, 16, 1),
            ResidualBlock(16, 32, 2),
            ResidualBlock(32, 64, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )
