from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from matplotlib.figure import Figure

from qbench.report.figures.pareto import _ticks, front, pareto
from tests.helpers.figures import legend
from tests.helpers.frames import costly, full, summary, trials


def some() -> pd.DataFrame:
    return summary(costly(full(99.0, 99.2), 8.0), some_cells())


def some_cells() -> pd.DataFrame:
    cells = [
        costly(trials("A", 98.0, 98.1), 0.5),
        costly(trials("B", 97.0, 97.1), 0.5),  # beaten at the same cost
        costly(trials("A", 98.6, 98.5, bits="2/2"), 1.0),
        costly(trials("B", 98.2, 98.1, bits="2/2"), 2.0),  # beaten at less cost
        costly(trials("C", 99.9, 99.9, audit="9 levels, 4 promised"), 0.1),  # not k-bit
    ]
    return pd.concat(cells, ignore_index=True)


def test_the_front_is_what_no_other_beats() -> None:
    found = front(some(), "weight_mb")
    assert list(zip(found["label"], found["bits"], strict=True)) == [
        ("A", "1/32"),
        ("A", "2/2"),
        ("Full precision", "32/32"),
    ]


def test_equal_accuracy_at_more_cost_is_not_on_the_front() -> None:
    found = summary(costly(trials("A", 98.0), 1.0), costly(trials("A", 98.0, bits="2/2"), 2.0))
    assert front(found, "gbops")["bits"].tolist() == ["1/32"]


def test_the_front_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written.append([p.read_bytes() for p in pareto(some(), tmp_path / name)])
    assert len(written[0]) == 2
    assert written[0] == written[1]
    assert matplotlib.image.imread(tmp_path / "a" / "pareto.png").std() > 0.05


def test_the_front_names_its_methods(saved: list[Figure]) -> None:
    pareto(some(), Path())
    (figure,) = saved
    assert legend(figure) == [
        *("on the Pareto front", "other results", "full precision", "hollow: not k-bit"),
    ]
    for axes in figure.axes:
        assert {"A 1/32", "A 2/2"} <= {text.get_text() for text in axes.texts}


def test_networks_that_methods_change_are_no_further_stars(saved: list[Figure]) -> None:
    changed = costly(full(99.9, 99.9), 8.0).assign(label="Full precision, changed by A")
    pareto(summary(costly(full(99.0, 99.2), 8.0), changed, some_cells()), Path())
    for axes in saved[0].axes:
        stars = [line for line in axes.get_lines() if line.get_marker() == "*"]
        assert len(stars) == 1


def test_without_costs_there_is_no_front(tmp_path: Path) -> None:
    assert pareto(summary(trials("A", 98.0), trials("B", 97.0)), tmp_path) == []
    assert pareto(summary(costly(trials("A", 98.0), 1.0)), tmp_path) == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.004, 0.07, [0.005, 0.01, 0.02, 0.05]), (1, 900, [1, 3, 10, 30, 100, 300])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert _ticks(low, high) == pytest.approx(expected)
