"""Decide whether values are a scale times codes, plus an offset where one is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qbench.method import BitWidth, Granularity, Integers, Levels
from qbench.quant.audit import count_levels

_ERROR = 4 * torch.finfo(torch.float32).eps  # relative error of a computed value
_SHORT, _ROWS = 32, 256  # rows up to this length are computed together, so many at a time


def has_codes(rows: Tensor, codes: Sequence[float], offset: bool) -> bool:
    """Return whether the values of every row are scale × code, or scale × code + offset.

    A value may be off by 1e-5 of the scale, and by what float32 rounds.

    Args:
        rows: Groups that have a scale and an offset of their own, (groups, values).
        codes: The codes, ascending.
        offset: Whether an offset is allowed.

    Example:
        >>> has_codes(torch.tensor([[-0.5, 0.0, 1.5]]), (-1, 0, 1, 2, 3), offset=False)
        True
        >>> has_codes(torch.tensor([[-0.5, 0.0, 1.5005]]), (-1, 0, 1, 2, 3), offset=False)
        False
    """
    c = torch.tensor(codes, dtype=torch.float64)
    if rows.shape[1] > _SHORT:
        parts = [row.unique()[None] for row in rows]
        if any(part.shape[1] > len(c) for part in parts):
            return False
    else:
        parts = list(rows.split(_ROWS))
    return all(_fit(part.detach().double(), c, offset) for part in parts)


def _fit(rows: Tensor, c: Tensor, offset: bool) -> bool:
    """Try every scale that gives codes to the largest value of a row, or to both ends of it."""
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    largest = torch.where(high > -low, high, low)
    if offset:
        gaps = c.diff()
        starts = c[:1] if torch.allclose(gaps, gaps[:1]) else c  # even codes can be shifted
        first, last = (each.flatten() for each in torch.meshgrid(starts, c, indexing="ij"))
        first, last = first[last > first], last[last > first]
        scale = (high - low) / (last - first)
        positions = (rows - low)[:, None] / scale[..., None] + first[:, None]
    else:
        scale = largest / c[c != 0]  # negative ones too
        positions = rows[:, None] / scale[..., None]
    right = torch.bucketize(positions, c).clamp(1, len(c) - 1)
    away = torch.minimum((positions - c[right - 1]).abs(), (positions - c[right]).abs())
    allowed = 1e-5 + _ERROR * (largest / scale).abs()
    fits = (away <= allowed[..., None]).all(2).any(1, keepdim=True)
    return bool((fits | (low == high if offset else largest == 0)).all())


def has_levels(
    x: Tensor,
    levels: Levels,
    width: BitWidth,
    granularity: Granularity | None = None,
    signed: bool = True,
) -> bool:
    """Return whether every group of a tensor has only values of a level set.

    Args:
        x: Quantized tensor, (out, in, …) if it is a weight.
        levels: Declared levels.
        width: Its bit-width.
        granularity: Groups that share levels; None: the declared ones.
        signed: Whether unsigned integers may be replaced by as many signed ones.
    """
    groups = granularity or levels.granularity
    codes = levels.codes(width)
    if codes is None:
        return count_levels(x, groups) <= levels.count(width)
    sets = [codes]
    if signed and isinstance(levels, Integers) and not levels.signed:
        half = 2 ** (width.bits - 1)
        sets.append((-1.0, 1.0) if half == 1 else tuple(map(float, range(-half, half))))
    return all(
        any(has_codes(rows, each, levels.offset) for each in sets) for rows in groups.split(x)
    )
