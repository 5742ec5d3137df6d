from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from qbench.report.checkpoints import agreement
from qbench.spec.predictions import Predictions

LABELS = np.arange(200) % 10


def predicted(wrong: list[int]) -> Predictions:
    """Predictions that are wrong for some images."""
    values = LABELS.copy()
    values[wrong] = (values[wrong] + 1) % 10
    return Predictions.of(values.tolist(), 10)


def test_it_counts_the_images_that_only_one_gets_right() -> None:
    found = agreement(predicted([1, 2, 3, 4, 5]), predicted([5, 6]), predicted([]))
    assert (found.images, found.same) == (200, 195)
    assert (found.right_a, found.right_b, found.only_a, found.only_b) == (195, 198, 1, 4)
    assert found.p == pytest.approx(binomtest(1, 5).pvalue)


def test_equal_networks_have_no_difference() -> None:
    found = agreement(predicted([1]), predicted([1]), predicted([]))
    assert (found.same, found.p) == (200, 1.0)


def test_without_true_classes_agreement_is_counted() -> None:
    found = agreement(predicted([1]), predicted([2]), None)
    assert (found.same, found.p, found.right_a) == (198, None, None)


def test_numbers_of_images_must_be_equal() -> None:
    with pytest.raises(ValueError, match=r"\[5, 200\] images"):
        agreement(predicted([]), Predictions.of([0] * 5, 10), None)
