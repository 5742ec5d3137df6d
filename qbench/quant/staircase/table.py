"""Table of the soft staircase as a function of u = βx, for one temperature.

The sum of sigmoids costs a sigmoid per step and element. Reading a table costs the same for any
number of steps. A step further than 18/T from u is saturated to the precision of float32.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# |T(u − b)| beyond which a sigmoid is 0 or 1: e^−18 is a quarter of the precision of float32.
_SATURATED = 18.0
_CELLS_PER_WIDTH = 8  # of a dense table, per 1/T: the cubics are then within 1e-7 of a step
_MIN_DENSE_CELLS = 2**12  # fewer are no faster
_PREFERRED_DENSE_CELLS = 2**15  # up to which a dense table is preferred
_SPARSE_CELLS = 2**12
_MAX_CELLS = 2**20  # of any table


@dataclass(frozen=True)
class Table:
    """Table of F(u) = Σ s_i σ(T(u − b_i)) − o over evenly spaced cells of u.

    A dense table holds a cubic for each cell, which has the values F and F′ at both ends of the
    cell. A sparse table holds for each cell the one step that is not saturated near it, and the
    step is computed by its formula. It serves where T is so high that a dense table would be too
    large: no two steps are then near the same cell.

    Attributes:
        rows: Content, float32. Dense: (cells + 2, 4), coefficients of 1, t, t², t³, with t the
            position in the cell, from 0 to 1; the first and the last row are constant. Sparse:
            (cells + 2, 2), threshold of the step and height below it.
        scale: Height of each step of a sparse table; 0 for a dense one.
        low: u at the left end of the cells.
        per_unit: Number of cells per unit of u.
        temperature: T.
        numbers: ``low``, ``per_unit``, ``temperature`` and ``scale``, (4,), on the device of
            ``rows``.
    """

    rows: Tensor
    scale: float
    low: float
    per_unit: float
    temperature: float
    numbers: Tensor

    @classmethod
    def build(
        cls, biases: Tensor, scales: Tensor, offset: float, temperature: float
    ) -> Table | None:
        """Build the table of a staircase on the CPU.

        Args:
            biases: b, (n,), in any order.
            scales: s, (n,).
            offset: o.
            temperature: T, positive.

        Returns:
            The table, or None if it would be too large or a threshold is not finite.
        """
        b, order = biases.detach().double().cpu().sort()
        steps = _Steps(b, scales.detach().double().cpu()[order], offset, temperature)
        margin = _SATURATED / temperature
        low, high = float(b[0]) - margin, float(b[-1]) + margin
        if not math.isfinite(high - low):
            return None
        cells = math.ceil((high - low) * temperature * _CELLS_PER_WIDTH)
        rows, scale = None, 0.0
        if cells > _PREFERRED_DENSE_CELLS and steps.are_alike:
            rows = steps.sparse_rows(_evenly(low, high, _SPARSE_CELLS))
            scale = float(steps.scales[0])
        if rows is None:
            if cells > _MAX_CELLS:
                return None
            rows, scale = steps.dense_rows(_evenly(low, high, max(_MIN_DENSE_CELLS, cells))), 0.0
        per_unit = (len(rows) - 2) / (high - low)
        numbers = rows.new_tensor([low, per_unit, temperature, scale]).float()
        rows = rows.float().contiguous()
        return cls(rows, scale, low, per_unit, temperature, numbers)

    @property
    def sparse(self) -> bool:
        """Whether it is a sparse table."""
        return self.rows.shape[1] == 2

    def to(self, device: torch.device) -> Table:
        """Copy the table to a device.

        Args:
            device: The device.
        """
        return dataclasses.replace(self, rows=self.rows.to(device), numbers=self.numbers.to(device))


@dataclass(frozen=True)
class _Steps:
    """Sum over steps in float64, at many points, without the steps that are saturated."""

    biases: Tensor
    scales: Tensor
    offset: float
    temperature: float

    def _near(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the steps that are not saturated in [low, high].

        Returns:
            The index of the first, the index after the last, and the height before the first.
        """
        margin = _SATURATED / self.temperature
        first = torch.searchsorted(self.biases, low - margin)
        last = torch.searchsorted(self.biases, high + margin)
        heights = torch.cat([self.scales.new_zeros(1), self.scales.cumsum(0)])
        return first, last, heights[first] - self.offset

    @property
    def are_alike(self) -> bool:
        """Whether all steps have the same height."""
        return bool((self.scales == self.scales[0]).all())

    def dense_rows(self, edges: Tensor) -> Tensor:
        """Return cubic Hermite coefficients between edges, constant outside: (cells + 2, 4)."""
        first, last, f = self._near(edges, edges)
        df = torch.zeros_like(f)
        for i in range(int((last - first).max())):
            index = (first + i).clamp(max=len(self.biases) - 1)
            h = torch.sigmoid(self.temperature * (edges - self.biases[index]))
            scale = torch.where(first + i < last, self.scales[index], 0)
            f = f + scale * h
            df = df + scale * h * (1 - h)
        df = df * self.temperature * (edges[1] - edges[0])
        rise = f[1:] - f[:-1]
        rows = [f[:-1], df[:-1], 3 * rise - 2 * df[:-1] - df[1:], df[:-1] + df[1:] - 2 * rise]
        around = f.new_zeros(2, 4)
        around[:, 0] = f[[0, -1]]
        return torch.cat([around[:1], torch.stack(rows, dim=1), around[1:]])

    def sparse_rows(self, edges: Tensor) -> Tensor | None:
        """Return the step nearest to each cell, and the height below it: (cells + 2, 2).

        The result is None if two steps are not saturated near the same cell.
        """
        first, last, _ = self._near(edges[:-1], edges[1:])
        if int((last - first).max()) > 1:
            return None
        index = first.clamp(max=len(self.biases) - 1)
        heights = torch.cat([self.scales.new_zeros(1), self.scales.cumsum(0)]) - self.offset
        rows = torch.stack([self.biases[index], heights[index]], dim=1)
        return torch.cat([rows[:1], rows, rows[-1:]])


def _evenly(low: float, high: float, cells: int) -> Tensor:
    return torch.linspace(low, high, cells + 1, dtype=torch.float64, device="cpu")


@dataclass
class _Cached:
    """Table, and the tensors it was built from."""

    sources: tuple[Tensor, ...]  # kept alive, so that no other tensor gets their id
    snapshot: list[object]
    table: Table | None


_tables: WeakIdKeyDictionary = WeakIdKeyDictionary()


def table_of(biases: Tensor, scales: Tensor, offset: float, temperature: Tensor) -> Table | None:
    """Return the table of a staircase. It is built when a value has changed since the last call.

    The table is kept as long as ``biases`` exists.

    Args:
        biases: b, (n,), in any order.
        scales: s, (n,).
        offset: o.
        temperature: T, scalar, positive.

    Returns:
        The table on the device of ``biases``, or None if it would be too large or a threshold is
        not finite.
    """
    snapshot = [offset, *map(_identity, (biases, scales, temperature))]
    cached: _Cached | None = _tables.get(biases)
    if cached is None or cached.snapshot != snapshot:
        table = Table.build(biases, scales, offset, float(temperature))
        cached = _Cached((scales, temperature), snapshot, table and table.to(biases.device))
        _tables[biases] = cached
    return cached.table


def _identity(x: Tensor) -> object:
    """Return a value that changes when a tensor does, without synchronizing with a GPU."""
    if x.device.type == "cpu":
        return x.tolist()
    if x.requires_grad or x.is_inference():
        return object()  # a fused optimiser changes a tensor without raising its version
    return id(x), x._version


def look_up(
    u: Tensor, rows: Tensor, numbers: Tensor, sparse: bool, slope: bool
) -> tuple[Tensor, Tensor]:
    """Read a table.

    Args:
        u: Where to read it, any shape.
        rows: `Table.rows`.
        numbers: `Table.numbers`.
        sparse: `Table.sparse`.
        slope: Whether F′(u) is needed as well.

    Returns:
        F(u) and F′(u), shape as ``u``. The second is meaningless without ``slope``.
    """
    low, per_unit, temperature, scale = numbers.unbind()
    last = len(rows) - 1
    position = ((u - low) * per_unit + 1).clamp(0, last + 0.5)
    row = position.long().clamp(0, last)  # NaN converts to any integer
    if sparse:
        threshold, height = rows[row].unbind(-1)
        h = torch.sigmoid(temperature * (u - threshold))
        value = height + scale * h
        return value, scale * temperature * h * (1 - h) if slope else value
    t = position - row
    c0, c1, c2, c3 = rows[row].unbind(-1)
    value = c0 + t * (c1 + t * (c2 + t * c3))
    return value, (c1 + t * (2 * c2 + t * 3 * c3)) * per_unit if slope else value
