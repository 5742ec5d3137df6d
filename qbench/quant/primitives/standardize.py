"""Mean and standard deviation, and what is standardized with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qbench.quant.kernels.loops import block_sums
from qbench.quant.primitives.clip import clip
from qbench.quant.primitives.primitive import LOOPS, Primitive, by_formula


def standardize(w: Tensor, *, fixed: bool = False) -> Tensor:
    """Return (w − μ)/σ, with μ the mean of w and σ its standard deviation.

    σ is at least the smallest normal number. A single value has no deviation and is not divided.

    Args:
        w: Floating-point tensor of any shape.
        fixed: Whether μ and σ get no gradient. Default: it passes through them.

    Returns:
        Shape and dtype of ``w``.

    Example:
        >>> import torch
        >>> standardize(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [-1.0, 0.0, 1.0]
    """
    detached = w.detach()
    if w.numel() < 2:
        return w - (detached if fixed else w).mean()
    return _Standardize(fixed, detached.mean(), detached.std())(w)


@dataclass(frozen=True, eq=False)
class _Standardize(Primitive):
    fixed: bool
    mean: Tensor
    deviation: Tensor

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        source = x.detach() if self.fixed else x
        return (x - source.mean()) / _at_least_tiny(source.std())

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return (x - self.mean).div_(_at_least_tiny(self.deviation))

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gx, sums = torch.empty_like(x), block_sums(1, x.numel(), 2)
        deviation = _at_least_tiny(self.deviation)
        sizes = x.numel(), not self.fixed, bool(deviation == self.deviation)
        numbers = float(self.mean), float(deviation)
        if LOOPS.run("standardize_backward", (g, x, gx, sums), sizes, numbers):
            return (gx,)
        return by_formula(self, needed, g, x)


def _at_least_tiny(deviation: Tensor) -> Tensor:
    return clip(deviation, torch.finfo(deviation.dtype).tiny)


def moments(x: Tensor, epsilon: float = 0.0, *, correction: int = 1) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each row of x, with their gradients.

    The deviation is √(Σ(x − μ)²/(n − correction) + ε), n the number of values of a row.

    Args:
        x: Floating-point tensor, (rows, …).
        epsilon: ε, which keeps the gradient of a row of equal values finite.
        correction: What is subtracted from n, less than n.

    Returns:
        Mean and deviation, (rows, 1, …), which broadcast against ``x``.

    Example:
        >>> import torch
        >>> mean, deviation = moments(torch.tensor([[1.0, 3.0]]), correction=0)
        >>> mean.tolist(), deviation.tolist()
        ([[2.0]], [[1.0]])
    """
    return _Moments.apply(x, epsilon, correction)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float, correction: int) -> tuple[Tensor, Tensor]:
        dims, ctx.count = tuple(range(1, x.dim())), x[0].numel()
        ctx.degrees = ctx.count - correction
        mean = x.mean(dims, keepdim=True)
        variance = (x - mean).square_().sum(dims, keepdim=True) / ctx.degrees
        deviation = (variance + epsilon).sqrt()
        ctx.save_for_backward(x, mean, deviation)
        return mean, deviation

    @staticmethod
    def backward(ctx: Any, to_mean: Tensor, to_deviation: Tensor) -> tuple[Tensor, None, None]:
        x, mean, deviation = ctx.saved_tensors
        slope = to_deviation / (ctx.degrees * deviation)
        return torch.addcmul(to_mean / ctx.count - mean * slope, x, slope), None, None
