"""What is asked of a model: its loss, its metrics, how it is evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from qbench.errors import QbenchError

if TYPE_CHECKING:
    from qbench.data import Dataset
    from qbench.spec.result import ImageDetections


class Task(Protocol):
    """A task, implemented by a module of this package."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The training loss of one batch, a scalar."""

    def evaluate(self, model: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
        """Metrics of a model, in the mode it is in, over the batches of all processes."""

    def examples(self, model: nn.Module, dataset: Dataset) -> list[ImageDetections]:
        """What a model, in the mode it is in, makes of the first test images, for a picture."""

    def inputs(self, batch: Any) -> Tensor:
        """What the model is given of a batch, (N, C, H, W)."""

    def random_batch(
        self, size: int, image_shape: tuple[int, int, int], classes: int, device: torch.device
    ) -> Any:
        """A batch of noise, to time a step with."""


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        QbenchError: there is none.
    """
    if name == "classification":
        from qbench.tasks import classification

        return classification
    if name == "detection":
        from qbench.tasks import detection

        return detection
    raise QbenchError(f"no task is named '{name}'; known: classification, detection")
