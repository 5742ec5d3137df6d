"""Single-shot detectors (SSD, Liu et al., ECCV 2016, arXiv:1512.02325).

There are two of torchvision and a tiny one.

A detector stretches every image to its own size: 300, 320 or 96 pixels.

In evaluation, a detector maps images in [0, 1], (N, 3, S, S), to one dict per image, of ``boxes``,
``scores`` and ``labels``. In training, it maps images and targets to a dict of losses. It
standardises images itself, which also broadcasts grey images, (N, 1, S, S), to three channels.

Under autocast, default boxes and the outputs of the heads are in single precision: bfloat16
resolves a position in an image of 300 pixels to about a pixel.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from qbench.errors import QbenchError
from qbench.models import conv_bn_relu

_VGG16_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # indices in its features


def ssd300_vgg16(num_classes: int, in_channels: int = 3) -> SSD:
    """Build torchvision's SSD300 on VGG16, randomly initialised.

    Args:
        num_classes: Number of classes, including the background.
        in_channels: 3, or 1 for grey images.

    Raises:
        QbenchError: The number of channels is not valid.
    """
    _check_channels(in_channels)
    model: SSD = detection.ssd300_vgg16(
        weights=None, weights_backbone=None, num_classes=num_classes
    )
    return _completed(model, 300)


def ssdlite320_mobilenet_v3_large(num_classes: int, in_channels: int = 3) -> SSD:
    """Build torchvision's SSDLite on MobileNetV3-Large (arXiv:1905.02244, Section 6.3).

    Args:
        num_classes: Number of classes, including the background.
        in_channels: 3, or 1 for grey images.

    Raises:
        QbenchError: The number of channels is not valid.
    """
    _check_channels(in_channels)
    model: SSD = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes
    )
    return _completed(model, 320)


def ssd_tiny(num_classes: int, in_channels: int = 3) -> SSD:
    """Build a detector that learns in a minute on one core: SSD's heads on `TinyBackbone`.

    Its default boxes have four shapes at each position and suit objects of about 0.2 to 0.5 of the
    image. It keeps the best 50 detections per image.

    Args:
        num_classes: Number of classes, including the background.
        in_channels: 3, or 1 for grey images.

    Raises:
        QbenchError: The number of channels is not valid.
    """
    _check_channels(in_channels)
    size = 96
    boxes = DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.35, 0.55])
    model = SSD(
        TinyBackbone(),
        boxes,
        (size, size),
        num_classes,
        score_thresh=0.05,
        topk_candidates=100,
        detections_per_img=50,
    )
    return _completed(model, size)


class TinyBackbone(nn.Module):
    """Backbone of seven 3×3 convolutions with batch normalisation and ReLU.

    Attributes:
        out_channels: Numbers of channels of its two feature maps, whose sides are S/8 and S/16.
    """

    out_channels = (64, 64)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *conv_bn_relu(3, 16, stride=2), *conv_bn_relu(16, 32, stride=2), *conv_bn_relu(32, 32)
        )
        self.eighth = nn.Sequential(*conv_bn_relu(32, 64, stride=2), *conv_bn_relu(64, 64))
        self.sixteenth = nn.Sequential(*conv_bn_relu(64, 64, stride=2), *conv_bn_relu(64, 64))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Map (N, 3, S, S) to feature maps (N, 64, S/8, S/8) and (N, 64, S/16, S/16)."""
        eighth = self.eighth(self.stem(x))
        return OrderedDict(eighth=eighth, sixteenth=self.sixteenth(eighth))


def _check_channels(in_channels: int) -> None:
    if in_channels not in (1, 3):
        raise QbenchError(f"a detector's images have 3 channels, or 1, not {in_channels}")


def _completed(model: SSD, size: int) -> SSD:
    """Make a detector stretch every image to size × size pixels, and adapt it to autocast."""
    transform = model.transform
    transform.min_size, transform.max_size = (size,), size
    transform.fixed_size = (size, size)
    model.anchor_generator.register_forward_pre_hook(_single_precision_boxes)
    model.head.register_forward_hook(_single_precision_outputs)
    return model


def _single_precision_boxes(module: nn.Module, args: tuple[Any, list[Tensor]]) -> tuple[Any, Any]:
    images, features = args  # the generator reads their shapes, and the dtype of the first
    return images, [x.new_empty((0, *x.shape[1:]), dtype=_single(x)) for x in features]


def _single_precision_outputs(
    module: nn.Module, args: Any, outputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    return {name: x.to(_single(x)) for name, x in outputs.items()}


def _single(x: Tensor) -> torch.dtype:
    """Return float32, or float64 for double precision."""
    return torch.promote_types(x.dtype, torch.float32)


def start_from_vgg16(model: nn.Module, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set the first 13 convolutions of SSD300's backbone to those of a VGG16.

    Args:
        model: Detector as `ssd300_vgg16` builds it. It is changed in place.
        features: Weights of VGG16 by torchvision's names, with or without the prefix ``features.``;
            other entries are not read. They should come from a network whose images are 0…255 minus
            their mean (``VGG16_Weights.IMAGENET1K_FEATURES``).

    Returns:
        The weights that were read, by name without the prefix.

    Raises:
        QbenchError: A weight of VGG16 is missing or has another shape.
    """
    prefix = "features." if any(name.startswith("features.") for name in features) else ""
    backbone = model.get_submodule("backbone")
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    read = {}
    for place, convolution in zip(_VGG16_CONVOLUTIONS, convolutions, strict=False):
        for kind, mine in convolution.named_parameters():
            name = f"{prefix}{place}.{kind}"
            given = features.get(name)
            if given is None or given.shape != mine.shape:
                has = "none" if given is None else tuple(given.shape)
                raise QbenchError(f"VGG16 has a {name} of {tuple(mine.shape)}, these weights {has}")
            mine.data.copy_(given)
            read[f"{place}.{kind}"] = given
    return read
