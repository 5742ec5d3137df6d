"""Ternary Weight Networks (Li, Zhang, Liu, 2016, arXiv:1605.04711), Eq. 3 to 6."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.quantizers import quantized_weight
from tests.helpers.tensors import Array, gaussian_quantiles, normal


def groups_of(w: torch.Tensor, scope: str) -> list[Array]:
    """Return views of the weights that share a scale."""
    filters = list(w.numpy().reshape(len(w), -1))
    if scope == "per_group(10)":
        return [part for row in filters for part in np.split(row, range(10, len(row), 10))]
    return filters if scope == "filter" else [w.numpy().reshape(-1)]


@pytest.mark.parametrize("scope", ["layer", "filter", "per_group(10)"])
@pytest.mark.parametrize("factor", [0.7, 0.4])
def test_twn_keeps_weights_above_the_threshold_at_their_mean_size(
    factor: float, scope: str
) -> None:
    w = normal(6, 4, 3, 3)
    expected = torch.zeros_like(w)
    for row, out in zip(groups_of(w, scope), groups_of(expected, scope), strict=True):
        delta = factor * np.abs(row).mean()
        out[row > delta], out[row < -delta] = 1, -1
        out *= np.abs(row)[np.abs(row) > delta].mean()
    found = quantized_weight("twn", w, 2, threshold=factor, scope=scope)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)


def test_a_weight_on_twn_threshold_becomes_zero() -> None:
    # The mean size is 2, so with a factor of one half the threshold is 1.
    w = torch.tensor([[1.0, -1.0, 3.0, -3.0]], dtype=torch.float64)
    assert quantized_weight("twn", w, 2, threshold=0.5).tolist() == [[0, 0, 3, -3]]


def test_twn_scale_is_the_least_squares_one_for_its_codes() -> None:
    w = normal(1, 500)
    w_q = quantized_weight("twn", w, 2)
    codes = np.sign(w_q)
    scale = (w.numpy() * codes).sum() / (codes**2).sum()
    np.testing.assert_allclose(w_q, scale * codes, rtol=1e-12)


def test_twn_makes_the_expected_share_of_a_gaussian_zero() -> None:
    w_q = quantized_weight("twn", gaussian_quantiles(100_000)[None], 2)
    assert (w_q == 0).mean() == pytest.approx(0.4235, abs=0.001)


def test_twn_lies_between_the_best_ternary_weight_and_the_binary_one() -> None:
    w = gaussian_quantiles(2000)[None]
    sizes = np.sort(np.abs(w.numpy()[0]))[::-1]
    kept = np.cumsum(sizes) ** 2 / np.arange(1, 2001)  # what keeping the largest k explains
    best = ((sizes**2).sum() - kept.max()) / 2000
    ternary = ((w.numpy() - quantized_weight("twn", w, 2)) ** 2).mean()
    binary = ((w.numpy() - quantized_weight("bwn", w, 1)) ** 2).mean()
    assert best <= ternary < binary
    assert ternary == pytest.approx(best, rel=0.03)


def test_twn_of_an_all_zero_weight_is_zero() -> None:
    assert not quantized_weight("twn", torch.zeros(2, 3, dtype=torch.float64), 2).any()
