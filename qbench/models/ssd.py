"""Single-shot detectors (SSD, Liu et al., ECCV 2016, arXiv:1512.02325): torchvision's, a tiny one.

A detector maps a batch of images in [0, 1], (N, 3, S, S), to one dict for each image, of ``boxes``,
``scores`` and ``labels``; in training, of images and targets, to a dict of losses. It standardises
images itself. Grey images, (N, 1, S, S), are broadcast to three channels by that standardisation.

Under autocast, default boxes and what the heads return are in single precision: in bfloat16 a place
in an image of 300 pixels is known to a pixel.
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

_VGG16_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # among its features
_SSD300_SMALLEST = 268  # below, nothing is left for conv11_2


def ssd300_vgg16(num_classes: int, in_channels: int = 3, image_size: int = 300) -> SSD:
    """SSD300 over VGG16, torchvision's, randomly initialised.

    Args:
        num_classes: classes, the background included.
        in_channels: 3, or 1.
        image_size: S. At another than 300, default boxes are spread evenly over each feature map,
            at the same sizes relative to the image.

    Raises:
        QbenchError: there is no such input.
    """
    _check_input(in_channels, image_size, _SSD300_SMALLEST)
    model: SSD = detection.ssd300_vgg16(
        weights=None, weights_backbone=None, num_classes=num_classes
    )
    if image_size != 300:
        model.anchor_generator.steps = None  # those of 300 × 300 are in pixels
    return _completed(model, image_size)


def ssdlite320_mobilenet_v3_large(
    num_classes: int, in_channels: int = 3, image_size: int = 320
) -> SSD:
    """SSDLite over MobileNetV3-Large (arXiv:1905.02244, Section 6.3), torchvision's.

    Args:
        num_classes: classes, the background included.
        in_channels: 3, or 1.
        image_size: S.

    Raises:
        QbenchError: there is no such input.
    """
    _check_input(in_channels, image_size, 1)
    model: SSD = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes
    )
    return _completed(model, image_size)


def ssd_tiny(num_classes: int, in_channels: int = 3, image_size: int = 96) -> SSD:
    """A detector that learns in a minute on one core: SSD's heads on `TinyBackbone`.

    Its default boxes, about 0.2 to 0.5 of the image, in four shapes at every place, suit objects of
    such sizes. Of an image it keeps the best 50 detections.

    Args:
        num_classes: classes, the background included.
        in_channels: 3, or 1.
        image_size: S.

    Raises:
        QbenchError: there is no such input.
    """
    _check_input(in_channels, image_size, 1)
    boxes = DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.35, 0.55])
    model = SSD(
        TinyBackbone(),
        boxes,
        (image_size, image_size),
        num_classes,
        score_thresh=0.05,
        topk_candidates=100,
        detections_per_img=50,
    )
    return _completed(model, image_size)


class TinyBackbone(nn.Module):
    """Seven 3×3 convolutions with batch normalisation and ReLU, and two feature maps.

    Attributes:
        out_channels: channels of the feature maps, whose sides are S/8 and S/16.
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


def _check_input(in_channels: int, image_size: int, smallest: int) -> None:
    if in_channels not in (1, 3):
        raise QbenchError(f"a detector's images have 3 channels, or 1, not {in_channels}")
    if image_size < smallest:
        raise QbenchError(
            f"this detector's images are {smallest} pixels wide or more, not {image_size}"
        )


def _completed(model: SSD, image_size: int) -> SSD:
    """Have a detector work at an image size, and under autocast."""
    transform = model.transform
    transform.min_size, transform.max_size = (image_size,), image_size
    transform.fixed_size = (image_size, image_size)
    model.anchor_generator.register_forward_pre_hook(_single_precision_boxes)
    model.head.register_forward_hook(_single_precision_outputs)
    return model


def _single_precision_boxes(module: nn.Module, args: tuple[Any, list[Tensor]]) -> tuple[Any, Any]:
    images, features = args  # of which it takes shapes, and the first one's dtype
    return images, [x.new_empty((0, *x.shape[1:]), dtype=_single(x)) for x in features]


def _single_precision_outputs(
    module: nn.Module, args: Any, outputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    return {name: x.to(_single(x)) for name, x in outputs.items()}


def _single(x: Tensor) -> torch.dtype:
    """Single precision, or double if it is."""
    return torch.promote_types(x.dtype, torch.float32)


def start_from_vgg16(model: nn.Module, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set the first 13 convolutions of SSD300's backbone to those of a VGG16.

    Args:
        model: as `ssd300_vgg16` builds it.
        features: VGG16's weights as torchvision names them, with ``features.`` before or without;
            others are not read. They should be of a network whose images are 0…255 less their mean
            (``VGG16_Weights.IMAGENET1K_FEATURES``).

    Returns:
        What was read of `features`, without ``features.`` before names.

    Raises:
        QbenchError: they are not VGG16's.
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
