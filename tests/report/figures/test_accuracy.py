from __future__ import annotations

from pathlib import Path

import pandas as pd

from qbench.report.figures import accuracy
from tests.helpers.figures import (
    size,
    suite,
)


def test_each_model_has_a_panel(tmp_path: Path) -> None:
    one = size(accuracy.accuracy_by_bits(suite()[0], tmp_path)[0])
    two = size(accuracy.accuracy_by_bits(suite(("net", "other"))[0], tmp_path)[0])
    assert two[1] == one[1]
    assert two[0] > 1.5 * one[0]


def test_widths_that_do_not_fit_beside_each_other_go_on_below(tmp_path: Path) -> None:
    few = suite()[0]
    methods = [
        few[few["method"] != "fp32"].assign(label=f"method {i}", method=f"method_{i}")
        for i in range(30)
    ]
    many = pd.concat([few, *methods], ignore_index=True)
    tall, short = (size(accuracy.accuracy_by_bits(each, tmp_path)[0]) for each in (many, few))
    assert tall[0] > 1.5 * short[0]
    assert tall[1] < 2.5 * short[1]


def points(*means: float, std: float = 0.1) -> pd.DataFrame:
    return pd.DataFrame({"mean": means, "std": std})


def test_the_axis_shows_every_point() -> None:
    low, high = accuracy._limits(points(97.0, 97.5, 98.0, 98.5), full=99.0)
    assert 96 < low < 96.9
    assert 99 < high < 99.5


def test_an_outlier_does_not_squash_the_rest() -> None:
    low, _ = accuracy._limits(points(10.0, 97.0, 97.2, 97.5, 98.0, 98.5), full=99.0)
    assert 96 < low < 96.9


def test_many_bad_points_are_no_outliers() -> None:
    low, _ = accuracy._limits(points(10.0, 12.0, 15.0, 97.5, 98.0, 98.5), full=99.0)
    assert low < 10


def test_without_full_precision_the_axis_ends_above_the_points() -> None:
    _, high = accuracy._limits(points(97.0, 98.0), full=float("nan"))
    assert 98.1 < high < 98.5


def test_points_of_a_width_stand_side_by_side() -> None:
    frame = pd.DataFrame({"label": ["B", "A", "C", "A"], "bits": ["1/1", "1/1", "1/1", "2/2"]})
    b, a, c, alone = accuracy._dodge(frame, ["A", "B", "C"])
    assert -0.5 < a < b < c < 0.5
    assert b == alone == 0
