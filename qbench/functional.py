"""The differentiable primitives that methods share.

x is a tensor to quantize, k a bit-width, n = 2^k − 1 its number of steps, [·] rounding to nearest
(ties to even, as in torch), g the gradient that arrives at the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
    """The sign of x, that of 0 being +1: a 1-bit code has no zero. No gradient.

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
        biases: b, (n,).
        scales: s, (n,), no gradient.
        offset: o.
        temperature: T, scalar, no gradient.

    Returns:
        y, shape and dtype of ``x``; computed in float32 at least. Exact gradients for x, α, β and
        b, with h_i = σ(T(βx − b_i)): ∂y/∂x = αβT Σ s_i h_i(1 − h_i), ∂y/∂α = y/α,
        ∂y/∂β = αT x Σ s_i h_i(1 − h_i), ∂y/∂b_i = −αT s_i h_i(1 − h_i).
    """
    return _Staircase.apply(x, alpha, beta, biases, scales, offset, temperature)


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
        z = _at_least_float32(x, alpha) * (beta * temperature)
        total = torch.full_like(z, -offset)
        slope = torch.zeros_like(z)
        for b, s in zip(biases * temperature, scales, strict=True):
            h = torch.sigmoid(z - b)
            total.add_(h * s)
            slope.add_(h.mul_(1 - h) * s)
        ctx.save_for_backward(x, total, slope, alpha, beta, biases, scales, temperature)
        return (total * alpha).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, total, slope, alpha, beta, biases, scales, temperature = ctx.saved_tensors
        g = g.to(total.dtype)
        g_slope = g * slope * (alpha * temperature)
        g_biases = None
        if ctx.needs_input_grad[3]:
            z = x.to(total.dtype) * (beta * temperature)
            h = [torch.sigmoid(z - b) for b in biases * temperature]
            g_biases = (
                -alpha * temperature * scales * torch.stack([(g * i * (1 - i)).sum() for i in h])
            )
        return (
            (g_slope * beta).to(x.dtype),
            (g * total).sum(),
            (g_slope * x).sum(),
            g_biases,
            None,
            None,
            None,
        )


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


def _at_least_float32(x: Tensor, parameter: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, parameter.dtype)
    return x.to(torch.promote_types(wide, torch.float32))


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
