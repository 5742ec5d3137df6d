"""Standardization of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
