from __future__ import annotations

import pandas as pd
import pytest

from qbench.report.baseline import baseline_doubts
from qbench.report.presentation import Presentation
from tests.helpers.frames import full, summary, trials

PRESENTATION = Presentation("suite", "Title", chance=10.0, test_items=360)


def doubts(*cells: pd.DataFrame, presentation: Presentation = PRESENTATION) -> list[str]:
    return list(baseline_doubts(presentation, summary(*cells)).values())


@pytest.mark.parametrize(
    ("baseline", "quantized", "doubt"),
    [
        (99.0, 99.4, ""),
        (99.0, 50.0, ""),
        (14.0, 12.0, "is no better than guessing (10.00 %), as far as 360 test items can show"),
        (20.0, 12.0, ""),
        (60.0, 95.0, "is far below A at 1/32 (95.00 %)"),
        (95.0, 97.0, ""),
    ],
)
def test_a_baseline_is_doubted_where_it_tests_no_quantizer(
    baseline: float, quantized: float, doubt: str
) -> None:
    found = doubts(full(baseline), trials("A", quantized))
    expected = f"Doubtful: full precision of net on digits ({baseline:.2f} %) {doubt}."
    assert found == ([expected] if doubt else [])


def test_few_test_items_make_accuracies_uncertain() -> None:
    few = Presentation("suite", "Title", chance=50.0, test_items=100)
    assert doubts(full(80.0), trials("A", 88.0), presentation=few) == []
    told = doubts(full(60.0), trials("A", 60.0), presentation=few)[0]
    assert told.endswith("guessing (50.00 %), as far as 100 test items can show.")


def test_each_network_is_judged_alone() -> None:
    cells = [
        *(full(99.0), trials("A", 98.0)),
        *(full(9.0, model="big"), trials("A", 98.0, model="big")),
    ]
    assert list(baseline_doubts(PRESENTATION, summary(*cells))) == [("digits", "big")]


@pytest.mark.parametrize(
    "cells",
    [
        [trials("A", 98.0)],
        [full("missing"), trials("A", 98.0)],
        [full(9.0), trials("A", "missing")],
    ],
    ids=["none", "not run", "nothing else"],
)
def test_what_was_not_measured_is_not_compared(cells: list[pd.DataFrame]) -> None:
    plain = Presentation("suite", "Title")  # of a task without an accuracy of guessing
    assert doubts(*cells, presentation=plain) == []


def test_a_rehearsal_is_not_judged() -> None:
    rehearsal = Presentation("suite", "Title", rehearsal=True, chance=10.0, test_items=360)
    assert doubts(full(9.0), trials("A", 9.0), presentation=rehearsal) == []
