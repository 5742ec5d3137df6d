"""The differentiable primitives that methods share.

x is a tensor to quantize, k a bit-width, n = 2^k − 1 its number of steps, [·] rounding to nearest
(ties to even, as in torch), g the gradient that arrives at the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench.quant.staircase.staircase import hard_staircase, staircase


class _RoundSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def round_ste(x: Tensor) -> Tensor:
    """[x], with the straight-through gradient ∂[x]/∂x = 1 (Bengio et al. 2013, arXiv:1308.3432).

    Args:
        x: any shape, floating point.

    Returns:
        The rounded tensor, shape and dtype of ``x``.
    """
    return _RoundSTE.apply(x)


def sign(x: Tensor) -> Tensor:
    """Return the sign of x; the sign of 0 is +1, as a 1-bit code has no zero. No gradient.

    Args:
        x: any shape, floating point.

    Returns:
        −1 or +1, shape and dtype of ``x``.
    """
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """``quantized`` going forward, the identity to ``x`` going backward.

    Args:
        x: the float tensor.
        quantized: its quantized values, same shape; gets no gradient.

    Returns:
        The values of ``quantized``, exactly, with ∂/∂x = 1.
    """
    return _Replace.apply(x, quantized.detach())


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


class _AddGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        return g, g


def add_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """``value`` going forward; going backward, the gradients of both.

    For a quantizer whose levels are learned: ``value`` is a function of the levels, and
    ``surrogate`` stands in for its dependence on the tensor that is quantized.

    Args:
        value: the quantized tensor.
        surrogate: same shape; only its gradient matters.

    Returns:
        The values of ``value``, exactly.
    """
    return _AddGradient.apply(value, surrogate)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Multiply the gradient: x going forward, ``factor`` · g going backward.

    Args:
        x: any shape.
        factor: what gradients are multiplied by.
    """
    return _ScaleGradient.apply(x, factor)


def nearest_level(x: Tensor, levels: Tensor) -> Tensor:
    """Round to the nearest level; halfway between two, to the upper one. No gradient.

    Args:
        x: any shape, floating point.
        levels: (n,), ascending; in the dtype of ``x`` or converted to it.

    Returns:
        Entries of ``levels``, shape and dtype of ``x``.
    """
    levels = levels.to(x.dtype)
    midpoints = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(x.detach().contiguous(), midpoints, right=True)]


def quantize_unit(x: Tensor, bits: int) -> Tensor:
    """q_k(x) = [n·x] / n for x in [0, 1], straight-through (DoReFa-Net, arXiv:1606.06160, Eq. 5).

    Args:
        x: any shape, values in [0, 1].
        bits: k.

    Returns:
        Values i/n, i = 0…n; shape and dtype of ``x``.
    """
    steps = 2**bits - 1
    return round_ste(x * steps) / steps


def filter_dims(weight: Tensor) -> tuple[int, ...]:
    """Dimensions of one filter: all but the output channel, which is the first.

    Args:
        weight: (out, in, …).
    """
    return tuple(range(1, weight.dim()))


def kmeans_1d(values: Tensor, clusters: int, iterations: int = 300) -> Tensor:
    """Centres of one-dimensional k-means, from evenly spaced starts: deterministic.

    Lloyd's algorithm (1982) on sorted values: the nearest centre of a sorted value changes only at
    midpoints, so one iteration is a binary search and differences of a prefix sum.

    Args:
        values: any shape; computed in float64.
        clusters: number of centres.
        iterations: at most this many steps, fewer when nothing moves.

    Returns:
        (clusters,) float64 centres, ascending. A cluster that loses all its values stays where it
        was.
    """
    ordered = values.detach().double().flatten().sort().values
    prefix = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    span = (ordered[-1] - ordered[0]) / clusters
    centres = ordered[0] + span * (torch.arange(clusters).to(ordered) + 0.5)
    for _ in range(iterations):
        inner = torch.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        ends = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(ordered))])
        count = ends.diff()
        moved = torch.where(count > 0, prefix[ends].diff() / count.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


__all__ = [
    "add_gradient",
    "filter_dims",
    "hard_staircase",
    "kmeans_1d",
    "nearest_level",
    "quantize_unit",
    "round_ste",
    "scale_gradient",
    "sign",
    "staircase",
    "straight_through",
]
