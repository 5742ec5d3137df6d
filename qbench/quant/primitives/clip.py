"""Clipping with a gradient that does not depend on the version of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qbench.quant.kernels.loops import block_sums
from qbench.quant.primitives.primitive import LOOPS, Primitive, for_rows, given, rows_of

Closed = Literal["both", "left", "right", "neither"]
"""Ends that belong to an interval, as in `pandas.Interval`."""


def clip(
    x: Tensor,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    *,
    closed: Closed = "both",
) -> Tensor:
    """Clip x to an interval, with the gradient 1 inside the interval and 0 outside.

    Use it in place of ``torch.clamp`` wherever a gradient passes. The gradient of ``torch.clamp``
    at the ends is 1, ½ or 0, depending on the version of torch and on the type of the bounds.

    Args:
        x: Floating-point tensor of any shape.
        low: Lower end: a number, or a tensor that broadcasts to the shape of ``x``. It gets no
            gradient. None: no lower end.
        high: Upper end, likewise and of the same type as ``low``.
        closed: Ends at which the gradient is 1; at the others it is 0. Default: ``'both'``.

    Returns:
        The clipped tensor, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-0.5, 0.0, 0.5, 1.0], requires_grad=True)
        >>> y = clip(x, 0, 1, closed="right")
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0])
    """
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return _ClipTo(Limits(closed))(x, *ends_for(x, low, high))
    return _Clip(Interval.of(low, high, closed))(x)


def is_inside(x: Tensor, low: float | Tensor, high: float | Tensor, closed: Closed) -> Tensor:
    """Return where the values of a tensor lie in an interval, bool."""
    above = x > low if closed in ("right", "neither") else x >= low
    below = x < high if closed in ("left", "neither") else x <= high
    return above & below


def ends_for(
    x: Tensor, low: float | Tensor | None, high: float | Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the ends of an interval as tensors of x's dtype, without a gradient.

    Args:
        x: The tensor that the interval is for.
        low: Lower end. None: −∞.
        high: Upper end. None: ∞.
    """
    return _end(x, -math.inf if low is None else low), _end(x, math.inf if high is None else high)


def _end(x: Tensor, end: float | Tensor) -> Tensor:
    return end.detach().to(x.dtype) if isinstance(end, Tensor) else x.new_tensor(end)


@dataclass(frozen=True)
class Interval:
    """An interval of numbers, and the ends that belong to it.

    Attributes:
        low: Lower end.
        high: Upper end.
        closed: Ends that belong to it.
    """

    low: float
    high: float
    closed: Closed

    @staticmethod
    def of(low: float | None, high: float | None, closed: Closed) -> Interval:
        """Return an interval; an end that is None is infinite."""
        return Interval(
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
            closed,
        )

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """The ends as loops take them: both, then each again if it is open, otherwise NaN."""
        left = self.closed in ("right", "neither") and not self.is_unbounded
        right = self.closed in ("left", "neither") and not self.is_unbounded
        return self.low, self.high, self.low if left else math.nan, self.high if right else math.nan

    @property
    def is_unbounded(self) -> bool:
        """Whether both ends are infinite."""
        return self.low == -math.inf and self.high == math.inf

    def clip(self, x: Tensor) -> Tensor:
        """Clip a tensor; autograd differentiates it as `qbench.functional.clip`."""
        if self.is_unbounded:
            return x
        return torch.where(self.contains(x), x, x.detach().clamp(self.low, self.high))

    def contains(self, x: Tensor) -> Tensor:
        """Return where the values of a tensor lie in the interval, bool."""
        return is_inside(x, self.low, self.high, self.closed)

    def pass_gradient(self, g: Tensor, x: Tensor) -> Tensor:
        """Return g where x lies in the interval, otherwise 0, for a `Primitive`."""
        if self.is_unbounded:
            return g
        gx = torch.empty_like(x)
        return (
            gx if LOOPS.run("window", (g, x, gx), (x.numel(),), self.numbers) else self._mask(g, x)
        )

    def _mask(self, g: Tensor, x: Tensor) -> Tensor:
        # Masks are slow in torch. This function has an open interval, and passes g at NaN.
        low, high = torch.tensor([self.low, self.high], dtype=x.dtype)
        if self.closed in ("both", "left"):
            low = low.nextafter(low.new_tensor(-math.inf))
        if self.closed in ("both", "right"):
            high = high.nextafter(high.new_tensor(math.inf))
        values = x.nan_to_num(math.inf, math.inf, -math.inf)
        return torch.ops.aten.hardtanh_backward(g, values, float(low), float(high))


@dataclass(frozen=True)
class Limits:
    """The ends that belong to intervals which are tensors: scalars, or one value for each row.

    Attributes:
        closed: Ends that belong to the intervals.
    """

    closed: Closed

    def clip(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Clip a tensor; autograd differentiates it as `qbench.functional.clip`."""
        return torch.where(is_inside(x, low, high, self.closed), x, x.detach().clamp(low, high))

    def pass_gradient(
        self, g: Tensor, x: Tensor, low: Tensor, high: Tensor, *, sums: bool = False
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return g where x lies in the interval, otherwise 0, for a `Primitive`.

        Args:
            g: Gradient of the result.
            x: The input.
            low: Lower ends.
            high: Upper ends.
            sums: Whether to sum g below and above the intervals.

        Returns:
            The gradient of ``x``, and the sums for the rows, (rows,) each, or None.
        """
        gx, (rows, columns) = torch.empty_like(x), rows_of(x, low, high)
        memory = block_sums(rows, columns, 2) if sums else None
        flags = self.closed in ("right", "neither"), self.closed in ("left", "neither")
        tensors = (g, x, gx, for_rows(low, rows), for_rows(high, rows), memory)
        if LOOPS.run("limits", tensors, (rows, columns, *map(int, flags))):
            if memory is None:
                return gx, None
            below, above = memory[:rows].to(x.dtype).unbind(1)
            return gx, (below, above)
        inside = is_inside(x, low, high, self.closed)
        gx = torch.where(inside, g, 0.0)
        if not sums:
            return gx, None
        outside = g - gx
        below, above = (
            torch.where(beyond, outside, 0.0).reshape(rows, columns).sum(1)
            for beyond in (x <= low, x >= high)
        )
        return gx, (below, above)


@dataclass(frozen=True)
class _Clip(Primitive):
    interval: Interval

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return self.interval.clip(x)

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return x.clamp(self.interval.low, self.interval.high)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        return (self.interval.pass_gradient(g, x),)


@dataclass(frozen=True)
class _ClipTo(Primitive):
    limits: Limits

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return self.limits.clip(x, *given(parameters))

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        low, high = given(parameters)
        return x.clamp(low, high)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        low, high = given(parameters)
        return self.limits.pass_gradient(g, x, low, high)[0], None, None
