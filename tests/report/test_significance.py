from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from qbench.report.significance import holm, interval, judge, paired


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_paired_test_is_over_common_seeds() -> None:
    a, b = [90.0, 91.0, 92.5, 90.2], [89.0, 90.5, 91.0, 90.0]
    expected = stats.ttest_rel(a, b).pvalue
    assert paired(seeds(*a), seeds(*b)) == pytest.approx(expected)
    assert paired({**seeds(*a), 7: 0.0}, {**seeds(*b), 9: 100.0}) == pytest.approx(expected)


def test_pairs_tell_apart_what_unpaired_seeds_do_not() -> None:
    a, b = [70.0, 80.0, 90.0], [69.0, 78.9, 89.1]
    assert paired(seeds(*a), seeds(*b)) < 0.01
    assert stats.ttest_ind(a, b).pvalue > 0.9


def test_without_spread_there_is_no_test() -> None:
    assert math.isnan(paired(seeds(90.0), seeds(80.0)))
    assert math.isnan(paired(seeds(90.0, 91.0), {5: 1.0, 6: 2.0}))
    assert math.isnan(paired(seeds(90.0, 91.0, 92.0), seeds(89.0, 90.0, 91.0)))
    rounded = seeds(98.8889, 99.4444, 98.3333), seeds(99.7222, 100.278, 99.1667)
    assert math.isnan(paired(*rounded))  # one difference, but for the digits of a file


def test_equal_results_are_no_difference() -> None:
    assert paired(seeds(90.0, 91.0), seeds(90.0, 91.0)) == 1.0


def test_holm_corrects_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_leaves_what_is_not_tested_out_of_the_family() -> None:
    corrected = holm([float("nan"), 0.02, 0.01])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.02, 0.02])


def test_the_interval_is_students() -> None:
    values = [90.0, 91.0, 93.0]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert 2 * interval(values) == pytest.approx(high - low)
    assert math.isnan(interval([90.0]))


@pytest.mark.parametrize(
    ("values", "claim", "verdict"),
    [
        ([69.0, 69.2, 69.1], 69.1, "reproduced"),
        ([68.0, 68.1, 68.2], 69.1, "short by 1.00"),
        ([70.0, 70.1, 70.2], 69.1, "above by 1.00"),
        ([69.0, 60.0, 75.0], 69.1, "reproduced"),
        ([69.14, 69.14], 69.1, "reproduced"),  # 69.1 is what 69.14 is rounded to
        ([69.16, 69.16], 69.1, "above by 0.06"),
        ([69.1], 69.1, "one seed"),
    ],
)
def test_a_claim_is_judged_by_the_spread_over_seeds(
    values: list[float], claim: float, verdict: str
) -> None:
    assert judge(values, claim, decimals=1).text == verdict
