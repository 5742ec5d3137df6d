"""The staircase of sigmoids of Quantization Networks (arXiv:1911.09464), soft and hard.

    soft, Eq. 7:  y = α ( Σ s_i σ(T(βx − b_i)) − o )
    hard, Eq. 5:  y = α ( Σ s_i A(βx − b_i) − o ),   A the unit step

The soft staircase is a function of the one number βx. Large tensors are therefore read from a table
of that function (`qbench.quant.staircase.table`), which is built once per temperature. Small
tensors, float64 and everything inside ``torch.compile`` take the sum itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench.quant.primitives.levels import to_levels
from qbench.quant.staircase.autograd import SoftStaircase
from qbench.quant.staircase.formula import at_least_float32, sum_of_sigmoids


def staircase(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    scales: Tensor,
    offset: float,
    temperature: Tensor,
) -> Tensor:
    """Compute the soft staircase y = α(Σ s_i σ(T(βx − b_i)) − o) (arXiv:1911.09464, Eq. 7).

    With h_i = σ(T(βx − b_i)), the gradients are ∂y/∂x = αβT Σ s_i h_i(1 − h_i), ∂y/∂α = y/α,
    ∂y/∂β = αT x Σ s_i h_i(1 − h_i) and ∂y/∂b_i = −αT s_i h_i(1 − h_i).

    Args:
        x: Input, any shape, floating point.
        alpha: α, output scale, scalar.
        beta: β, input scale, scalar.
        biases: b, thresholds of the steps, (n,), in any order.
        scales: s, heights of the steps, (n,). They get no gradient.
        offset: o.
        temperature: T, scalar, positive. It gets no gradient.

    Returns:
        y, shape and dtype as ``x``. It is computed in float32 or, if ``x`` or ``alpha`` is, in
        float64.
    """
    if torch.compiler.is_compiling():
        u = at_least_float32(x, alpha) * beta
        total, _ = sum_of_sigmoids(u, biases, scales, temperature)
        return (alpha * (total - offset)).to(x.dtype)
    return SoftStaircase.apply(x, alpha, beta, biases, scales, offset, temperature)


def hard_staircase(
    x: Tensor, alpha: Tensor, beta: Tensor, biases: Tensor, scales: Tensor, offset: float
) -> Tensor:
    """Compute the hard staircase y = α(Σ s_i A(βx − b_i) − o) (arXiv:1911.09464, Eq. 5).

    A is the unit step, with A(0) = 1.

    Args:
        x: Input, any shape, floating point.
        alpha: α, output scale, scalar.
        beta: β, input scale, scalar.
        biases: b, thresholds of the steps, (n,), in any order.
        scales: s, heights of the steps, (n,).
        offset: o.

    Returns:
        y, shape and dtype as ``x``, with at most n + 1 distinct values.
    """
    thresholds, order = biases.sort()
    heights = torch.cat([scales.new_zeros(1), scales[order].cumsum(0)]) - offset
    u = (at_least_float32(x, alpha) * beta).detach()
    return (to_levels(u, thresholds, heights, right=True) * alpha).to(x.dtype)  # A(0) = 1
