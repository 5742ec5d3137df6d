from __future__ import annotations

import signal
import time

import pytest

from qbench.cli.budget import Budget, seconds_of
from qbench.errors import QbenchError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45min", 2700), ("45 m", 2700), ("2h", 7200), ("1h30m", 5400), ("1.5H", 5400),
     ("2d", 172800)],
)  # fmt: skip
def test_a_time_is_numbers_with_units(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "2 hours", "h", "-1h", "1h and more", "0s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(QbenchError, match="time"):
        seconds_of(text)


def test_a_budget_interrupts_what_runs_in_it() -> None:
    budget = Budget("0.05s")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests
    try:
        with pytest.raises(KeyboardInterrupt), budget.limit():
            time.sleep(30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert budget.spent


def test_a_budget_that_is_not_spent_interrupts_nothing() -> None:
    budget = Budget("1h")
    with budget.limit():
        pass
    assert not budget.spent


def test_without_a_time_there_is_no_limit() -> None:
    budget = Budget(None)
    with budget.limit():
        pass
    assert not budget.spent
