"""The staircase of sigmoids of Quantization Networks (arXiv:1911.09464), soft and hard.

    soft, Eq. 7:  y = α ( Σ s_i σ(T(βx − b_i)) − o )
    hard, Eq. 5:  y = α ( Σ s_i A(βx − b_i) − o ),   A the unit step

Written down, the sum costs a sigmoid per step and element. But it is a function of the one number
βx, and a step further than 18/T away is saturated to float32's precision. So a large tensor is read
from a `Table` of that function, built once per temperature, at a cost that does not depend on the
number of steps: by a loop in C on the CPU (`qbench.quant.staircase.kernels`), by torch elsewhere.
Small tensors, float64 and everything inside ``torch.compile`` take the sum itself.

Backward needs nothing but x, so x is all that is saved.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakIdKeyDictionary

from qbench.quant.staircase import kernels

SATURATED = 18.0
"""|T(βx − b)| beyond which a sigmoid is 0 or 1: e^−18 is a quarter of float32's precision."""

_TABLE_FROM = 2**12  # sigmoids in the sum, below which reading a table saves nothing
_LEARNED_FROM = 2**18  # the same where biases are learned, for which every step needs a new table
_CHUNK = 2**18  # elements of a temporary, so that it stays in the cache
_CELLS_PER_WIDTH = 8  # of a dense table, per 1/T: the cubics are then within 1e-7 of a step
_FEWEST = 2**12  # cells of a dense table; fewer are no faster
_DENSE = 2**15  # cells of a dense table up to which it is preferred
_SPARSE = 2**12  # cells of a sparse table
_MOST = 2**20  # cells of any table


def staircase(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    scales: Tensor,
    offset: float,
    temperature: Tensor,
) -> Tensor:
    """Soft staircase of sigmoids, y = α(Σ s_i σ(T(βx − b_i)) − o) (arXiv:1911.09464, Eq. 7).

    Args:
        x: any shape, floating point.
        alpha: α, output scale, scalar.
        beta: β, input scale, scalar.
        biases: b, (n,), in any order.
        scales: s, (n,), no gradient.
        offset: o.
        temperature: T, scalar, positive, no gradient.

    Returns:
        y, shape and dtype of ``x``; computed in float32 at least. Exact gradients for x, α, β and
        b, with h_i = σ(T(βx − b_i)): ∂y/∂x = αβT Σ s_i h_i(1 − h_i), ∂y/∂α = y/α,
        ∂y/∂β = αT x Σ s_i h_i(1 − h_i), ∂y/∂b_i = −αT s_i h_i(1 − h_i).
    """
    if torch.compiler.is_compiling():
        u = _at_least_float32(x, alpha) * beta
        total, _ = _sum_of_sigmoids(u, biases, scales, temperature)
        return (alpha * (total - offset)).to(x.dtype)
    return _Staircase.apply(x, alpha, beta, biases, scales, offset, temperature)


def hard_staircase(
    x: Tensor, alpha: Tensor, beta: Tensor, biases: Tensor, scales: Tensor, offset: float
) -> Tensor:
    """Hard staircase y = α(Σ s_i A(βx − b_i) − o), A the unit step (arXiv:1911.09464, Eq. 5).

    Args:
        x: any shape, floating point.
        alpha: α, output scale, scalar.
        beta: β, input scale, scalar.
        biases: b, (n,), in any order.
        scales: s, (n,).
        offset: o.

    Returns:
        y, shape and dtype of ``x``: at most n + 1 distinct values.
    """
    thresholds, order = biases.sort()
    heights = torch.cat([scales.new_zeros(1), scales[order].cumsum(0)]) - offset
    z = _at_least_float32(x, alpha) * beta
    steps = torch.bucketize(z.detach(), thresholds, right=True)  # A(0) = 1
    return (heights[steps] * alpha).to(x.dtype)


@dataclass(frozen=True)
class Table:
    """F(u) = Σ s_i σ(T(u − b_i)) − o as a table over evenly spaced cells of u.

    A dense table holds a cubic for every cell, which meets F and F′ at both its ends. A sparse one
    holds the one step that is not saturated near the cell, to be computed as it is: where T is so
    high that cubics would be too many, no two steps are near the same cell.

    Attributes:
        rows: float32. Dense: (cells + 2, 4), coefficients of 1, t, t², t³, with t the position in
            the cell, from 0 to 1; the first and the last row are constant. Sparse: (cells + 2, 2),
            threshold of the step, and height below it.
        scale: height of every step, of a sparse table; 0 of a dense one.
        low: u at the left end of the cells.
        per_unit: cells per unit of u.
        temperature: T.
        numbers: (4,) low, per_unit, temperature and scale, on the device of ``rows``.
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
        """Build the table of a staircase on the CPU; None if none of reasonable size exists.

        Args:
            biases: b, (n,), in any order.
            scales: s, (n,).
            offset: o.
            temperature: T.
        """
        b, order = biases.detach().double().cpu().sort()
        steps = _Steps(b, scales.detach().double().cpu()[order], offset, temperature)
        margin = SATURATED / temperature
        low, high = float(b[0]) - margin, float(b[-1]) + margin
        if not math.isfinite(high - low):
            return None
        cells = math.ceil((high - low) * temperature * _CELLS_PER_WIDTH)
        rows, scale = None, 0.0
        if cells > _DENSE and steps.are_alike:
            rows = steps.sparse_rows(_evenly(low, high, _SPARSE))
            scale = float(steps.scales[0])
        if rows is None:
            if cells > _MOST:
                return None
            rows, scale = steps.dense_rows(_evenly(low, high, max(_FEWEST, cells))), 0.0
        per_unit = (len(rows) - 2) / (high - low)
        numbers = rows.new_tensor([low, per_unit, temperature, scale]).float()
        rows = rows.float().contiguous()
        return cls(rows, scale, low, per_unit, temperature, numbers)

    @property
    def sparse(self) -> bool:
        """Which of the two it is."""
        return self.rows.shape[1] == 2

    def to(self, device: torch.device) -> Table:
        """Copy the table to a device."""
        return dataclasses.replace(self, rows=self.rows.to(device), numbers=self.numbers.to(device))


@dataclass(frozen=True)
class _Steps:
    """The sum over steps in float64, at many points, without those that are saturated."""

    biases: Tensor
    scales: Tensor
    offset: float
    temperature: float

    def _near(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find steps not saturated in [low, high]: first, past the last, height before."""
        margin = SATURATED / self.temperature
        first = torch.searchsorted(self.biases, low - margin)
        last = torch.searchsorted(self.biases, high + margin)
        heights = torch.cat([self.scales.new_zeros(1), self.scales.cumsum(0)])
        return first, last, heights[first] - self.offset

    @property
    def are_alike(self) -> bool:
        """Whether all have the same height."""
        return bool((self.scales == self.scales[0]).all())

    def dense_rows(self, edges: Tensor) -> Tensor:
        """Cubic Hermite coefficients between the edges, constants around them: (cells + 2, 4)."""
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
        """Return the step nearest to each cell, and the height below: (cells + 2, 2).

        None where two are not saturated near the same cell.
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
    """A table, and what it was built from."""

    sources: tuple[Tensor, ...]  # held, so that no other tensor takes their identity
    snapshot: list[object]
    table: Table | None


_tables: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _table(biases: Tensor, scales: Tensor, offset: float, temperature: Tensor) -> Table | None:
    """Return the table of the tensors' present values, kept as long as ``biases`` lives."""
    snapshot = [offset, *map(_identity, (biases, scales, temperature))]
    cached: _Cached | None = _tables.get(biases)
    if cached is None or cached.snapshot != snapshot:
        table = Table.build(biases, scales, offset, float(temperature))
        cached = _Cached((scales, temperature), snapshot, table and table.to(biases.device))
        _tables[biases] = cached
    return cached.table


def _identity(x: Tensor) -> object:
    """Return a value that is equal while a tensor is unchanged, without waiting for a device."""
    if x.device.type == "cpu":
        return x.tolist()
    if x.requires_grad or x.is_inference():
        return object()  # a fused optimiser changes a tensor without raising its version
    return id(x), x._version


class _Staircase(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        alpha: Tensor,
        beta: Tensor,
        biases: Tensor,
        scales: Tensor,
        offset: float,
        temperature: Tensor,
    ) -> Tensor:
        x = x.resolve_neg()
        if not _is_dense(x):
            x = x.contiguous()
        ctx.save_for_backward(x, alpha, beta, biases, scales, temperature)
        ctx.offset = offset
        y = torch.empty_like(x)
        read = _reader(x, alpha, beta, biases, scales, offset, temperature)
        read.forward(_flat(x), _flat(y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, beta, biases, scales, temperature = ctx.saved_tensors
        g = g.resolve_neg()
        if g.stride() != x.stride():
            g = torch.empty_like(x).copy_(g)
        gx = torch.empty_like(x)
        if ctx.needs_input_grad[3]:
            read: _Reader = _Sum(alpha, beta, biases, scales, ctx.offset, temperature)
        else:
            read = _reader(x, alpha, beta, biases, scales, ctx.offset, temperature)
        to_alpha, to_beta, to_biases = read.backward(_flat(g), _flat(x), _flat(gx))
        return (gx, to_alpha, to_beta, to_biases, None, None, None)


def _reader(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    scales: Tensor,
    offset: float,
    temperature: Tensor,
) -> _Reader:
    """Choose the cheapest way to compute the staircase of ``x``."""
    exact = _Sum(alpha, beta, biases, scales, offset, temperature)
    sigmoids = x.numel() * len(biases)
    if torch.float64 in (x.dtype, alpha.dtype):
        return exact
    if sigmoids < (_LEARNED_FROM if biases.requires_grad else _TABLE_FROM):
        return exact
    in_c = x.device.type == "cpu" and kernels.load() is not None
    if x.device.type == "cpu" and not in_c and len(biases) < 3:
        return exact  # two sigmoids are cheaper than torch's indexing
    table = _table(biases, scales, offset, temperature)
    if table is None:
        return exact
    return _Kernel(table, alpha, beta) if in_c else _Lookup(table, alpha, beta)


class _Reader:
    """Computes the staircase of a flat tensor, chunk by chunk, in float32 at least.

    Args:
        alpha: α.
        beta: β.
        chunk: elements at a time.
    """

    def __init__(self, alpha: Tensor, beta: Tensor, chunk: int) -> None:
        self.alpha = alpha
        self.beta = beta
        self.chunk = chunk

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Write the staircase of ``x`` to ``y``, both flat."""
        for part, out in zip(x.split(self.chunk), y.split(self.chunk), strict=True):
            total, _ = self.evaluate(_at_least_float32(part, self.alpha), slope=False)
            out.copy_(total * self.alpha)

    def backward(self, g: Tensor, x: Tensor, gx: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Write the gradient of ``x`` to ``gx``; return those of α, β and, where known, b."""
        to_alpha, to_beta = torch.zeros_like(self.alpha), torch.zeros_like(self.beta)
        for g_part, part, out in zip(
            g.split(self.chunk), x.split(self.chunk), gx.split(self.chunk), strict=True
        ):
            wide = _at_least_float32(part, self.alpha)
            total, slope = self.evaluate(wide, slope=True)
            g_wide = g_part.to(wide.dtype)
            d = g_wide * slope * self.alpha
            out.copy_(d * self.beta)
            to_alpha += (g_wide * total).sum()
            to_beta += (d * wide).sum()
        return to_alpha, to_beta, None

    def evaluate(self, x: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """F(βx) and, if asked for, F′(βx), of a flat chunk."""
        raise NotImplementedError


class _Sum(_Reader):
    """The sum as it is written."""

    def __init__(
        self,
        alpha: Tensor,
        beta: Tensor,
        biases: Tensor,
        scales: Tensor,
        offset: float,
        temperature: Tensor,
    ) -> None:
        super().__init__(alpha, beta, max(1, _CHUNK // len(biases)))
        self.biases = biases
        self.scales = scales
        self.offset = offset
        self.temperature = temperature

    def evaluate(self, x: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        total, slopes = _sum_of_sigmoids(x * self.beta, self.biases, self.scales, self.temperature)
        return total - self.offset, slopes.sum(-1) if slope else total

    def backward(self, g: Tensor, x: Tensor, gx: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        to_alpha, to_beta, _ = super().backward(g, x, gx)
        if not self.biases.requires_grad:
            return to_alpha, to_beta, None
        to_biases = torch.zeros_like(self.biases)
        for g_part, part in zip(g.split(self.chunk), x.split(self.chunk), strict=True):
            u = _at_least_float32(part, self.alpha) * self.beta
            _, slopes = _sum_of_sigmoids(u, self.biases, self.scales, self.temperature)
            to_biases -= self.alpha * (g_part.to(u.dtype)[:, None] * slopes).sum(0)
        return to_alpha, to_beta, to_biases


class _Lookup(_Reader):
    """The table, read by torch; on a GPU by one kernel that torch compiles, where it can."""

    def __init__(self, table: Table, alpha: Tensor, beta: Tensor) -> None:
        on_cpu = table.rows.device.type == "cpu"
        super().__init__(alpha, beta, _CHUNK if on_cpu else 2**62)
        self.table = table
        self._look_up = _look_up if on_cpu else _compiled_look_up()

    def evaluate(self, x: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        table = self.table
        return self._look_up(x * self.beta, table.rows, table.numbers, table.sparse, slope)


class _Kernel(_Reader):
    """The table, read by a loop in C."""

    def __init__(self, table: Table, alpha: Tensor, beta: Tensor) -> None:
        super().__init__(alpha, beta, _CHUNK)
        self.table = table
        a, b = float(alpha.detach()), float(beta.detach())
        self._rows = kernels.CTable(b * table.per_unit, 1 - table.low * table.per_unit, table.rows)
        self._numbers: tuple[float, ...]
        if table.sparse:
            self._name, self._numbers, self._per_unit = (
                "sparse",
                (a, b, table.temperature, table.scale),
                1.0,
            )
        else:
            self._name, self._numbers, self._per_unit = "dense", (a,), table.per_unit

    def forward(self, x: Tensor, y: Tensor) -> None:
        if x.dtype == torch.float32:
            kernels.call(f"{self._name}_forward", (x, y), self._rows, *self._numbers)
            return
        for part, out in zip(x.split(self.chunk), y.split(self.chunk), strict=True):
            wide = part.float()
            self.forward(wide, wide_out := torch.empty_like(wide))
            out.copy_(wide_out)

    def backward(self, g: Tensor, x: Tensor, gx: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if x.dtype == torch.float32:
            sums = torch.empty(-(-x.numel() // kernels.BLOCK), 2, dtype=torch.float64)
            kernels.call(f"{self._name}_backward", (g, x, gx, sums), self._rows, *self._numbers)
            to_alpha, to_beta = sums.sum(0)
            return to_alpha.to(self.alpha), (to_beta * self._per_unit).to(self.beta), None
        totals = torch.zeros(2, dtype=torch.float64)
        for g_part, part, out in zip(
            g.split(self.chunk), x.split(self.chunk), gx.split(self.chunk), strict=True
        ):
            wide = part.float()
            wide_out = torch.empty_like(wide)
            to_alpha, to_beta, _ = self.backward(g_part.float(), wide, wide_out)
            out.copy_(wide_out)
            totals += torch.stack([to_alpha, to_beta]).double()
        return totals[0].to(self.alpha), totals[1].to(self.beta), None


def _sum_of_sigmoids(
    u: Tensor, biases: Tensor, scales: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ s_i h_i, and s_i T h_i(1 − h_i) of every step: shape of u, and that with (n,) appended."""
    h = torch.sigmoid(temperature * (u[..., None] - biases))
    return (h * scales).sum(-1), temperature * scales * h * (1 - h)


def _look_up(
    u: Tensor, rows: Tensor, numbers: Tensor, sparse: bool, slope: bool
) -> tuple[Tensor, Tensor]:
    """F(u) and, if asked for, F′(u), from a table."""
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


@functools.lru_cache(maxsize=1)
def _compiled_look_up() -> Callable[..., tuple[Tensor, Tensor]]:
    """`_look_up` as one kernel, where torch has the compiler for it."""
    if importlib.util.find_spec("triton") is None:
        return _look_up
    return torch.compile(_look_up, dynamic=True)


def _is_dense(x: Tensor) -> bool:
    if x.is_contiguous():
        return True
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _flat(x: Tensor) -> Tensor:
    """View a dense tensor's values in the order in which they lie in memory."""
    return x.as_strided((x.numel(),), (1,))


def _at_least_float32(x: Tensor, parameter: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, parameter.dtype)
    return x.to(torch.promote_types(wide, torch.float32))
