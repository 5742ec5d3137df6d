"""Granularities: which values share a scale, compared with loops over the groups."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from qbench.spec.granularity import (
    Granularity,
    PerChannel,
    PerGroup,
    PerTensor,
    parse_granularity,
    scope_of,
)

W = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))


def groups_of(granularity: Granularity, w: Tensor) -> list[Tensor]:
    """Return the flat indices of each group."""
    indices = torch.arange(w.numel()).view(w.shape)
    if isinstance(granularity, PerTensor):
        return [indices.flatten()]
    if isinstance(granularity, PerChannel):
        return [channel.flatten() for channel in indices.unbind(granularity.axis)]
    return [part for row in indices.flatten(1) for part in row.split(granularity.size)]


SIZES = (1, 9, 10, 27, 64)
ALL = [PerTensor(), PerChannel(), PerChannel(1), *map(PerGroup, SIZES)]


@pytest.mark.parametrize("granularity", ALL, ids=str)
@pytest.mark.parametrize("function", [torch.mean, torch.amax, torch.amin, torch.sum])
def test_each_group_is_reduced_by_itself(granularity: Granularity, function: object) -> None:
    found = granularity.reduce(W, function).expand_as(W).flatten()  # type: ignore[arg-type]
    for group in groups_of(granularity, W):
        expected = function(W.flatten()[group], (0,))  # type: ignore[operator]
        assert torch.allclose(found[group], expected.expand(len(group)))


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_any_function_of_the_groups_can_be_mapped(granularity: Granularity) -> None:
    found = granularity.map(W, lambda rows: rows.median(1).values).expand_as(W).flatten()
    for group in groups_of(granularity, W):
        assert (found[group] == W.flatten()[group].median()).all()


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_any_function_can_be_applied_to_the_groups(granularity: Granularity) -> None:
    found = granularity.apply(W, lambda rows: rows.cumsum(1))
    assert found.shape == W.shape
    for group in groups_of(granularity, W):
        expected = W.flatten()[group].cumsum(0)
        torch.testing.assert_close(found.flatten()[group], expected)


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_groups_are_counted_short_ones_included(granularity: Granularity) -> None:
    expected = groups_of(granularity, W)
    assert granularity.groups(W.shape) == len(expected)
    rows = [row for rows in granularity.split(W) for row in rows]
    assert sorted(row.sort().values.tolist() for row in rows) == sorted(
        W.flatten()[group].sort().values.tolist() for group in expected
    )


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_gradients_pass_a_reduction(granularity: Granularity) -> None:
    w = W.clone().requires_grad_()
    granularity.reduce(w, torch.mean).sum().backward()
    assert w.grad is not None
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_a_granularity_is_written_as_it_is_read(granularity: Granularity) -> None:
    assert parse_granularity(str(granularity)) == granularity
    assert parse_granularity(scope_of(granularity)) == granularity


def test_results_keep_the_words_of_earlier_versions() -> None:
    assert scope_of(PerTensor()) == "layer"
    assert scope_of(PerChannel()) == "filter"
    assert scope_of(PerGroup(64)) == "per_group(64)"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("leyer", "did you mean 'layer'"),
        ("per_chanel", "'per_channel'"),
        ("per_group", "per_group(64)"),
        (3, "write per_tensor"),
        ("per_group(0)", "at least 1 weight"),
    ],
)
def test_what_is_no_granularity_is_refused_with_a_hint(text: object, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse_granularity(text)
