from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qbench.report.looks import LOOKS, Neighbours, neighbours, wanted_seeds
from tests.helpers.frames import trials

SEEDS = list(range(15))
NOISE = [0.0, 0.3, -0.2, 0.1, -0.2, 0.25, -0.15, 0.05, -0.3, 0.15, 0.1, -0.1, 0.2, -0.25, 0.05]


def row(label: str, mean: float, count: int, scale: float = 1.0, **more: Any) -> pd.DataFrame:
    """A row whose differences from one without noise have the noise."""
    return trials(label, *(mean + scale * each for each in NOISE[:count]), **more)


def verdicts(*rows: pd.DataFrame, within: float = 0.1) -> list[Neighbours]:
    frame = pd.concat(rows, ignore_index=True)
    return neighbours(frame, "top1", 0, SEEDS, within)


def test_a_clear_difference_is_told_apart_at_the_first_look() -> None:
    (pair,) = verdicts(row("A", 90, 5), row("B", 80, 5, scale=0))
    assert (pair.better, pair.worse, pair.verdict, pair.seeds) == ("A", "B", "told", 5)
    assert pair.difference == pytest.approx(10)
    assert wanted_seeds([pair]) == {}


def test_a_small_difference_with_little_noise_is_tied() -> None:
    (pair,) = verdicts(row("A", 90, 5, scale=0.01), row("B", 90.004, 5, scale=0), within=1.0)
    assert pair.verdict == "tied"
    assert wanted_seeds([pair]) == {}


def test_an_open_pair_wants_the_seeds_of_the_next_look_for_both_rows() -> None:
    pairs = verdicts(row("A", 90.1, 5), row("B", 90, 5, scale=0))
    assert [pair.verdict for pair in pairs] == ["open"]
    assert wanted_seeds(pairs) == {
        ("digits", "net", "A", "1/32"): 10,
        ("digits", "net", "B", "1/32"): 10,
    }


def test_the_last_look_leaves_a_pair_open_and_wants_no_more() -> None:
    (pair,) = verdicts(row("A", 90.02, 15), row("B", 90, 15, scale=0))
    assert (pair.verdict, pair.seeds) == ("open", 15)
    assert wanted_seeds([pair]) == {}


def test_a_look_between_two_takes_the_seeds_of_the_last_complete_one() -> None:
    (pair,) = verdicts(row("A", 90.1, 9), row("B", 90, 12, scale=0))
    assert pair.seeds == 5


@pytest.mark.parametrize("count", LOOKS)
def test_each_look_has_a_level_of_its_own(count: int) -> None:
    noise = np.array(NOISE[:count])
    t = stats.t.isf(LOOKS[count] / 2, count - 1)
    critical = t * noise.std(ddof=1) / count**0.5 - noise.mean()
    for shift, verdict in ((1.01, "told"), (0.99, "open")):
        (pair,) = verdicts(row("A", 90 + shift * critical, count), row("B", 90, count, scale=0))
        assert (pair.verdict, pair.seeds) == (verdict, count)


def test_the_levels_of_the_looks_add_up_to_five_percent() -> None:
    assert sum(LOOKS.values()) == pytest.approx(0.05)


def test_a_verdict_stays_when_later_seeds_blur_it() -> None:
    blurred = [90 + each for each in NOISE[:5]] + [60.0, 99.0, 70.0, 98.0, 75.0]
    pairs = verdicts(trials("A", *blurred), row("B", 80, 10, scale=0))
    assert [(pair.verdict, pair.seeds) for pair in pairs] == [("told", 5)]


def test_rows_that_lack_seeds_of_the_first_look_have_no_pair() -> None:
    assert verdicts(row("A", 90, 4), row("B", 80, 5)) == []


def test_pairs_are_those_next_to_each_other_in_the_order_of_their_means() -> None:
    pairs = verdicts(row("C", 70, 5, 0.9), row("A", 90, 5), row("B", 80, 5, 0))
    assert [(pair.better, pair.worse) for pair in pairs] == [("A", "B"), ("B", "C")]


def test_all_pairs_of_a_look_are_corrected_together() -> None:
    rows = [row("A", 90.5, 5), row("B", 90, 5, scale=0)]
    (alone,) = verdicts(*rows)
    first, *_ = verdicts(*rows, row("C", 80.5, 5, -1), row("D", 80, 5, scale=0))
    assert (first.better, first.worse) == ("A", "B")
    assert first.p > alone.p


def test_columns_are_tested_apart() -> None:
    pairs = verdicts(
        *(row("A", 90, 5, bits=bits) for bits in ("1/1", "2/2")),
        *(row("B", 80, 5, scale=0, bits=bits) for bits in ("1/1", "2/2")),
    )
    assert [pair.bits for pair in pairs] == ["1/1", "2/2"]


def test_rows_that_are_the_same_function_count_once() -> None:
    same = {"test_loss": 0.5}
    pairs = verdicts(
        row("A", 90, 5, **same), row("A again", 90, 5, **same), row("B", 80, 5, 0, test_loss=0.7)
    )
    assert [(pair.better, pair.worse) for pair in pairs] == [("A", "B")]
