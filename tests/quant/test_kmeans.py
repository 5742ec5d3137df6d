"""k-means in one dimension, against the exact optimum in NumPy and against scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from qbench.functional import kmeans_1d

Array = np.ndarray[Any, np.dtype[np.float64]]
KINDS = ("normal", "laplace", "heavy_tailed", "log_normal", "half_normal", "relu", "uniform")


def sample(kind: str, count: int) -> Array:
    random = np.random.default_rng(0)
    drawn = {
        "normal": random.normal(size=count),
        "laplace": random.laplace(size=count),
        "heavy_tailed": random.standard_t(2, size=count),
        "log_normal": random.lognormal(size=count),
        "half_normal": np.abs(random.normal(size=count)),
        "relu": np.maximum(random.normal(size=count), 0),
        "uniform": random.uniform(-1, 3, size=count),
    }
    return drawn[kind]


def inertia(values: Array, centres: Array) -> float:
    """Return the sum of squared distances to the nearest centre."""
    midpoints = (centres[1:] + centres[:-1]) / 2
    nearest = centres[np.searchsorted(midpoints, values)]
    return float(((values - nearest) ** 2).sum())


def least_inertia(values: Array, clusters: int) -> float:
    """Return the least inertia that any centres have, by dynamic programming on all values."""
    x = np.sort(values)
    end = np.arange(len(x) + 1)
    sums, squares = (np.concatenate([[0.0], v.cumsum()]) for v in (x, x**2))
    count = np.maximum(end - end[:, None], 1)
    of_run = squares - squares[:, None] - (sums - sums[:, None]) ** 2 / count
    of_run[end < end[:, None]] = np.inf
    least = of_run[0]
    for _ in range(clusters - 1):
        least = (least[:, None] + of_run).min(0)
    return float(least[-1])


@pytest.mark.parametrize("clusters", [2, 3, 7, 16, 31, 64, 256])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [40, 216, 700])
def test_few_values_are_clustered_with_the_least_inertia(
    kind: str, count: int, clusters: int
) -> None:
    values = sample(kind, count)
    found = inertia(values, kmeans_1d(torch.from_numpy(values), clusters).numpy())
    least = least_inertia(values, clusters) if clusters < len(np.unique(values)) else 0.0
    assert found == pytest.approx(least, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "clusters"),
    [*itertools.product(KINDS, [2, 3, 7, 31]), ("normal", 256), ("heavy_tailed", 256)],
)
def test_many_values_are_clustered_within_a_percent_of_the_least_inertia(
    kind: str, clusters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = sample(kind, 20_000)
    found = inertia(values, kmeans_1d(torch.from_numpy(values), clusters).numpy())
    monkeypatch.setattr("qbench.quant.kmeans._BLOCKS", len(values))  # which is exact, as above
    exact = inertia(values, kmeans_1d(torch.from_numpy(values), clusters).numpy())
    assert found <= 1.01 * exact


@pytest.mark.parametrize("clusters", [4, 16])
@pytest.mark.parametrize("kind", ["normal", "relu"])
def test_scikit_learn_finds_nothing_better(kind: str, clusters: int) -> None:
    values = sample(kind, 5_000)
    found = inertia(values, kmeans_1d(torch.from_numpy(values), clusters).numpy())
    reference = KMeans(clusters, n_init=10, random_state=0).fit(values[:, None])
    assert found <= reference.inertia_ * (1 + 1e-9)


def test_values_far_from_zero_keep_their_digits() -> None:
    values = sample("normal", 1000)
    far = kmeans_1d(torch.from_numpy(values + 1e7), 6) - 1e7
    torch.testing.assert_close(far, kmeans_1d(torch.from_numpy(values), 6), rtol=0, atol=1e-6)


def test_a_dense_group_and_a_value_far_away_are_told_apart() -> None:
    values = np.append(1e-9 * np.random.default_rng(0).random(100_000), 1.0)
    centres = kmeans_1d(torch.from_numpy(values), 3).tolist()
    assert centres == pytest.approx([0.25e-9, 0.75e-9, 1], rel=0.02)


def test_well_separated_groups_are_found() -> None:
    values = torch.tensor([[0.0, 10.1, 20.2], [9.9, 19.8, 0.2], [20.0, -0.2, 10.0]])
    assert kmeans_1d(values, 3).tolist() == pytest.approx([0, 10, 20])


def test_one_cluster_is_the_mean() -> None:
    values = torch.from_numpy(sample("half_normal", 100))
    assert kmeans_1d(values, 1).tolist() == pytest.approx([float(values.mean())])


def test_with_fewer_values_than_clusters_the_other_centres_lie_evenly_between() -> None:
    values = torch.tensor([0.0, 0.0, 0.6, 0.6, 0.1], dtype=torch.float64)
    assert kmeans_1d(values, 2).tolist() == pytest.approx([1 / 30, 0.6], abs=1e-12)
    assert kmeans_1d(values, 5).tolist() == pytest.approx([0, 0.1, 0.2, 0.4, 0.6], abs=1e-12)


def test_equal_values_have_equal_centres() -> None:
    assert kmeans_1d(torch.full((5,), 0.25), 3).tolist() == [0.25, 0.25, 0.25]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_computation_is_in_float64_whatever_is_given(dtype: torch.dtype) -> None:
    values = torch.from_numpy(sample("normal", 500)).to(dtype)
    centres = kmeans_1d(values.requires_grad_(), 4)
    assert centres.dtype == torch.float64
    assert not centres.requires_grad
    torch.testing.assert_close(centres, kmeans_1d(values.detach().double(), 4))


def test_the_order_of_values_does_not_matter_and_they_are_not_changed() -> None:
    values = torch.from_numpy(sample("normal", 300))
    before = values.clone()
    assert torch.equal(kmeans_1d(values, 5), kmeans_1d(values, 5))
    assert torch.equal(values, before)
    shuffled = values[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(kmeans_1d(shuffled, 5), kmeans_1d(values, 5))


def test_every_centre_is_the_mean_of_the_values_nearest_to_it() -> None:
    values = sample("laplace", 20_000)
    centres = kmeans_1d(torch.from_numpy(values), 7, iterations=3000).numpy()
    nearest = np.abs(values[:, None] - centres).argmin(1)
    means = [values[nearest == i].mean() for i in range(7)]
    np.testing.assert_allclose(centres, means, rtol=1e-9)


def test_lloyds_algorithm_stops_when_told() -> None:
    values = torch.from_numpy(sample("half_normal", 20_000))
    start = kmeans_1d(values, 31, iterations=0)
    once = kmeans_1d(values, 31, iterations=1)
    assert not torch.equal(once, start)
    assert not torch.equal(once, kmeans_1d(values, 31))
