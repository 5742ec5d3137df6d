from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from scipy import stats

from qbench.report.figures.pareto import _ticks, front, pareto
from qbench.report.figures.ranks import rank, ranks
from qbench.report.summary import summarise
from tests.helpers.frames import full, trials


def costly(cell: pd.DataFrame, megabytes: float) -> pd.DataFrame:
    """With costs beside; bit-operations go with size."""
    return cell.assign(
        weight_mb=megabytes, full_weight_mb=8.0, gbops=2 * megabytes, full_gbops=16.0
    )


def summary(*cells: pd.DataFrame) -> pd.DataFrame:
    return summarise(pd.concat(cells, ignore_index=True))


def some() -> pd.DataFrame:
    return summary(
        costly(full(99.0, 99.2), 8.0),
        costly(trials("A", 98.0, 98.1), 0.5),
        costly(trials("B", 97.0, 97.1), 0.5),  # beaten at the same cost
        costly(trials("A", 98.6, 98.5, bits="2/2"), 1.0),
        costly(trials("B", 98.2, 98.1, bits="2/2"), 2.0),  # beaten at less cost
        costly(trials("C", 99.9, 99.9, audit="9 levels, 4 promised"), 0.1),  # not k-bit
    )


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


def test_without_costs_there_is_no_front(tmp_path: Path) -> None:
    assert pareto(summary(trials("A", 98.0), trials("B", 97.0)), tmp_path) == []
    assert pareto(summary(costly(trials("A", 98.0), 1.0)), tmp_path) == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.004, 0.07, [0.005, 0.01, 0.02, 0.05]), (1, 900, [1, 3, 10, 30, 100, 300])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert _ticks(low, high) == pytest.approx(expected)


def ranked(table: dict[str, list[float]], *more: pd.DataFrame) -> pd.DataFrame:
    """Methods × settings, each a width."""
    cells = [
        trials(label, value, bits=f"{i + 1}/32")
        for label, values in table.items()
        for i, value in enumerate(values)
    ]
    return summary(*cells, *more)


TABLE = {
    "A": [99.0, 98.0, 97.0, 99.0],
    "B": [98.0, 97.0, 97.0, 98.0],
    "C": [90.0, 91.0, 92.0, 93.0],
}


def test_ranks_are_means_over_settings() -> None:
    found = rank(ranked(TABLE))
    assert found is not None
    assert found.settings == 4
    assert found.mean.to_dict() == {"A": 4.5 / 4, "B": 7.5 / 4, "C": 3.0}
    assert found.p == pytest.approx(stats.friedmanchisquare(*TABLE.values()).pvalue)


def test_the_critical_difference_is_nemenyis() -> None:
    """Demšar 2006, Table 5: q = 2.343 for three classifiers; CD = q √(k(k + 1) / 6N)."""
    found = rank(ranked(TABLE))
    assert found is not None
    assert found.critical == pytest.approx(2.343 * (3 * 4 / (6 * 4)) ** 0.5, abs=2e-3)
    assert found.alike() == [(4.5 / 4, 7.5 / 4), (7.5 / 4, 3.0)]


def test_a_method_without_all_settings_is_not_ranked() -> None:
    found = rank(ranked(TABLE, trials("D", 99.9, bits="1/32")))
    assert found is not None
    assert "D" not in found.mean.index


def test_a_setting_that_few_can_do_is_left_out() -> None:
    found = rank(ranked(TABLE, trials("A", 99.0, bits="8/8")))
    assert found is not None
    assert (found.settings, len(found.mean)) == (4, 3)


@pytest.mark.parametrize(
    "few",
    [
        ranked({"A": [1.0, 2.0], "B": [2.0, 3.0]}),
        ranked({"A": [1.0], "B": [2.0], "C": [3.0]}),
        ranked(TABLE).assign(audit="9 levels, 4 promised"),
    ],
    ids=["two methods", "one setting", "not k-bit"],
)
def test_ranks_need_settings_and_methods(few: pd.DataFrame, tmp_path: Path) -> None:
    assert rank(few) is None
    assert ranks(few, tmp_path) == []


def test_ranks_are_drawn(tmp_path: Path) -> None:
    paths = ranks(ranked(TABLE), tmp_path)
    assert [path.name for path in paths] == ["ranks.png", "ranks.svg"]
    text = paths[1].read_text(encoding="utf-8")
    assert "Friedman" in text
