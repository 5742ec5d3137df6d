from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from qbench.errors import QbenchError
from qbench.tasks import classification, detection

SCORES = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
OTHERS = torch.tensor([[0.0, 3.0, 1.0], [1.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 1])
BATCH = (torch.zeros(2, 1, 4, 4), LABELS)


class Outputs(NamedTuple):
    """What torchvision's networks with auxiliary classifiers return in training."""

    logits: Tensor
    aux_logits: Tensor


class Says(nn.Module):
    """A classifier that returns what it is told."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> Any:
        return self.output


def test_the_loss_is_the_mean_cross_entropy() -> None:
    expected = F.cross_entropy(SCORES, LABELS)
    assert torch.equal(classification.loss(Says(SCORES), BATCH), expected)


@pytest.mark.parametrize("output", [(SCORES, OTHERS), Outputs(SCORES, OTHERS)])
def test_auxiliary_classifiers_are_trained_with_less_weight(output: Any) -> None:
    found = float(classification.loss(Says(output), BATCH))
    expected = F.cross_entropy(SCORES, LABELS) + 0.3 * F.cross_entropy(OTHERS, LABELS)
    assert math.isclose(found, float(expected), rel_tol=1e-6)


def test_only_the_end_of_the_network_is_measured() -> None:
    alone = classification.evaluate(Says(SCORES), [BATCH])
    assert classification.evaluate(Says((SCORES, OTHERS)), [BATCH]) == alone
    assert alone["top1"] == 100


@pytest.mark.parametrize("output", [{"out": SCORES}, None, (), (SCORES, "more")])
def test_what_is_no_classifier_is_named(output: Any) -> None:
    with pytest.raises(QbenchError, match="a classifier returns logits, or a tuple of them, not "):
        classification.loss(Says(output), BATCH)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_targets_give_every_class_an_equal_share(smoothing: float) -> None:
    """Szegedy et al., CVPR 2016, Section 7: q(k) = (1 − ε) δ(k, y) + ε/K."""
    logits = SCORES.numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    q = (1 - smoothing) * np.eye(3)[LABELS.numpy()] + smoothing / 3
    expected = -(q * log_p).sum(1).mean()
    found = classification.loss(nn.Identity(), (SCORES, LABELS), smoothing)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("classes", [3, 5, 6, 100])
@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_those_of_torchmetrics_to_the_last_bit(classes: int, ties: bool) -> None:
    draw = torch.Generator().manual_seed(classes)
    measures = {
        f"top{k}": MulticlassAccuracy(classes, top_k=k, average="micro")
        for k in (1, 5)
        if classes > k
    }
    loss, batches = MeanMetric(), []
    for size in (17, 64, 5):
        logits = 3 * torch.randn(size, classes, generator=draw)
        logits = logits.round() if ties else logits
        labels = torch.randint(classes, (size,), generator=draw)
        batches.append((logits, labels))
        loss.update(F.cross_entropy(logits, labels), size)
        for measure in measures.values():
            measure.update(logits, labels)
    expected = {name: 100 * float(measure.compute()) for name, measure in measures.items()}
    expected["test_loss"] = float(loss.compute())
    assert classification.evaluate(nn.Identity(), batches) == expected


def test_a_test_loss_with_a_batch_that_has_none_is_not_a_number() -> None:
    broken = (torch.full((2, 3), torch.nan), LABELS)
    measured = classification.evaluate(nn.Identity(), [(SCORES, LABELS), broken])
    assert math.isnan(measured["test_loss"])


def test_nothing_is_measured_without_a_batch() -> None:
    assert classification.evaluate(nn.Identity(), []) == {}


def test_the_measured_loss_is_not_smoothed() -> None:
    measured = classification.evaluate(nn.Identity(), [(SCORES, LABELS)])
    plain = classification.loss(nn.Identity(), (SCORES, LABELS))
    assert measured["test_loss"] == pytest.approx(plain.item())


def test_detectors_have_no_label_smoothing() -> None:
    with pytest.raises(QbenchError, match=r"label_smoothing .* is for classification"):
        detection.loss(nn.Identity(), (torch.zeros(1, 3, 8, 8), []), 0.1)


def test_evaluation_keeps_the_predicted_classes_in_order() -> None:
    predicted = [7]
    metrics = classification.evaluate(Says(SCORES), [BATCH, BATCH], predicted)
    assert predicted == [7, 0, 1, 0, 1]
    assert metrics == classification.evaluate(Says(SCORES), [BATCH, BATCH])


def test_the_loss_counts_what_is_classified_right() -> None:
    hits: list[Tensor] = []
    counted = classification.loss(Says(SCORES), BATCH, hits=hits)
    classification.loss(Says((OTHERS, SCORES)), BATCH, hits=hits)
    assert [int(each) for each in hits] == [2, 0]
    assert counted == classification.loss(Says(SCORES), BATCH)
