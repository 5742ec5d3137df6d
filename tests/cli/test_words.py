from __future__ import annotations

import pytest

from qbench.cli.words import duration, rounded, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.3, "0.3 s"),
        (40, "40 s"),
        (89.7, "90 s"),
        (100, "1.7 min"),
        (3 * 60, "3 min"),
        (9000, "2.5 h"),
        (47 * 3600, "47 h"),
        (4.12 * 86400, "4.1 days"),
        (410 * 86400, "410 days"),
        (13316.5 * 86400, "36 years"),
    ],
)
def test_a_duration_has_two_significant_digits(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.254, "0.25"), (4.12, "4.1"), (99.6, "100"), (136340.3, "140,000")],
)
def test_a_number_has_two_significant_digits(value: float, text: str) -> None:
    assert rounded(value) == text


def test_bytes_have_a_unit() -> None:
    assert (size(310 * 2**20), size(3 * 2**29)) == ("310 MiB", "1.5 GiB")
