"""The distance to a teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.errors import QbenchError
from qbench.tasks import classification, detection
from qbench.tasks.detection import DetectionBatch
from qbench.tasks.distillation import Distillation

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
TEACHER = torch.tensor([[3.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
LABELS = torch.tensor([0, 2])


class Says(nn.Module):
    """A classifier that returns what it is told."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: torch.Tensor) -> object:
        return self.output


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(1, keepdims=True)


def expected(weight: float, temperature: float) -> float:
    """(1 − w) · cross-entropy + w · T² · KL(teacher ‖ network), written with numpy."""
    own, taught = LOGITS.numpy().astype(np.float64), TEACHER.numpy().astype(np.float64)
    entropy = -np.log(softmax(own)[[0, 1], LABELS.numpy()]).mean()
    p, q = softmax(taught / temperature), softmax(own / temperature)
    divergence = (p * np.log(p / q)).sum(1).mean()
    return float((1 - weight) * entropy + weight * temperature**2 * divergence)


def loss(output: object, weight: float = 1.0, temperature: float = 1.0) -> float:
    batch = (torch.zeros(2, 1, 4, 4), LABELS)
    distillation = Distillation(Says(TEACHER), weight, temperature)
    return float(classification.loss(Says(output), batch, distillation=distillation))


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.3, 1.0), (0.9, 4.0)])
def test_the_loss_mixes_labels_and_the_teacher(weight: float, temperature: float) -> None:
    assert loss(LOGITS, weight, temperature) == pytest.approx(expected(weight, temperature))


def test_the_loss_of_the_teacher_itself_is_zero() -> None:
    assert loss(TEACHER) == pytest.approx(0, abs=1e-7)


def test_auxiliary_classifiers_learn_from_the_teacher_too() -> None:
    both = loss((TEACHER, LOGITS), 0.5, 2.0)
    weight = classification.AUXILIARY_WEIGHT
    assert both == pytest.approx(loss(TEACHER, 0.5, 2.0) + weight * loss(LOGITS, 0.5, 2.0))


def test_no_gradient_reaches_the_teacher() -> None:
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    batch = (torch.randn(2, 4), LABELS)
    classification.loss(student, batch, distillation=Distillation(teacher, 1.0, 1.0)).backward()
    assert teacher.weight.grad is None
    assert student.weight.grad is not None


def test_low_precision_logits_are_compared_in_single_precision() -> None:
    distillation = Distillation(Says(TEACHER.bfloat16()), 1.0, 1.0)
    assert distillation.targets(torch.zeros(2)).dtype == torch.float32


def test_a_detector_has_no_teacher() -> None:
    batch: DetectionBatch = (torch.zeros(1, 3, 4, 4), [{}])
    with pytest.raises(QbenchError, match="a teacher is for classification"):
        detection.loss(nn.Identity(), batch, distillation=Distillation(nn.Identity(), 1.0, 1.0))
