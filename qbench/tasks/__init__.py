"""What is asked of a model: its loss, its metrics, how it is evaluated."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import DataLoader

from qbench.errors import QbenchError


class Task(Protocol):
    """A task, implemented by a module of this package."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The training loss of one batch, a scalar."""

    def evaluate(self, model: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
        """Metrics of a model, in the mode it is in; the first is the one that tables show."""

    def inputs(self, batch: Any) -> Tensor:
        """What the model is given of a batch."""


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        QbenchError: there is none.
    """
    if name == "classification":
        from qbench.tasks import classification

        return classification
    raise QbenchError(f"no task is named '{name}'; known: classification")
