from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from qbench.report.figures.ranks import rank, ranks
from tests.helpers.frames import summary, trials

TABLE = {
    "A": [99.0, 98.0, 97.0, 99.0, 99.0],
    "B": [98.0, 97.0, 97.0, 98.0, 98.0],
    "C": [90.0, 91.0, 92.0, 93.0, 94.0],
}


def ranked(table: dict[str, list[float]], *more: pd.DataFrame) -> pd.DataFrame:
    """Methods × settings, each a width."""
    cells = [
        trials(label, value, value, bits=f"{i + 1}/32")
        for label, values in table.items()
        for i, value in enumerate(values)
    ]
    return summary(*cells, *more)


def test_ranks_are_means_over_settings() -> None:
    found = rank(ranked(TABLE))
    assert found is not None
    assert found.settings == 5
    assert found.mean.to_dict() == {"A": 5.5 / 5, "B": 9.5 / 5, "C": 3.0}
    assert found.p == pytest.approx(stats.friedmanchisquare(*TABLE.values()).pvalue)


def test_the_critical_difference_is_nemenyis() -> None:
    """Demšar 2006, Table 5: q = 2.343 for three classifiers; CD = q √(k(k + 1) / 6N)."""
    found = rank(ranked(TABLE))
    assert found is not None
    assert found.critical == pytest.approx(2.343 * (3 * 4 / (6 * 5)) ** 0.5, abs=2e-3)
    assert found.alike() == [(5.5 / 5, 9.5 / 5), (9.5 / 5, 3.0)]


def test_a_method_without_all_settings_is_not_ranked() -> None:
    found = rank(ranked(TABLE, trials("D", 99.9, 99.9, bits="1/32")))
    assert found is not None
    assert "D" not in found.mean.index


def test_a_setting_that_few_can_do_is_left_out() -> None:
    found = rank(ranked(TABLE, trials("A", 99.0, 99.0, bits="8/8")))
    assert found is not None
    assert (found.settings, len(found.mean)) == (5, 3)


@pytest.mark.parametrize(
    "few",
    [
        ranked({label: TABLE[label] for label in "AB"}),
        ranked({label: values[:4] for label, values in TABLE.items()}),
        ranked(TABLE).assign(n=1),
        ranked(TABLE).assign(audit="9 levels, 4 promised"),
    ],
    ids=["two methods", "four settings", "one seed", "not k-bit"],
)
def test_ranks_need_settings_and_methods(few: pd.DataFrame, tmp_path: Path) -> None:
    assert rank(few) is None
    assert ranks(few, tmp_path) == []


def test_ranks_are_drawn(tmp_path: Path) -> None:
    paths = ranks(ranked(TABLE), tmp_path)
    assert [path.name for path in paths] == ["ranks.png", "ranks.svg"]
    text = paths[1].read_text(encoding="utf-8")
    assert "Friedman" in text
