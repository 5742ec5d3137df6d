"""Clipping with a gradient that does not depend on the version of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qbench.quant.primitives.primitive import LOOPS, Primitive

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
    if _is_number(x, low) and _is_number(x, high):
        interval = Interval.of(low, high, closed)
        return _Clip(interval)(x)
    return clip_formula(x, low, high, closed)


def clip_formula(
    x: Tensor, low: float | Tensor | None, high: float | Tensor | None, closed: Closed
) -> Tensor:
    """Compute `clip` with functions that autograd differentiates."""
    clipped = x.detach().clamp(low, high)  # type: ignore[arg-type]  # two numbers or two tensors
    passes = clipped == x
    if low is not None and closed in ("right", "neither"):
        passes = passes & (x != low)
    if high is not None and closed in ("left", "neither"):
        passes = passes & (x != high)
    return torch.where(passes, x, clipped)


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
    def of(low: float | Tensor | None, high: float | Tensor | None, closed: Closed) -> Interval:
        """Return an interval; an end that is None is infinite."""
        return Interval(
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
            closed,
        )

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """The ends as loops take them: both, then each again if it is open, otherwise NaN."""
        left = self.closed in ("right", "neither") and math.isfinite(self.low)
        right = self.closed in ("left", "neither") and math.isfinite(self.high)
        return self.low, self.high, self.low if left else math.nan, self.high if right else math.nan

    @property
    def is_unbounded(self) -> bool:
        """Whether both ends are infinite."""
        return self.low == -math.inf and self.high == math.inf

    def clip(self, x: Tensor) -> Tensor:
        """Clip a tensor; autograd differentiates it as `qbench.functional.clip`."""
        if self.is_unbounded:
            return x
        return clip_formula(x, self.low, self.high, self.closed)

    def pass_gradient(self, g: Tensor, x: Tensor) -> Tensor:
        """Return g where x lies in the interval, otherwise 0, without a compiler."""
        if self.is_unbounded:
            return g
        # Masks are slow in torch. This function has an open interval, and passes g at NaN.
        low, high = torch.tensor([self.low, self.high], dtype=x.dtype)
        if self.closed in ("both", "left"):
            low = low.nextafter(low.new_tensor(-math.inf))
        if self.closed in ("both", "right"):
            high = high.nextafter(high.new_tensor(math.inf))
        values = x.nan_to_num(math.inf, math.inf, -math.inf)
        return torch.ops.aten.hardtanh_backward(g, values, float(low), float(high))


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
        gx = torch.empty_like(x)
        if not LOOPS.run("window", (g, x, gx), (x.numel(),), self.interval.numbers):
            gx = self.interval.pass_gradient(g, x)
        return (gx,)


def _is_number(x: Tensor, end: float | Tensor | None) -> bool:
    """Return whether an end is one number on the CPU of the precision of x."""
    if not isinstance(end, Tensor):
        return True
    return (
        not torch.compiler.is_compiling()
        and end.numel() == 1
        and end.dtype == x.dtype
        and end.device.type == "cpu"
        and end.dim() <= x.dim()
    )
