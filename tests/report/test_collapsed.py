from __future__ import annotations

import pytest

from qbench.report.collapsed import collapsed

GUESS, FAR = "no better than guessing", "far below the other seeds"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([82.0, 83.0, 10.0], {2: GUESS}),
        ([82.0, 83.0, 10.8], {2: GUESS}),  # within three standard errors of 10,000 images
        ([82.0, float("nan")], {1: GUESS}),
        ([82.0, 83.0, 60.0], {2: FAR}),
        ([82.0, 83.0, 78.0], {}),  # less than six standard deviations of the others
        ([82.0, 82.1, 76.9], {2: FAR}),
        ([82.0, 82.1, 77.2], {}),  # less than five points
        ([82.0, 83.0, 77.0, 76.9, 82.5, 83.5, 82.2], {}),  # two apart spread the others
        ([82.0, 82.2, 82.1, 76.0, 82.3], {3: FAR}),
        ([82.0, 60.0, float("nan")], {2: GUESS}),
        ([82.0, 60.0], {}),  # which of two is usual is not known
        ([10.0, 10.0, 10.0], {0: GUESS, 1: GUESS, 2: GUESS}),
        ([], {}),
    ],
)
def test_what_guesses_or_lies_far_below_has_collapsed(
    values: list[float], found: dict[int, str]
) -> None:
    assert collapsed(dict(enumerate(values)), chance=10.0, items=10_000) == found


def test_without_knowing_the_data_only_the_other_seeds_tell() -> None:
    values = {3: 9.0, 4: 82.0, 5: 83.0}
    assert collapsed(values, chance=float("nan"), items=0) == {3: FAR}
