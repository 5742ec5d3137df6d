from __future__ import annotations

import pandas as pd
import pytest

from qbench.errors import QbenchError
from qbench.report.problems import make_of_sound, noted

ROWS = pd.DataFrame(
    [
        {"model": model, "dataset": "digits", "label": label}
        for model in ("small", "big")
        for label in ("A", "B")
    ]
)


def names(rows: pd.DataFrame) -> list[str]:
    return [f"{row.label} on {row.model}" for row in rows.itertuples()]


def fail(error: Exception) -> None:
    raise error


def test_an_exception_becomes_a_line() -> None:
    problems: list[str] = []
    for _ in range(2):
        with noted(problems, "the curve"):
            fail(IndexError("out of range\nof the list"))
    with noted(problems, "the table"):
        fail(QbenchError("the store is away"))
    assert problems == ["the curve: IndexError: out of range", "the table: the store is away"]


def test_without_a_fault_everything_is_made() -> None:
    problems: list[str] = []
    assert make_of_sound(problems, "it", ROWS, names, list[str]()) == names(ROWS)
    assert problems == []


@pytest.mark.parametrize(
    ("faulty", "left", "problem"),
    [
        ({"A on big"}, 3, "it of A on big, digits: ValueError: no"),
        ({"A on big", "B on big"}, 2, "it of A, B on big, digits: ValueError: no"),
    ],
    ids=["a method", "a model"],
)
def test_a_fault_costs_its_own_model_and_method(faulty: set[str], left: int, problem: str) -> None:
    def make(rows: pd.DataFrame) -> list[str]:
        if faulty & set(names(rows)):
            raise ValueError("no")
        return names(rows)

    problems: list[str] = []
    made = make_of_sound(problems, "it", ROWS, make, list[str]())
    assert made == [name for name in names(ROWS) if name not in faulty]
    assert len(made) == left
    assert problems == [problem]


def test_what_cannot_be_made_at_all_has_its_default() -> None:
    def make(rows: pd.DataFrame) -> list[str]:
        raise ValueError(f"of {len(rows)}")

    problems: list[str] = []
    assert make_of_sound(problems, "it", ROWS, make, ["default"]) == ["default"]
    assert problems == ["it: ValueError: of 4"]


def test_a_fault_of_some_rows_together_is_told_once() -> None:
    def make(rows: pd.DataFrame) -> list[str]:
        if len(rows) > 1:
            raise ValueError("too many")
        return names(rows)

    problems: list[str] = []
    assert make_of_sound(problems, "it", ROWS, make, list[str]()) == []
    assert problems == ["it: ValueError: too many"]
