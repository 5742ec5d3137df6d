"""Levels between thresholds, and three levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench.quant.kernels.loops import block_sums
from qbench.quant.primitives.clip import Closed, Interval, Limits, ends_for
from qbench.quant.primitives.primitive import LOOPS, Primitive, for_rows, given, rows_of, summed
from qbench.quant.primitives.straight_through import add_gradient, straight_through


def to_levels(
    x: Tensor,
    thresholds: Tensor,
    levels: Tensor,
    *,
    right: bool = False,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    closed: Closed = "both",
) -> Tensor:
    """Map each value to the level between its thresholds, with the gradient 1 in an interval.

    A value above i of the thresholds has level i, counted from 0.

    Args:
        x: Floating-point tensor of any shape.
        thresholds: Thresholds in ascending order, (n,), or (rows, n) for each row of ``x``. They
            are converted to the dtype of ``x``.
        levels: Levels, (n + 1,) or (rows, n + 1), likewise. They get no gradient.
        right: Whether a value on a threshold is above it.
        low: Lower end of the interval in which the gradient is 1, a number or a scalar tensor; it
            is 0 outside. None: no end.
        high: Upper end, likewise.
        closed: Ends that belong to the interval. Default: ``'both'``.

    Returns:
        Entries of ``levels``, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.0, 0.4, 0.6, 3.0], requires_grad=True)
        >>> y = to_levels(x, torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.3, 0.8]), high=0.8)
        >>> y.sum().backward()
        >>> [round(v, 1) for v in y.tolist()], x.grad.tolist()
        ([0.0, 0.3, 0.8, 0.8], [1.0, 1.0, 1.0, 0.0])
    """
    # Copies: their owner may change them before the backward pass.
    thresholds, levels = (table.detach().to(x.dtype, copy=True) for table in (thresholds, levels))
    if low is None and high is None:
        return _StraightThroughLevels(thresholds, levels, right)(x)
    return _WindowedLevels(thresholds, levels, right, closed)(x, *ends_for(x, low, high))


def nearest_level(x: Tensor, levels: Tensor) -> Tensor:
    """Round to the nearest level; halfway between two, to the upper one. No gradient.

    Args:
        x: Floating-point tensor of any shape.
        levels: Levels in ascending order, (n,). They are converted to the dtype of ``x``.

    Returns:
        Entries of ``levels``, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> nearest_level(torch.tensor([-3.0, 0.4, 0.5]), torch.tensor([-1.0, 0.0, 1.0])).tolist()
        [-1.0, 0.0, 1.0]
    """
    levels = levels.to(x.dtype)
    return to_levels(x.detach(), (levels[1:] + levels[:-1]) / 2, levels, right=True)


@dataclass(frozen=True, eq=False)
class _Levels(Primitive):
    """Base class: levels between thresholds, whose gradient subclasses define."""

    thresholds: Tensor
    levels: Tensor
    right: bool

    @property
    def tables(self) -> tuple[Tensor, ...]:
        return self.thresholds, self.levels

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y = torch.empty_like(x)
        steps = self.thresholds.shape[-1]
        rows = self.levels.numel() // (steps + 1)
        tables = (table.contiguous() for table in self.tables)
        sizes = (rows, x.numel() // rows if rows else 0, steps, int(self.right))
        return y if LOOPS.run("levels", (x, y, *tables), sizes) else self.look_up(x)

    def look_up(self, x: Tensor) -> Tensor:
        """Return the levels of x by torch."""
        values = x.detach().contiguous()
        if self.levels.dim() == 1:
            found = self.levels[torch.bucketize(values, self.thresholds, right=self.right)]
        else:
            values = values.flatten(1) if x.dim() > 1 else values[:, None]
            indices = torch.searchsorted(self.thresholds, values, right=self.right)
            found = self.levels.gather(1, indices).reshape(x.shape)
        return found if x.is_contiguous() else torch.empty_like(x).copy_(found)


@dataclass(frozen=True, eq=False)
class _StraightThroughLevels(_Levels):
    is_straight_through = True

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return straight_through(x, self.look_up(x))


@dataclass(frozen=True, eq=False)
class _WindowedLevels(_Levels):
    closed: Closed

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return straight_through(Limits(self.closed).clip(x, *given(parameters)), self.look_up(x))

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        low, high = given(parameters)
        return Limits(self.closed).pass_gradient(g, x, low, high)[0], None, None


def ternarize(
    x: Tensor, threshold: Tensor, scale: Tensor | None = None, *, window: float | None = None
) -> Tensor:
    """Return α where x > Δ, −α where x < −Δ and 0 between; the gradient is 1 within the window.

    Args:
        x: Floating-point tensor of any shape.
        threshold: Δ, at least 0, dtype of ``x``, of a shape that broadcasts to that of ``x``. It
            gets no gradient.
        scale: α, likewise. None: 1.
        window: Largest ``|x|`` that has a gradient. None: all of ``x`` has the gradient 1.

    Returns:
        −α, 0 or α, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.5, -0.5, 0.1, 1.0], requires_grad=True)
        >>> y = ternarize(x, torch.tensor(0.3), torch.tensor(2.0), window=1)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-2.0, -2.0, 0.0, 2.0], [0.0, 1.0, 1.0, 1.0])
    """
    fixed = threshold.detach(), x.new_ones(()) if scale is None else scale.detach()
    if window is None:
        return _StraightThroughTernary()(x, *fixed)
    return _WindowedTernary(Interval.of(-window, window, "both"))(x, *fixed)


def learned_ternary(x: Tensor, threshold: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return p where x > Δ, −n where x < −Δ and 0 between, with p and n learned.

    Zhu et al., ICLR 2017, arXiv:1612.01064, Eq. 6–8. With g the gradient of the result, that of
    ``positive`` is Σ g above Δ, that of ``negative`` −Σ g below −Δ, and that of ``x`` is p g, n g
    and between them g.

    Args:
        x: Floating-point tensor of any shape.
        threshold: Δ, at least 0, dtype of ``x``, of a shape that broadcasts to that of ``x``. It
            gets no gradient.
        positive: p, likewise.
        negative: n, likewise.

    Returns:
        −n, 0 or p, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.5, -0.5, 0.1, 1.0], requires_grad=True)
        >>> p, n = (torch.tensor(size, requires_grad=True) for size in (2.0, 3.0))
        >>> y = learned_ternary(x, torch.tensor(0.3), p, n)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist(), p.grad.item(), n.grad.item()
        ([-3.0, -3.0, 0.0, 2.0], [3.0, 3.0, 1.0, 2.0], 1.0, -2.0)
    """
    return _LearnedTernary()(x, threshold.detach(), positive, negative)


def _ternary(x: Tensor, threshold: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return p, −n or a zero with the sign of x, which autograd differentiates by p and n."""
    x = x.detach()
    size = torch.where(x > 0, positive, negative)
    return x.sign() * torch.where(x.abs() > threshold, size, 0.0)


class _Ternary(Primitive):
    """Base class: three levels, whose gradient subclasses define."""

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        threshold, positive, *rest = given(parameters)
        negative = rest[0] if rest else positive
        row = (for_rows(p, rows) for p in (threshold, positive, negative))
        if LOOPS.run("ternarize", (x, y, *row), (rows, columns)):
            return y
        return _ternary(x, threshold, positive, negative)


@dataclass(frozen=True)
class _StraightThroughTernary(_Ternary):
    is_straight_through = True

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        threshold, scale = given(parameters)
        return straight_through(x, _ternary(x, threshold, scale, scale))


@dataclass(frozen=True)
class _WindowedTernary(_Ternary):
    interval: Interval

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        threshold, scale = given(parameters)
        return straight_through(self.interval.clip(x), _ternary(x, threshold, scale, scale))

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        return self.interval.pass_gradient(g, x), None, None


@dataclass(frozen=True)
class _LearnedTernary(_Ternary):
    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        threshold, positive, negative = given(parameters)
        fixed = x.detach()
        slope = torch.where(
            fixed > threshold, positive, torch.where(fixed < -threshold, negative, 1.0)
        )
        return add_gradient(_ternary(x, threshold, positive, negative), x * slope.detach())

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        threshold, positive, negative = given(parameters)
        gx, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        sums = block_sums(rows, columns, 2)
        row = (for_rows(p, rows) for p in parameters)
        if LOOPS.run("ternarize_backward", (g, x, gx, *row, sums), (rows, columns)):
            found = sums[:rows].to(x.dtype).unbind(1)
        else:
            above, below = x > threshold, x < -threshold
            gx = g * torch.where(above, positive, torch.where(below, negative, 1.0))
            parts = torch.where(above, g, 0.0), torch.where(below, -g, 0.0)
            found = tuple(part.reshape(rows, columns).sum(1) for part in parts)
        return gx, None, summed(found[0], positive), summed(found[1], negative)
