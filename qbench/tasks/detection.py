"""Object detection with torchvision's detectors: their own losses, and mean average precision.

Several metrics are called mAP. `evaluate` measures three of them. Papers on SSD and VOC2007,
including Table 4 of Quantization Networks, report ``map50_voc07``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qbench import distributed
from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.spec.result import ImageDetections
from qbench.tasks.distillation import Distillation
from qbench.tasks.voc_ap import mean_average_precision

Image = dict[str, Tensor]
DetectionBatch = tuple[Tensor, list[Image]]
EXAMPLE_IMAGES = 4  # test images whose detections are stored with a trial
LEAST_SCORE = 0.3  # of detections that are stored with a trial


def inputs(batch: DetectionBatch) -> Tensor:
    """Return the images of a batch, (N, 3, S, S)."""
    return batch[0]


def random_batch(
    size: int, image_shape: tuple[int, int, int], classes: int, device: torch.device
) -> DetectionBatch:
    """Create uniform images in [0, 1], (N, 3, S, S), each with one box in its middle."""
    images = torch.rand(size, *image_shape, device=device)
    _, height, width = image_shape
    box = torch.tensor([[width, height, 3 * width, 3 * height]], device=device) / 4
    labels = torch.randint(1, classes, (size, 1), device=device)
    return images, [{"boxes": box, "labels": label} for label in labels]


def loss(
    model: nn.Module,
    batch: DetectionBatch,
    label_smoothing: float = 0.0,
    hits: list[Tensor] | None = None,
    distillation: Distillation | None = None,
) -> Tensor:
    """Sum the losses of a detector; for SSD the multibox loss (arXiv:1512.02325, Eq. 1).

    Args:
        model: Detector of torchvision, in training mode.
        batch: Images in [0, 1], (N, 3, S, S), and for each a dict of ``boxes``, float32, (n, 4), in
            pixels as x1 y1 x2 y2, and ``labels``, int64, (n,), from 1.
        label_smoothing: Must be 0, because torchvision's detectors have no label smoothing.
        hits: Stays as it is: a detection is no class.
        distillation: Must be None: detectors return no logits in training.

    Returns:
        Loss, a scalar.

    Raises:
        QbenchError: Label smoothing or distillation is asked for.
    """
    if label_smoothing:
        raise QbenchError(f"label_smoothing {label_smoothing} is for classification")
    if distillation is not None:
        raise QbenchError("a teacher is for classification")
    images, targets = batch
    losses: dict[str, Tensor] = model(images, targets)
    return torch.stack(list(losses.values())).sum()


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[DetectionBatch], predicted: list[int] | None = None
) -> dict[str, float]:
    """Measure the mean average precision of a detector over the batches of all processes.

    Args:
        model: Detector of torchvision. ``model.training`` is False; its submodules may be in any
            mode.
        batches: Batches as in `loss`, on the model's device. Targets also have ``difficult``, bool,
            (n,).
        predicted: Stays as it is: a detection is no class.

    Returns:
        Metrics in percent:

        - ``map50_voc07``: overlap 0.5, 11 recall levels, the metric of VOC2007;
        - ``map50``: overlap 0.5, area under the curve, the metric of VOC2010 to VOC2012;
        - ``map``: COCO's, the mean over overlaps 0.5, 0.55, …, 0.95, at most 100 detections per
          image.

        Difficult objects are ignored, found or not. For COCO's metric they are crowds.
    """
    mine: list[tuple[Image, Image]] = []
    for images, targets in batches:
        found = model(images)
        mine += zip(map(_on_cpu, found), map(_on_cpu, targets), strict=True)
    every = distributed.interleave(mine)
    detections, truths = [each for each, _ in every], [each for _, each in every]
    return {
        "map50_voc07": 100 * mean_average_precision(detections, truths, "11_point"),
        "map50": 100 * mean_average_precision(detections, truths, "area"),
        "map": 100 * _coco(detections, truths),
    }


@torch.inference_mode()
def examples(model: nn.Module, dataset: Dataset) -> list[ImageDetections]:
    """Detect objects in the first four test images. The model's mode is kept.

    Args:
        model: Detector of torchvision; ``model.training`` is False.
        dataset: Dataset with the images.

    Returns:
        For each image, detections with a score of at least 0.3, in descending order of score.

    Raises:
        UnreadableError: No test image can be read.
    """
    images, _ = dataset.first(EXAMPLE_IMAGES)
    found = model(images.to(next(model.parameters()).device))
    return [_shown(_on_cpu(each)) for each in found]


def _shown(found: Image) -> ImageDetections:
    order = found["scores"].argsort(descending=True, stable=True)
    order = order[found["scores"][order] >= LEAST_SCORE]
    return ImageDetections(**{name: value[order].tolist() for name, value in found.items()})


def _on_cpu(image: Image) -> Image:
    """Move the tensors of an image to the CPU, floats in single precision."""
    return {
        name: value.float().cpu() if value.is_floating_point() else value.cpu()
        for name, value in image.items()
    }


def _coco(detections: list[Image], truths: list[Image]) -> float:
    from torchmetrics.detection import MeanAveragePrecision  # takes seconds to import

    metric = MeanAveragePrecision(backend="pycocotools", sync_on_compute=False)
    metric.warn_on_many_detections = False
    crowds = [{**each, "iscrowd": each["difficult"].long()} for each in truths]
    metric.update(detections, crowds)
    return float(metric.compute()["map"])
