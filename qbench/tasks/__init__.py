"""Tasks: the loss of a model, its metrics, and its evaluation.

A task is a module of this package that implements `Task`. To add one, write the module and name it
in `get`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from qbench.errors import QbenchError

if TYPE_CHECKING:
    from qbench.data import Dataset
    from qbench.spec.result import ImageDetections
    from qbench.tasks.distillation import Distillation


class Task(Protocol):
    """A task, implemented by a module of this package."""

    def loss(
        self,
        model: nn.Module,
        batch: Any,
        label_smoothing: float = 0.0,
        hits: list[Tensor] | None = None,
        distillation: Distillation | None = None,
    ) -> Tensor:
        """Compute the training loss of one batch.

        Args:
            model: Model in training mode.
            batch: Batch on the model's device, with images as ``Dataset.to_input`` returns them.
            label_smoothing: Share of the target that all classes have equally, in [0, 1).
            hits: List that the number of correctly classified items is appended to, a scalar, if
                the task has classes.
            distillation: Teacher, and its share of the loss, if the task has classes.

        Returns:
            Loss, a floating-point scalar with a gradient.
        """

    def evaluate(
        self, model: nn.Module, batches: Iterable[Any], predicted: list[int] | None = None
    ) -> dict[str, float]:
        """Measure a model over the batches of all processes. The model's mode is kept.

        Args:
            model: Model.
            batches: This process's batches, on the model's device.
            predicted: List that the predicted classes of all processes are appended to, in the
                order of the data, if the task has classes.

        Returns:
            Metrics by name, the same in each process.
        """

    def examples(self, model: nn.Module, dataset: Dataset) -> list[ImageDetections]:
        """Run a model on the first test images, for figures. The model's mode is kept.

        Args:
            model: Model.
            dataset: Dataset with the images.

        Returns:
            Detections of each image; empty if the task has nothing to draw.
        """

    def inputs(self, batch: Any) -> Tensor:
        """Return the input of the model from a batch: images, (N, C, H, W)."""

    def random_batch(
        self, size: int, image_shape: tuple[int, int, int], classes: int, device: torch.device
    ) -> Any:
        """Create a batch of noise, to time a training step.

        Args:
            size: Number of images N.
            image_shape: (channels, height, width) of an image.
            classes: Number of classes, including the background in detection.
            device: Device of the batch.
        """


def get(name: str) -> Task:
    """Return the task with a name.

    Args:
        name: ``classification`` or ``detection``.

    Raises:
        QbenchError: No task has the name.
    """
    if name == "classification":
        from qbench.tasks import classification

        return classification
    if name == "detection":
        from qbench.tasks import detection

        return detection
    raise QbenchError(f"no task is named '{name}'; known: classification, detection")
