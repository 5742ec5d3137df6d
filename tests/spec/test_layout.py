"""Layouts of tables."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from qbench.spec.layout import TableLayout, unknown_metrics


def test_the_third_dimension_is_the_one_that_is_left() -> None:
    assert TableLayout().left == "model"
    assert TableLayout(rows="model").left == "method"
    assert TableLayout(rows="model", columns="method").left == "bits"


def test_rows_are_not_columns() -> None:
    with pytest.raises(ValidationError, match="rows and columns are both 'bits'"):
        TableLayout(rows="bits")


def test_a_cell_shows_metrics_in_order() -> None:
    assert TableLayout().shown == ()
    assert TableLayout(cell="top1 / top5").shown == ("top1", "top5")


def test_a_metric_that_the_task_lacks_is_named_with_the_nearest() -> None:
    assert list(unknown_metrics({"cell": "top1/top4"}, "classification")) == [
        "'top4' is no metric of classification; did you mean 'top5'?"
    ]
    assert list(unknown_metrics({"cell": "map"}, "detection")) == []
    assert list(unknown_metrics("anything", "detection")) == []
