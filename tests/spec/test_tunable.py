"""Ranges to search."""

from __future__ import annotations

import pytest

from qbench.spec.tunable import Tunable


def test_values_are_uniform_or_uniform_in_the_logarithm() -> None:
    assert [Tunable(0, 10).at(share) for share in (0, 0.25, 1)] == [0, 2.5, 10]
    log = Tunable(0.01, 1, log=True)
    assert [log.at(share) for share in (0, 0.5, 1)] == [0.01, 0.1, 1]


def test_values_have_three_digits() -> None:
    assert Tunable(0, 1).at(1 / 3) == 0.333


@pytest.mark.parametrize(
    ("low", "high", "log", "words"),
    [
        (1, 1, False, "less than high, not 1 and 1"),
        (0, float("inf"), False, "less than high"),
        (0, 1, True, "low must be above 0, not 0"),
    ],
)
def test_a_range_without_values_is_refused(low: float, high: float, log: bool, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Tunable(low, high, log)
