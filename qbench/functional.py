"""The differentiable primitives that methods share.

x is a tensor to quantize, k a bit-width, n = 2^k − 1 its number of steps, [·] rounding to nearest
(ties to even, as in torch), g the gradient that arrives at the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench.quant.kmeans import kmeans_1d
from qbench.quant.primitives.cells import cell_sums, scaled_levels, sign_sum
from qbench.quant.primitives.clip import Closed, clip
from qbench.quant.primitives.curves import interval_quantize, soft_uniform, tanh_weight
from qbench.quant.primitives.levels import learned_ternary, nearest_level, ternarize, to_levels
from qbench.quant.primitives.recomputed import note_same
from qbench.quant.primitives.signs import binarize, polynomial_sign, sign
from qbench.quant.primitives.standardize import moments, standardize
from qbench.quant.primitives.straight_through import add_gradient, round_ste, straight_through
from qbench.quant.primitives.two_levels import two_levels
from qbench.quant.primitives.uniform import (
    clip_quantize,
    clip_round,
    fake_quantize,
    interval_round,
)
from qbench.quant.staircase.staircase import hard_staircase, staircase
from qbench.spec.granularity import Granularity


def scaled_sign(w: Tensor, granularity: Granularity) -> Tensor:
    """Return mean|w| · sign(w), the least-squares binarization of each group. No gradient.

    Rastegari et al., ECCV 2016, arXiv:1603.05279, Eq. 6.

    Args:
        w: Weight, (out, in, …).
        granularity: Groups over which the mean is taken.

    Returns:
        Shape and dtype of ``w``.

    Example:
        >>> w = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
        >>> from qbench.method import PerChannel
        >>> scaled_sign(w, PerChannel()).tolist()
        [[2.0, -2.0], [0.5, 0.5]]
    """
    w = w.detach()
    return binarize(w, granularity.reduce(w.abs(), torch.mean))


def integer_range(bits: int, *, signed: bool = True, symmetric: bool = False) -> tuple[int, int]:
    """Return the least and the largest integer of k bits, ``quant_min`` and ``quant_max``.

    Args:
        bits: Bit-width k.
        signed: Whether there are negative integers.
        symmetric: Whether −2^(k−1) is left out.

    Example:
        >>> integer_range(3), integer_range(3, symmetric=True), integer_range(3, signed=False)
        ((-4, 3), (-3, 3), (0, 7))
    """
    if not signed:
        return 0, 2**bits - 1
    quant_max = 2 ** (bits - 1) - 1
    return -quant_max - (not symmetric), quant_max


def is_signed(sample: Tensor, bits: int) -> bool:
    """Return whether an activation needs signed levels: it has negative values and 2 bits or more.

    Args:
        sample: Values of the activation, any shape.
        bits: Bit-width of the activation.
    """
    return bits > 1 and bool(sample.min() < 0)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        note_same(ctx, x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return x in the forward pass and multiply its gradient by a factor.

    Args:
        x: Floating-point tensor of any shape.
        factor: Factor of the gradient.

    Returns:
        The values of ``x``.

    Example:
        >>> s = torch.tensor(3.0, requires_grad=True)
        >>> scale_gradient(s, 0.5).backward()
        >>> s.grad.item()
        0.5
    """
    return _ScaleGradient.apply(x, factor)


def quantize_unit(x: Tensor, bits: int) -> Tensor:
    """Quantize values in [0, 1] to q_k(x) = [n·x] / n, with a straight-through gradient.

    DoReFa-Net, arXiv:1606.06160, Eq. 5.

    Args:
        x: Floating-point tensor of any shape, with values in [0, 1].
        bits: Bit-width k.

    Returns:
        Values i/n, i = 0…n; shape and dtype of ``x``.

    Example:
        >>> quantize_unit(torch.tensor([0.1, 0.4, 0.9]), bits=1).tolist()
        [0.0, 0.0, 1.0]
    """
    steps = 2**bits - 1
    return round_ste(x * steps) / steps


def filter_dims(weight: Tensor) -> tuple[int, ...]:
    """Return the dimensions of one filter: all but the output channel, which is the first.

    Args:
        weight: Weight of a layer, (out, in, …).

    Example:
        >>> filter_dims(torch.zeros(8, 4, 3, 3))
        (1, 2, 3)
    """
    return tuple(range(1, weight.dim()))


__all__ = [
    "Closed",
    "add_gradient",
    "binarize",
    "cell_sums",
    "clip",
    "clip_quantize",
    "clip_round",
    "fake_quantize",
    "filter_dims",
    "hard_staircase",
    "integer_range",
    "interval_quantize",
    "interval_round",
    "is_signed",
    "kmeans_1d",
    "learned_ternary",
    "moments",
    "nearest_level",
    "polynomial_sign",
    "quantize_unit",
    "round_ste",
    "scale_gradient",
    "scaled_levels",
    "scaled_sign",
    "sign",
    "sign_sum",
    "soft_uniform",
    "staircase",
    "standardize",
    "straight_through",
    "tanh_weight",
    "ternarize",
    "to_levels",
    "two_levels",
]
