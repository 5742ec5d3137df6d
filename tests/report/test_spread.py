from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from qbench.report.spread import allowed_difference

ITEMS = 10_000


def test_the_limit_is_that_of_the_moderated_t() -> None:
    rows = [[82.0, 83.0, 81.5], [70.0, 70.5, 71.5], [60.0, 60.2, 60.9]]
    others = [83.0, 81.5]
    typical = [np.var(row, ddof=1) / (stats.chi2.ppf(0.5, 2) / 2) for row in rows]
    variance = (4 * np.median(typical) + np.var(others, ddof=1)) / 5
    expected = stats.t.ppf(0.995, 5) * math.sqrt(2 * variance)
    assert allowed_difference(82.0, others, rows, ITEMS) == pytest.approx(expected)


def test_it_is_rarely_exceeded_by_another_seed() -> None:
    random = np.random.default_rng(0)
    beyond, draws = 0, 2000
    for _ in range(draws):
        rows = 80 + 0.6 * random.standard_normal((8, 3))
        own, *others = rows[0]
        found = 80 + 0.6 * random.standard_normal()
        beyond += abs(found - own) > allowed_difference(own, others, rows.tolist(), ITEMS)
    assert beyond / draws < 0.02


def test_without_other_seeds_images_alone_judge() -> None:
    limit = allowed_difference(90.0, [], [[90.0]], ITEMS)
    assert limit == pytest.approx(2.58 * math.sqrt(2 * 4 * 0.09), rel=1e-6)


def test_it_is_never_zero() -> None:
    same = [[90.0, 90.0, 90.0], [80.0, 80.0, 80.0]]
    assert allowed_difference(90.0, [90.0, 90.0], same, 360) > 2
    assert allowed_difference(100.0, [], [], 0) > 0
