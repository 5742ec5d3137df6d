"""Half-wave Gaussian quantization (Cai, He, Sun, Vasconcelos, CVPR 2017, arXiv:1702.00953).

Weights, 1 bit: as in BWN, α · sign(w) with α = mean|w| of each filter; the gradient is handed on
unchanged, as in the released code.

Activations, k bits: after batch normalisation they are about N(0, 1), so one quantizer is optimal
for all (Eq. 8–9). Max-pooling therefore comes before normalisation, as in the released networks.
With m = 2^k − 1 levels q_1 < … < q_m above zero and thresholds t_1 = 0, t_i = (q_(i−1) + q_i)/2::

    Q(x) = q_i where t_i < x ≤ t_(i+1),   0 where x ≤ 0

so every positive value, however small, becomes at least q_1. Levels minimise E(Q(x) − x)² over
x > 0: ``uniform``, q_i = i·Δ with Δ = 0.799, 0.538, 0.3217, 0.185 for 1 to 4 bits; or ``lloyd``,
each the mean of its cell.

Gradient, g = ∂L/∂Q (Section 4.3)::

    clipped:     g · 1[0 < x ≤ q_m]
    vanilla:     g · 1[0 < x]
    log_tailed:  g · 1[0 < x ≤ q_m] + g/(x − τ) · 1[x > q_m],   τ = q_m − 1

Departures, as options. ``plain_norm: true`` takes scale and shift out of batch normalisation, as
the released code does. ``dead_zone: true`` rounds x/Δ, as the authors' later code (EdMIPS) does:
what lies below Δ/2 becomes 0.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from qbench.functional import filter_dims, sign, straight_through
from qbench.method import (
    Binary,
    BitWidths,
    Integers,
    Layer,
    Learned,
    Levels,
    Method,
    PerChannel,
    Recipe,
)
from qbench.quant.surgery import pool_before_norm

STEPS = {1: 0.799, 2: 0.538, 3: 0.3217, 4: 0.185}
Backward = Literal["clipped", "vanilla", "log_tailed"]


class HWGQ(Method):
    """Binary weights; activations at the levels that suit a half-wave Gaussian.

    Options:
        levels: evenly spaced, or Lloyd's.
        backward: whose derivative stands in for the quantizer's: that of a clipped ReLU, of a
            ReLU, or of one with a logarithmic tail.
        plain_norm: batch normalisation without scale and shift.
        dead_zone: round evenly spaced levels, so that small values become 0.
    """

    name = "hwgq"
    title = "HWGQ"
    paper = "Cai et al., CVPR 2017, arXiv:1702.00953"
    weights = Binary(granularity=PerChannel(), required=True)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        schedule="linear",
        epochs=64,
        batch_size=256,
        weight_decay=5e-5,
        initialization="scratch",
    )
    levels: Literal["uniform", "lloyd"] = "uniform"
    backward: Backward = "clipped"
    plain_norm: bool = False
    dead_zone: bool = False

    def __post_init__(self) -> None:
        """Check the combination."""
        if self.dead_zone and self.levels == "lloyd":
            raise ValueError("dead_zone: it goes with evenly spaced levels, not with lloyd")

    @property
    def activations(self) -> Levels:
        """Multiples of a step, or Lloyd's levels; both fixed for each bit-width."""
        if self.levels == "lloyd":
            return Learned(bits=range(1, 5), required=True)
        return Integers(bits=range(1, 5), signed=False, scales=0, required=True)

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Pool before batch normalisation; take its scale and shift out, where asked to."""
        if self.plain_norm:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    nn.init.ones_(module.weight).requires_grad_(False)
                    nn.init.zeros_(module.bias).requires_grad_(False)
        return pool_before_norm(model)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> WindowedBinaryFilters:
        """α · sign(w)."""
        return WindowedBinaryFilters()

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> HalfWave:
        """Q(x)."""
        bits = layer.activation_bits.bits
        if self.levels == "uniform":
            levels = [i * STEPS[bits] for i in range(1, 2**bits)]
        else:
            levels = half_gaussian_levels(2**bits - 1)
        return HalfWave(levels, self.backward, self.dead_zone)


class WindowedBinaryFilters(nn.Module):
    """w_q = mean|w| · sign(w), the mean over each filter; ∂w_q/∂w = 1."""

    def forward(self, w: Tensor) -> Tensor:
        """Binarise ``w``, (out, in, …)."""
        return straight_through(w, w.abs().mean(filter_dims(w), keepdim=True) * sign(w))


class HalfWave(nn.Module):
    """Q(x), 0 below 0 and one of the levels above.

    Args:
        levels: q_1 … q_m, ascending.
        backward: as in `HWGQ`.
        dead_zone: let the first threshold be q_1/2 in place of 0.
    """

    levels: Tensor
    thresholds: Tensor

    def __init__(self, levels: list[float], backward: Backward, dead_zone: bool) -> None:
        super().__init__()
        self.backward = backward
        q = torch.tensor([0.0, *levels])
        thresholds = (q[1:] + q[:-1]) / 2
        if not dead_zone:
            thresholds[0] = 0.0
        self.register_buffer("levels", q)
        self.register_buffer("thresholds", thresholds)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        levels, thresholds = self.levels.to(x.dtype), self.thresholds.to(x.dtype)
        quantized = levels[torch.bucketize(x.detach().contiguous(), thresholds)]
        return straight_through(self._surrogate(x, levels[-1]), quantized)

    def _surrogate(self, x: Tensor, top: Tensor) -> Tensor:
        """Return a smooth function with the gradient that the option names."""
        if self.backward == "vanilla":
            return x.relu()
        clipped = x.clamp(torch.zeros_like(top), top)
        if self.backward == "clipped":
            return clipped
        tail = (x.clamp(min=top) - (top - 1)).log()  # its slope is 1/(x − τ) above, 0 below
        return clipped + tail


def half_gaussian_levels(count: int) -> list[float]:
    """Lloyd's levels of |x|, x ~ N(0, 1): each the mean of its cell, cells ending at midpoints.

    Args:
        count: number of levels.
    """
    levels = [3.0 * (i + 0.5) / count for i in range(count)]
    for _ in range(10_000):
        inner = [(a + b) / 2 for a, b in itertools.pairwise(levels)]
        ends = [0.0, *inner, math.inf]
        moved = [_mean(a, b) for a, b in itertools.pairwise(ends)]
        if max(abs(a - b) for a, b in zip(moved, levels, strict=True)) < 1e-12:
            break
        levels = moved
    return levels


def _mean(low: float, high: float) -> float:
    """Mean of a standard Gaussian between two bounds."""
    mass = math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))
    density = math.exp(-(low**2) / 2) - math.exp(-(high**2) / 2)
    return density * math.sqrt(2 / math.pi) / mass
