"""Counts and sums of cells are those that a loop over all values would find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.functional import cell_sums
from tests.helpers.primitives import ENGINES, force

SHAPE = (4, 6, 5, 51)


def by_numpy(
    x: Tensor, thresholds: Tensor, values: Tensor, right: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and sums of one row, in float64."""
    above = (np.greater_equal if right else np.greater).outer(x.numpy(), thresholds.numpy())
    cells = above.sum(-1).ravel()
    added = values.numpy().astype(np.float64).ravel()
    size = len(thresholds) + 1
    return np.bincount(cells, minlength=size), np.bincount(cells, added, minlength=size)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_counted_and_added_up_by_cell(
    engine: str, right: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, engine)
    random = torch.Generator().manual_seed(0)
    x, values = torch.randn(2, *SHAPE, generator=random, dtype=dtype)
    x[0, 0], x[1, 0] = 0.5, -0.0  # on thresholds
    thresholds = torch.tensor([-1.0, 0.0, 0.5, 0.5, 9.0], dtype=dtype)
    layouts = (x, x.to(memory_format=torch.channels_last), x.transpose(0, 3), x[:, ::2])
    for laid_out in layouts:
        added = values if laid_out.shape == x.shape else values.transpose(0, 3)
        added = added if added.shape == laid_out.shape else values[:, ::2]
        for each in (None, added):
            counts, sums = cell_sums(laid_out, thresholds, each, right=right)
            target = laid_out if each is None else each
            expected = by_numpy(laid_out, thresholds, target, right)
            assert counts.dtype == sums.dtype == torch.float64
            assert counts.tolist() == expected[0].tolist()
            np.testing.assert_allclose(sums.numpy(), expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_row_may_have_thresholds_of_its_own(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, engine)
    x = torch.randn(5, 3, 700, generator=torch.Generator().manual_seed(0))
    thresholds = torch.tensor([-0.5, 0.25]) * torch.arange(5).unsqueeze(1)
    counts, sums = cell_sums(x, thresholds)
    assert counts.shape == sums.shape == (5, 3)
    for row in range(5):
        expected = by_numpy(x[row], thresholds[row], x[row], right=False)
        assert counts[row].tolist() == expected[0].tolist()
        np.testing.assert_allclose(sums[row].numpy(), expected[1], rtol=1e-12, atol=1e-12)


def test_the_number_of_threads_makes_no_difference() -> None:
    x, thresholds = torch.randn(300_007), torch.tensor([-1.0, 0.0, 0.3])
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(torch.stack(cell_sums(x, thresholds)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_tensor_without_values_has_empty_cells() -> None:
    counts, sums = cell_sums(torch.zeros(0), torch.tensor([0.0]))
    assert counts.tolist() == sums.tolist() == [0.0, 0.0]
