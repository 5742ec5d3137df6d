"""Formula of the soft staircase, in torch."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_of_sigmoids(
    u: Tensor, biases: Tensor, scales: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute Σ s_i h_i and its derivatives, with h_i = σ(T(u − b_i)).

    Args:
        u: Input, any shape, floating point.
        biases: b, (n,).
        scales: s, (n,).
        temperature: T, scalar.

    Returns:
        The sum Σ s_i h_i, shape as ``u``, and the derivative s_i T h_i(1 − h_i) of each step,
        shape of ``u`` with (n,) appended.
    """
    h = torch.sigmoid(temperature * (u[..., None] - biases))
    return (h * scales).sum(-1), temperature * scales * h * (1 - h)


def at_least_float32(x: Tensor, parameter: Tensor) -> Tensor:
    """Convert a tensor to the dtype in which the staircase is computed.

    Args:
        x: Tensor, floating point.
        parameter: Parameter that it is combined with.

    Returns:
        ``x`` in the wider of the two dtypes, and in float32 if both are narrower.
    """
    wide = torch.promote_types(x.dtype, parameter.dtype)
    return x.to(torch.promote_types(wide, torch.float32))
