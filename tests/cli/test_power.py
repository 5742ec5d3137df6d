from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import QbenchHere
from tests.helpers.exchanged import BEFORE, filled


def test_it_says_what_the_seeds_find_and_what_finer_differences_need(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    filled(small_suite, elsewhere, BEFORE, slope={"ste": 0.5})
    words = ("power", small_suite, "--results", elsewhere, "--difference", 1)
    told = qbench_here(*words)
    assert "points that the seeds find, power 80 %" in told
    assert "Seeds that find 1 points" in told
    assert "0.5 points" not in told
    (column, *_) = json.loads(qbench_here(*words, "--json"))
    low, high = column["deviation_90"]
    assert low < column["deviation"] < high
    assert column["between_two"] <= column["from_best"]
    (finer,) = column["finer"]
    assert finer["points"] == 1.0
    least, most = finer["seeds_between_two"]
    assert 2 <= least <= most
    more = json.loads(qbench_here(*words[:-1], 0.5, "--json"))[0]["finer"][0]
    assert more["seeds_between_two"][1] > most


def test_without_two_seeds_it_says_why_it_cannot(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    told = qbench_here("power", small_suite, "--results", elsewhere)
    assert "No column has two rows over two seeds or more" in told


def test_a_difference_is_more_than_nothing(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    told = qbench_here("power", small_suite, "--results", elsewhere, "--difference", 0, code=2)
    assert "--difference" in told
