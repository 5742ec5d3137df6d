from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from qbench.report.power import (
    Resolution,
    points,
    power,
    resolutions,
    seeds_needed,
    sentence,
    smallest_difference,
)
from qbench.report.summary import records
from tests.helpers.frames import summary, trials


def simulated(difference: float, deviation: float, seeds: int, level: float, prior: int) -> float:
    """The share of drawn columns in which the moderated test finds a difference."""
    draws = np.random.default_rng(0).normal(difference, deviation, (40_000, seeds))
    variance = draws.var(axis=1, ddof=1)
    freedom = seeds - 1 + prior
    # The variance of the column is as uncertain as one of `prior` degrees of freedom.
    column = (
        deviation**2 * np.random.default_rng(1).chisquare(max(prior, 1), 40_000) / max(prior, 1)
    )
    pooled = (prior * column + (seeds - 1) * variance) / freedom
    t = np.abs(draws.mean(axis=1)) / np.sqrt(pooled / seeds)
    return float(np.mean(2 * stats.t.sf(t, freedom) < level))


@pytest.mark.parametrize(
    ("difference", "seeds", "level", "prior"),
    [(1.0, 5, 0.05, 4), (1.0, 3, 0.05, 0), (1.5, 5, 0.05 / 33, 4), (0.0, 5, 0.05, 4)],
)
def test_the_power_is_that_of_the_test(
    difference: float, seeds: int, level: float, prior: int
) -> None:
    found = power(difference, 0.8, seeds, level, prior)
    assert found == pytest.approx(simulated(difference, 0.8, seeds, level, prior), abs=0.01)


@pytest.mark.parametrize("prior", [0, 4])
def test_the_smallest_difference_has_a_power_of_80_percent(prior: int) -> None:
    found = smallest_difference(0.65, 4, 0.05 / 33, prior)
    assert power(found, 0.65, 4, 0.05 / 33, prior) == pytest.approx(0.8, abs=1e-6)


def test_the_least_number_of_seeds_has_that_power_and_one_less_has_not() -> None:
    n = seeds_needed(1.0, 1.68, 0.05, 4)
    assert power(1.0, 1.68, n, 0.05, 4) >= 0.8 > power(1.0, 1.68, n - 1, 0.05, 4)
    assert seeds_needed(0.001, 5.0, 0.05, 0) == 1000, "no more are counted"


def test_a_column_of_34_rows_and_5_seeds() -> None:
    column = Resolution("d", "m", "2/2", rows=34, seeds=5, deviation=0.82)
    assert (column.between_two, column.from_best) == pytest.approx((1.2, 2.1), abs=0.05)
    assert column.seeds_needed(1.0) == (6, 8)
    low, high = column.deviations
    freedom = 33 * 4
    assert low == pytest.approx(0.82 * np.sqrt(freedom / stats.chi2.ppf(0.95, freedom)))
    assert high == pytest.approx(0.82 * np.sqrt(freedom / stats.chi2.ppf(0.05, freedom)))


def test_few_rows_do_not_borrow_the_variance_of_the_column() -> None:
    few, many = (Resolution("d", "m", "2/2", rows, 5, 0.8) for rows in (5, 6))
    assert (few.prior, many.prior) == (0, 4)
    assert few.between_two > many.between_two


def test_the_resolution_comes_from_what_is_compared() -> None:
    cells = [trials(name, 90.0 + i, 91.1 + i, 92.3 + i * i) for i, name in enumerate("ABC")]
    (found,) = resolutions(records(summary(*cells, trials("D", 95.0, "failed", 94.0))))
    assert (found.rows, found.seeds, found.bits) == (3, 3, "1/32")
    assert resolutions(records(summary(*cells[:1]))) == []
    assert resolutions(records(summary(trials("A", 90.0), trials("B", 80.0)))) == []


def test_one_sentence_says_it() -> None:
    columns = [Resolution("d", "m", bits, 34, 5, s) for bits, s in (("1/1", 1.68), ("2/2", 0.57))]
    assert sentence(columns) == (
        "Differences that n = 5 seeds find with a power of 80 %, between two rows named beforehand "
        "(and between the best and any other row): 1/1 2.4 (4.4), 2/2 0.82 (1.5) points."
    )
    assert sentence([]) == ""


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (0.999, "1.0"), (12.34, "12.3")])
def test_points_have_two_digits(value: float, text: str) -> None:
    assert points(value) == text
