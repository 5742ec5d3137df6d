"""Hardened weights as codes and the few numbers from which their levels are computed.

A form says how the levels of a group follow from its numbers. With the codes ``g`` that the index
of a file lists once, and float32 arithmetic that rounds after each operation:

- ``constants``: level = g. No number.
- ``scale``: level = g × s. One number.
- ``zero_point``: level = (g − z) × s. Two numbers, s and z; z is an integer.
- ``offset``: level = g × s + b. Two numbers, s and b.
- ``signs``: level = a, 0 or b. Two numbers, the negative level and the positive one.
- ``table``: level = the number with the index of the code.

`pack_weight` accepts a form only if it gives the weight to the bit. It tries the forms with as many
numbers as the method declares (`qbench.spec.levels.Levels.numbers`), then those with more. So what
a file takes is what the cost of a network counts, unless a network does not have its declared
levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qbench.errors import QbenchError
from qbench.spec.bits import FLOAT_BITS, BitWidth
from qbench.spec.granularity import Granularity
from qbench.spec.levels import Levels

Form = Literal["constants", "scale", "zero_point", "offset", "signs", "table"]
NUMBERS: dict[Form, int] = {"constants": 0, "scale": 1, "zero_point": 2, "offset": 2, "signs": 2}
"""Numbers of a group in each form. A ``table`` has one for each level instead."""

_ULPS = 4  # how far from its estimate a number is searched
_NEAR = 1e-3  # deviation from a grid, in codes, that may be rounding of an estimate


def packed_bytes(count: int, groups: int, width: BitWidth, levels: Levels) -> int:
    """Return the size of a packed weight.

    Args:
        count: Number of weights.
        groups: Number of groups with levels of their own.
        width: Bit-width of the codes.
        levels: Declared levels.

    Returns:
        Bytes of the codes, padded to a whole byte, and of the numbers of the groups.

    Example:
        >>> from qbench.spec.levels import Integers
        >>> packed_bytes(9, 2, BitWidth(4), Integers())
        13
    """
    return -(-count * width.bits // 8) + groups * levels.numbers(width) * FLOAT_BITS // 8


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight as codes, and the numbers of its groups.

    Attributes:
        codes: Index of each weight's level, uint8, shape of the weight, output channels first.
        bits: Bits of a code.
        granularity: Groups of weights with levels of their own.
        form: How levels follow from the numbers.
        grid: The codes ``g`` of the form, by index. Empty for ``signs`` and ``table``.
        numbers: Numbers of each group, (groups, n), float32.
    """

    codes: Tensor
    bits: int
    granularity: Granularity
    form: Form
    grid: tuple[float, ...]
    numbers: Tensor

    @property
    def size(self) -> int:
        """Bytes of the codes and the numbers."""
        return -(-self.codes.numel() * self.bits // 8) + 4 * self.numbers.numel()

    def levels(self) -> Tensor:
        """Return the levels of each group, (groups, levels), float32."""
        return levels_of(self.form, self.grid, self.numbers)

    def weight(self) -> Tensor:
        """Return the weight, float32, output channels first."""
        groups = group_numbers(self.codes, self.granularity)
        return self.levels()[groups, self.codes.long()]


def levels_of(form: Form, grid: tuple[float, ...], numbers: Tensor) -> Tensor:
    """Return the levels of groups.

    Args:
        form: How they follow from the numbers.
        grid: The codes ``g``, by index.
        numbers: Numbers of each group, (groups, n), float32.

    Returns:
        (groups, levels), float32.
    """
    g = torch.tensor(grid, dtype=torch.float32)[None]
    match form:
        case "constants":
            found = g.expand(len(numbers), -1)
        case "scale":
            found = g * numbers[:, :1]
        case "zero_point":
            found = (g - numbers[:, 1:]) * numbers[:, :1]
        case "offset":
            found = g * numbers[:, :1] + numbers[:, 1:]
        case "signs":
            found = torch.stack([numbers[:, 0], torch.zeros(len(numbers)), numbers[:, 1]], 1)
        case "table":
            found = numbers
    return found + 0.0  # −0 becomes 0


def group_numbers(weight: Tensor, granularity: Granularity) -> Tensor:
    """Return the number of each weight's group, int64, shape of the weight.

    Args:
        weight: Weight or its codes, output channels first.
        granularity: The groups.
    """
    first = 0

    def numbered(rows: Tensor) -> Tensor:
        nonlocal first
        first += len(rows)
        return torch.arange(first - len(rows), first)

    return granularity.map(weight, numbered).expand(weight.shape)


def pack_weight(
    weight: Tensor, width: BitWidth, levels: Levels, granularity: Granularity | None = None
) -> PackedWeight:
    """Pack a hardened weight.

    Args:
        weight: The weight, float32, output channels first. −0 counts as 0.
        width: Its bit-width.
        levels: Its declared levels.
        granularity: Groups of weights with levels of their own. Default: the declared ones.

    Returns:
        The packed weight, in the first form that gives the weight to the bit.

    Raises:
        QbenchError: A group has more levels than codes.

    Example:
        >>> from qbench.spec.levels import Integers
        >>> packed = pack_weight(torch.tensor([[0.5, -1.5]]), BitWidth(3), Integers())
        >>> packed.form, packed.numbers.tolist(), packed.weight().tolist()
        ('scale', [[0.5]], [[0.5, -1.5]])
    """
    granularity = levels.granularity if granularity is None else granularity
    weight = weight.detach().to("cpu", torch.float32) + 0.0
    groups = group_numbers(weight, granularity)
    distinct = _distinct(weight.flatten(), groups.flatten(), levels.count(width))
    declared = levels.numbers(width)
    for form, grid, numbers in _forms(distinct, width, levels):
        if NUMBERS.get(form, declared) < declared:
            continue
        table = levels_of(form, grid, numbers)
        codes = _codes(weight, groups, table)
        if codes is not None:
            return PackedWeight(codes, width.bits, granularity, form, grid, numbers)
    raise AssertionError("a table gives every weight")


def _distinct(values: Tensor, groups: Tensor, most: int) -> Tensor:
    """Return the distinct values of each group, ascending, (groups, n); short rows repeat the last.

    Raises:
        QbenchError: A group has more than ``most``.
    """
    order = torch.argsort(values, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    values, groups = values[order], groups[order]
    new = torch.ones_like(groups, dtype=torch.bool)
    new[1:] = (values[1:] != values[:-1]) | (groups[1:] != groups[:-1])
    values, groups = values[new], groups[new]
    counts = torch.bincount(groups)
    width = int(counts.max())
    if width > most:
        raise QbenchError(f"it has {width} levels, and its codes stand for {most}")
    column = torch.arange(width).minimum(counts[:, None] - 1)
    return values[(counts.cumsum(0) - counts)[:, None] + column]


def _codes(weight: Tensor, groups: Tensor, table: Tensor) -> Tensor | None:
    """Return the index of each weight's level; None if a weight is no level."""
    ordered, order = table.sort(1)
    rows, row_of = ordered, groups
    if len(table) == 1:
        place = torch.searchsorted(ordered[0], weight.contiguous())
    else:
        place = torch.zeros_like(groups)
        for column in range(rows.shape[1]):
            place += rows[row_of, column] < weight
    place = place.clamp(max=table.shape[1] - 1)
    if not torch.equal(ordered[groups, place], weight):
        return None
    return order[groups, place].to(torch.uint8)


def _forms(
    distinct: Tensor, width: BitWidth, levels: Levels
) -> Iterator[tuple[Form, tuple[float, ...], Tensor]]:
    """Yield forms with the numbers that they would have, fewest numbers first."""
    none = torch.empty(len(distinct), 0)
    codes = levels.codes(width)
    if levels.numbers(width) == 0:
        if codes is not None:
            yield "constants", codes, none
        every = distinct.unique()
        if len(every) <= 2**width.bits:
            yield "constants", tuple(every.tolist()), none
    if codes is not None:
        if (scale := scale_of(distinct, codes)) is not None:
            yield "scale", codes, scale[:, None]
        if (found := _zero_points(distinct, width, codes)) is not None:
            yield "zero_point", codes, found
        if (found := _offsets(distinct, 2**width.bits)) is not None:
            yield "offset", tuple(map(float, range(2**width.bits))), found
    if distinct.shape[1] <= 3 and width.bits > 1:  # three codes
        yield "signs", (), torch.stack([distinct.amin(1), distinct.amax(1)], 1)
    more = max(levels.numbers(width), levels.count(width)) - distinct.shape[1]
    yield "table", (), torch.cat([distinct, distinct[:, -1:].expand(-1, more)], 1)


def scale_of(distinct: Tensor, codes: Iterable[float]) -> Tensor | None:
    """Return the scale with which the values of each group are codes × scale, (groups,), or None.

    The largest value of a group over one of the codes estimates its scale.
    """
    ends = distinct[:, -1], distinct[:, 0]
    largest = torch.where(ends[0].abs() >= ends[1].abs(), *ends)
    # A positive scale is found first where codes of both signs fit.
    grid = torch.tensor(sorted(codes))
    found = torch.ones(len(distinct))  # any scale does for zeros
    rest = largest != 0
    for code in sorted((c for c in grid.tolist() if c), key=lambda c: (abs(c), -c)):
        near = rest & (_deviation(distinct, largest / code, grid) < _NEAR)
        for scale in _nearby(largest / code) if near.any() else ():
            values = _nearest(distinct.double() / scale.double()[:, None], grid) * scale[:, None]
            good = near & rest & (values + 0.0 == distinct).all(1)
            found[good] = scale[good]
            rest &= ~good
        if not rest.any():
            return found
    return None


def _deviation(values: Tensor, scale: Tensor, grid: Tensor) -> Tensor:
    """Return the largest distance of each group's values from a grid, in codes, (groups,)."""
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    wanted = values.double() / safe.double()[:, None]
    return (wanted - _nearest(wanted, grid)).abs().amax(1)


def _nearest(wanted: Tensor, grid: Tensor) -> Tensor:
    """Return the codes of an ascending grid that are nearest to values, float32."""
    return grid[torch.bucketize(wanted, (grid[1:].double() + grid[:-1].double()) / 2)]


def _nearby(estimate: Tensor) -> list[Tensor]:
    """Return an estimate and the floats around it, the nearest first."""
    found = [estimate]
    up = down = estimate.numpy()
    for _ in range(_ULPS):
        up = np.nextafter(up, np.float32(np.inf))
        down = np.nextafter(down, np.float32(-np.inf))
        found += [torch.from_numpy(up), torch.from_numpy(down)]
    return found


def _zero_points(distinct: Tensor, width: BitWidth, codes: tuple[float, ...]) -> Tensor | None:
    """Return s and z of each group, (groups, 2), or None. Codes must be consecutive integers."""
    count = 2**width.bits
    if any(b - a != 1 for a, b in itertools.pairwise(codes)):
        return None
    scale = scale_of(distinct, map(float, range(-count, count + 1)))
    if scale is None:
        return None
    steps = (distinct / scale[:, None]).round()
    below, above = codes[0] - steps.amin(1), codes[-1] - steps.amax(1)
    return torch.stack([scale, below.clamp(min=0) + above.clamp(max=0)], 1)


def _offsets(distinct: Tensor, count: int) -> Tensor | None:
    """Return s and b of each group, (groups, 2), or None. The smallest levels may be unused."""
    found = [offset_of(row.unique(), count) for row in distinct]
    return torch.stack(found) if all(each is not None for each in found) else None  # type: ignore[arg-type]


def offset_of(values: Tensor, count: int) -> Tensor | None:
    """Return s and b with which values, ascending, are i × s + b for i below a count, or None."""
    span, grid = values[-1:] - values[:1], torch.arange(float(count))
    if span == 0:
        return torch.stack([torch.ones(()), values[0]])
    for steps in range(1, count):
        rising = values - values[0]
        if _deviation(rising[None], span / steps, grid) >= _NEAR:
            continue
        scales = torch.cat(_nearby(span / steps))
        codes = (rising.double() / (span / steps).double()).round().float()
        for unused in range(count - steps):
            bases = torch.stack(_nearby(values[0] - unused * scales))  # (nearby, scales)
            fits = ((codes + unused) * scales[:, None] + bases[..., None] + 0.0 == values).all(2)
            if fits.any():
                base, scale = fits.nonzero()[0]
                return torch.stack([scales[scale], bases[base, scale]])
        return None
    return None
