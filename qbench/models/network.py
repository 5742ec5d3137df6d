"""Initial weights and checks of image sizes, shared by the networks for larger images."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from qbench.errors import QbenchError


class ImageSizeError(QbenchError, ValueError):
    """Raised if images are too small for a network."""


class Network(nn.Sequential):
    """Sequential network that rejects images that are too small.

    Attributes:
        smallest: Smallest height and width of an image in pixels.
        smallest_alone: Smallest longer side in pixels of the only image of a training batch. Below
            it, batch normalisation has one value per channel, and no variance. None if a training
            batch needs two images.
    """

    smallest: ClassVar[int] = 1
    smallest_alone: int | None = 1

    def forward(self, x: Tensor) -> Tensor:
        """Map images, (N, C, H, W), to logits, (N, classes).

        Raises:
            ImageSizeError: The images are too small, or a training batch has a single image that is
                too small to normalise.
        """
        name, (height, width) = type(self).__name__, x.shape[2:]
        if min(height, width) < self.smallest:
            least = f"{self.smallest} × {self.smallest}"
            raise ImageSizeError(f"{name} takes images of at least {least}, not {height} × {width}")
        alone = self.training and len(x) == 1
        if alone and (self.smallest_alone is None or max(height, width) < self.smallest_alone):
            raise ImageSizeError(
                f"{name} cannot normalise a training batch of one {height} × {width} image: choose "
                "a batch_size that leaves no image alone in the last batch"
            )
        scores: Tensor = super().forward(x)
        return scores


def he_initialise(model: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw weights from N(0, 2/fan), in place; biases become 0 (He et al., ICCV 2015, Section 2.2).

    Args:
        model: Model whose convolutions and linear layers are drawn, in the order of ``modules()``.
        mode: Fan of the convolutions. Linear layers always use their number of inputs.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan = mode if isinstance(module, nn.Conv2d) else "fan_in"
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
