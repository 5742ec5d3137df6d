"""Metrics of the tasks."""

from __future__ import annotations

import pytest

from qbench.spec.metrics import MEASURED, SHORT, TITLES, shown_by


@pytest.mark.parametrize("task", MEASURED)
def test_every_metric_that_a_cell_shows_has_a_title(task: str) -> None:
    shown = shown_by(task)
    assert shown
    assert set(shown) <= TITLES.keys() == SHORT.keys()


def test_a_loss_is_measured_and_not_shown() -> None:
    assert "test_loss" in MEASURED["classification"]
    assert shown_by("classification") == ["top1", "top5"]
