from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from qbench.report.significance import PairedTests, holm, interval, judge, paired


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


def column(rows: int, n: int, *, seed: int = 0, deviation: float = 1.0) -> np.ndarray:
    return 80 + np.random.default_rng(seed).normal(0, deviation, (rows, n))


def paired_tests(values: np.ndarray, items: int = 0) -> PairedTests:
    return PairedTests([seeds(*row) for row in values], items)


def test_the_variance_of_a_pair_is_shrunk_towards_that_of_the_column() -> None:
    values = column(8, 5)
    pairs = [(a, b) for a in range(8) for b in range(a + 1, 8)]
    spreads = [np.var(values[a] - values[b], ddof=1) for a, b in pairs]
    prior = np.median(spreads) / (stats.chi2.ppf(0.5, 4) / 4)
    found = paired_tests(values)
    assert found.variance == pytest.approx(prior)
    difference = values[2] - values[6]
    pooled = (4 * prior + 4 * difference.var(ddof=1)) / 8
    t = abs(difference.mean()) / np.sqrt(pooled / 5)
    expected = max(2 * stats.t.sf(t, 8), stats.ttest_rel(values[2], values[6]).pvalue)
    assert found.uncorrected(2, 6) == found.uncorrected(6, 2) == pytest.approx(expected)
    assert found.half_width(2, 6) == pytest.approx(stats.t.ppf(0.975, 8) * np.sqrt(pooled / 5))


def test_fewer_than_six_rows_are_tested_by_the_ordinary_test() -> None:
    values = column(5, 4)
    expected = stats.ttest_rel(values[0], values[3]).pvalue
    assert paired_tests(values).uncorrected(0, 3) == pytest.approx(expected)


def test_a_pair_noisier_than_the_column_has_to_pass_the_ordinary_test() -> None:
    values = column(8, 3, deviation=0.05)
    values[0] = [70.0, 85.0, 94.0]
    ordinary = stats.ttest_rel(values[0], values[1]).pvalue
    assert paired_tests(values).uncorrected(0, 1) == pytest.approx(ordinary)
    assert paired_tests(values).corrected([(0, 1)]) == pytest.approx([ordinary])


def test_the_same_difference_in_every_seed_is_judged_by_the_column() -> None:
    values = column(8, 3, deviation=0.3)
    values[1] = values[0] + 5.0
    assert paired_tests(values).uncorrected(0, 1) < 0.01
    assert math.isnan(paired_tests(values[:2]).uncorrected(0, 1)), "alone it cannot be judged"


def test_a_column_without_spread_is_judged_by_its_number_of_images() -> None:
    values = np.array([[90.0 - i] * 3 for i in range(8)])
    assert math.isnan(paired_tests(values).uncorrected(0, 1))
    variance = 1e4 * 0.01 / 360  # one in a hundred images differs, at least
    t = 1.0 / np.sqrt(4 * variance / 6 / 3)
    assert paired_tests(values, 360).uncorrected(0, 1) == pytest.approx(2 * stats.t.sf(t, 6))
    assert paired_tests(values, 360).uncorrected(0, 7) < paired_tests(values, 360).uncorrected(0, 1)


def test_ranks_are_those_that_all_pairs_leave_open() -> None:
    values = column(6, 5, deviation=0.1)
    values[0] += 20
    values[1:4] += 10
    assert paired_tests(values).ranks() == [(1, 1), (2, 4), (2, 4), (2, 4), (5, 6), (5, 6)]


def test_a_row_of_other_seeds_is_compared_with_nobody() -> None:
    rows = [seeds(*row) for row in column(6, 3)]
    found = PairedTests([*rows, {10: 1.0, 11: 2.0}])
    assert math.isnan(found.uncorrected(0, 6))
    assert found.ranks()[6] == (1, 7)
    assert PairedTests([]).ranks() == []


def test_equal_rows_are_seldom_told_apart() -> None:
    """34 rows of unequal deviations and a collapsed seed: at most 5 % of columns err."""
    wrong = 0
    for draw in range(200):
        generator = np.random.default_rng(draw)
        values = 80 + generator.normal(0, generator.uniform(0.3, 1.5, (34, 1)), (34, 5))
        values[0, 0] -= 30
        found = paired_tests(values)
        pairs = [(a, b) for a in range(34) for b in range(a + 1, 34)]
        wrong += min(found.corrected(pairs)) < 0.05
    assert wrong <= 16  # of 200: 5 % and three standard errors


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
