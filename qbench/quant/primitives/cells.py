"""Values by the cells that thresholds cut them into, and sums of signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qbench.quant.kernels.loops import Loops, block_sums, dense, laid_out_as
from qbench.quant.primitives.clip import clip
from qbench.quant.primitives.primitive import Primitive, by_formula, given
from qbench.quant.primitives.straight_through import straight_through

LOOPS = Loops(Path(__file__).with_name("cells.c"))
_MOST_THRESHOLDS = 64  # the loop compares each value with all; beyond, a binary search is faster


def cell_sums(
    x: Tensor, thresholds: Tensor, values: Tensor | None = None, *, right: bool = False
) -> tuple[Tensor, Tensor]:
    """Count the values of each cell and add them up. No gradient.

    Cell i has the values above i of the thresholds. What least squares, Lloyd's algorithm and the
    like need of a tensor follows from these sums.

    Args:
        x: Floating-point tensor of any shape.
        thresholds: Thresholds in ascending order, dtype of ``x``, (n,), or (rows, n) for each row
            of ``x``.
        values: What is added up, shape and dtype of ``x``. Default: ``x``.
        right: Whether a value on a threshold is above it.

    Returns:
        Counts and sums, (n + 1,) or (rows, n + 1), in float64.

    Example:
        >>> import torch
        >>> counts, sums = cell_sums(torch.tensor([-1.0, 0.5, 2.0, 3.0]), torch.tensor([0.0, 1.0]))
        >>> counts.tolist(), sums.tolist()
        ([1.0, 1.0, 2.0], [-1.0, 0.5, 5.0])
    """
    x, thresholds = x.detach(), thresholds.detach()
    values = x if values is None else values.detach()
    tables = thresholds.reshape(-1, thresholds.shape[-1]).contiguous()
    find = _beyond if tables.shape[1] <= _MOST_THRESHOLDS else _within
    shape = *thresholds.shape[:-1], -1
    counts, sums = (found.reshape(shape) for found in find(x, tables, values, right))
    return counts, sums


def _beyond(x: Tensor, tables: Tensor, values: Tensor, right: bool) -> tuple[Tensor, Tensor]:
    """Subtract what lies above one threshold from what lies above the threshold before."""
    steps = tables.shape[1]
    above, totals, total = _above(x, tables, values, right).split((steps, steps, 1), dim=1)
    everything, nothing = torch.full_like(total, x.numel() // len(tables)), torch.zeros_like(total)
    counts = -torch.cat([everything, above, nothing], 1).diff(dim=1)
    return counts, -torch.cat([total, totals, nothing], 1).diff(dim=1)


def _above(x: Tensor, tables: Tensor, values: Tensor, right: bool) -> Tensor:
    """Return of each row how many lie above each threshold, their sums, and the sum of all."""
    rows, steps = tables.shape
    if _has_loop(x):
        a = dense(x) if rows == 1 else x.contiguous()
        found = block_sums(rows, x.numel() // rows, 2 * steps + 1)
        tensors, sizes = (a, laid_out_as(values, a), tables, found), (rows, x.numel() // rows)
        if LOOPS.run("cells", tensors, (*sizes, steps, right)):
            return found[:rows]
    a, b = x.reshape(rows, -1), values.reshape(rows, -1)
    limits = [tables[:, k : k + 1] for k in range(steps)]
    above = [~(a < limit if right else a <= limit) for limit in limits]  # NaN is above all
    counts = [each.sum(1, dtype=torch.float64) for each in above]
    totals = [b.where(each, 0).sum(1, dtype=torch.float64) for each in above]
    return torch.stack([*counts, *totals, b.sum(1, dtype=torch.float64)], dim=1)


def _within(x: Tensor, tables: Tensor, values: Tensor, right: bool) -> tuple[Tensor, Tensor]:
    """Add each value to the cell that a binary search finds."""
    cells = torch.searchsorted(tables, x.reshape(len(tables), -1).contiguous(), right=right)
    added = values.reshape(cells.shape).double()  # a float32 cannot count beyond 2²⁴
    zero = added.new_zeros(len(tables), tables.shape[1] + 1)
    return zero.scatter_add(1, cells, torch.ones_like(added)), zero.scatter_add(1, cells, added)


def _has_loop(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
    )


def scaled_levels(x: Tensor, alpha: Tensor, levels: Tensor, *, signed: bool = False) -> Tensor:
    """Quantize to α times the level that is nearest to x/α; only the choice is straight through.

    Li et al., ICLR 2020, arXiv:1909.13144, Eq. 5 and 7. With u = x/α and [u] its level::

        ∂y/∂x = 1 inside,          0 outside
        ∂y/∂α = [u] − u inside,    the outermost level outside

    Args:
        x: Floating-point tensor of any shape.
        alpha: Largest level α, a positive scalar of the dtype of ``x``.
        levels: Levels in units of α in ascending order, from 0 to 1, (n,). Halfway between two, the
            upper one is taken.
        signed: Whether −α times the levels are levels too.

    Returns:
        The quantized values, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-0.5, 0.7, 1.8, 5.0], requires_grad=True)
        >>> y = scaled_levels(x, torch.tensor(2.0), torch.tensor([0.0, 0.25, 0.5, 1.0]))
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([0.0, 0.5, 2.0, 2.0], [0.0, 1.0, 1.0, 0.0])
    """
    levels = levels.detach().to(x.dtype, copy=True)  # their owner may change them
    return _ScaledLevels((levels[1:] + levels[:-1]) / 2, levels, -1.0 if signed else 0.0)(x, alpha)


@dataclass(frozen=True, eq=False)
class _ScaledLevels(Primitive):
    thresholds: Tensor
    levels: Tensor
    low: float

    @property
    def tables(self) -> tuple[Tensor, ...]:
        return self.thresholds, self.levels

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        (alpha,) = given(parameters)
        u = clip(x / alpha, self.low, 1)
        cells = torch.bucketize(u.detach().abs().contiguous(), self.thresholds, right=True)
        nearest = torch.empty_like(u).copy_(self.levels[cells])
        if self.low < 0:
            nearest = torch.where(u < 0, -nearest, nearest)
        return alpha * straight_through(u, nearest)

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        (alpha,), y = given(parameters), torch.empty_like(x)
        sizes, numbers = (x.numel(), len(self.thresholds)), (float(alpha), self.low)
        if LOOPS.run("scaled_levels", (x, y, *self.tables), sizes, numbers):
            return y
        return self.formula(x, *parameters)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (alpha,), gx, sums = given(parameters), torch.empty_like(x), block_sums(1, x.numel(), 1)
        tensors = g, x, gx, *self.tables, sums
        sizes, numbers = (x.numel(), len(self.thresholds)), (float(alpha), self.low)
        if not LOOPS.run("scaled_levels_backward", tensors, sizes, numbers):
            return by_formula(self, needed, g, x, alpha)
        return gx, torch.full_like(alpha, float(sums[0]))


def sign_sum(x: Tensor, shifts: Tensor, scales: Tensor) -> Tensor:
    """Return Σ β_i sign(x + v_i − ½), with the gradient 1 of each sign where 0 ≤ x + v_i ≤ 1.

    Lin et al., NeurIPS 2017, arXiv:1711.11294, Eq. 9–11. The shifts v and the scales β get
    gradients too.

    Args:
        x: Floating-point tensor of any shape.
        shifts: v, (n,), dtype of ``x``.
        scales: β, likewise.

    Returns:
        Shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-0.4, 0.2, 0.6], requires_grad=True)
        >>> y = sign_sum(x, torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.5]))
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-1.5, 0.5, 1.5], [1.0, 1.5, 0.5])
    """
    return _SignSum()(x, *shifts.unbind(), *scales.unbind())


class _SignSum(Primitive):
    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        half, total = len(parameters) // 2, torch.zeros_like(x)
        learned = given(parameters)
        for v, beta in zip(learned[:half], learned[half:], strict=True):
            signs = torch.where((x + v).detach() - 0.5 >= 0, 1.0, -1.0).to(x.dtype)
            total = total + beta * straight_through(clip(x + v, 0, 1), signs)
        return total

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, sizes = torch.empty_like(x), (x.numel(), len(parameters) // 2)
        if LOOPS.run("sign_sum", (x, y, *_tables(parameters)), sizes):
            return y
        return self.formula(x, *parameters)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gx, sums = torch.empty_like(x), block_sums(1, x.numel(), len(parameters))
        sizes = x.numel(), len(parameters) // 2
        if not LOOPS.run("sign_sum_backward", (g, x, gx, *_tables(parameters), sums), sizes):
            return by_formula(self, needed, g, x, *parameters)
        return gx, *sums[0].to(x.dtype).unbind()


def _tables(parameters: Sequence[Tensor | None]) -> list[Tensor]:
    """Return shifts and scales as loops read them, (n,)."""
    return list(torch.stack([p.detach().reshape(()) for p in given(parameters)]).chunk(2))
