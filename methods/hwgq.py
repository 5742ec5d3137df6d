"""Half-wave Gaussian quantization (Cai, He, Sun, Vasconcelos, CVPR 2017, arXiv:1702.00953).

Weights, 1 bit: α · sign(w) with α = mean|w| of each filter, as in BWN. The gradient is straight
through, as in the released code.

Activations, k bits: after batch normalisation they are about N(0, 1), so one quantizer is optimal
for all (Eq. 8–9). For this reason max-pooling comes before normalisation, and ResNets are the
authors' pre-activation networks, in which a normalisation stands directly before each quantizer
(`qbench.models.binary_resnet`). A residual network without such a form keeps its order: there a
quantizer sees the sum of a block, which is not N(0, 1).

With m = 2^k − 1 levels q_1 < … < q_m above zero and thresholds t_1 = 0, t_i = (q_(i−1) + q_i)/2::

    Q(x) = q_i where t_i < x ≤ t_(i+1),   0 where x ≤ 0

So every positive value, however small, becomes at least q_1. The levels minimise E(Q(x) − x)² over
x > 0: ``uniform``, q_i = i·Δ with Δ = 0.799, 0.538, 0.3217, 0.185 for 1 to 4 bits; or ``lloyd``,
of which each is the mean of its cell.

Gradient, g = ∂L/∂Q (Section 4.3)::

    clipped:     g · 1[0 < x ≤ q_m]
    vanilla:     g · 1[0 < x]
    log_tailed:  g · 1[0 < x ≤ q_m] + g/(x − τ) · 1[x > q_m],   τ = q_m − 1

Departures, as options. ``plain_norm: true`` removes scale and shift from batch normalisation, as
the released code does. ``dead_zone: true`` rounds x/Δ, as the authors' later code (EdMIPS) does, so
that values below Δ/2 become 0.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from qbench.functional import clip, straight_through, to_levels
from qbench.method import Binary, BitWidths, Integers, Layer, Learned, Method, PerChannel, Recipe
from qbench.quant.surgery import pool_before_norm

from .dorefa import BinaryWeight

STEPS = {1: 0.799, 2: 0.538, 3: 0.3217, 4: 0.185}
Backward = Literal["clipped", "vanilla", "log_tailed"]


class HWGQ(Method):
    """Binary weights; activations at the levels that suit a half-wave Gaussian.

    Attributes:
        levels: Evenly spaced levels, or Lloyd's.
        backward: Derivative that replaces that of the quantizer: of a clipped ReLU, of a ReLU, or
            of a ReLU with a logarithmic tail.
        plain_norm: Whether batch normalisation has no scale and shift.
        dead_zone: Whether to round to evenly spaced levels, so that small values become 0.
    """

    paper = "Cai et al., CVPR 2017, arXiv:1702.00953"
    revision = 2
    weights = Binary(granularity=PerChannel(), required=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, schedule="linear", epochs=64, batch_size=256, weight_decay=5e-5,
    )  # fmt: skip
    networks = {
        "resnet_tiny": "hwgq_resnet8",
        **{f"resnet{n}": f"hwgq_resnet{n}" for n in (18, 20, 32, 34, 44, 50, 56)},
    }
    levels: Literal["uniform", "lloyd"] = "uniform"
    backward: Backward = "clipped"
    plain_norm: bool = False
    dead_zone: bool = False

    def __post_init__(self) -> None:
        """Check that the options fit together."""
        if self.dead_zone and self.levels == "lloyd":
            raise ValueError("dead_zone: it goes with evenly spaced levels, not with lloyd")

    @property
    def activations(self) -> Integers | Learned:
        """Multiples of a step, or Lloyd's levels; both fixed for each bit-width."""
        if self.levels == "lloyd":
            return Learned(bits=range(1, 5), required=True)
        return Integers(bits=range(1, 5), signed=False, scales=0, required=True)

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Pool before batch normalisation, and remove its scale and shift if asked to."""
        if self.plain_norm:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    nn.init.ones_(module.weight).requires_grad_(False)
                    nn.init.zeros_(module.bias).requires_grad_(False)
        return pool_before_norm(model)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> BinaryWeight:
        """Build α · sign(w)."""
        return BinaryWeight(PerChannel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> HalfWave:
        """Build Q(x)."""
        bits = layer.activation_bits.bits
        if self.levels == "uniform":
            levels = [i * STEPS[bits] for i in range(1, 2**bits)]
        else:
            levels = half_gaussian_levels(2**bits - 1)
        return HalfWave(levels, self.backward, self.dead_zone)


class HalfWave(nn.Module):
    """Q(x): 0 below 0, one of the levels above.

    Args:
        levels: q_1 … q_m, ascending.
        backward: As in `HWGQ`.
        dead_zone: Whether the first threshold is q_1/2 rather than 0.
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
        top = self.levels[-1].to(x.dtype)  # q_m
        if self.backward == "log_tailed":
            tail = clip(x, top, closed="neither")
            slope = clip(x.relu(), high=top) + (tail - (top - 1)).log()  # 1/(x − τ) above, 0 below
            return straight_through(slope, to_levels(x.detach(), self.thresholds, self.levels))
        high = top if self.backward == "clipped" else None
        return to_levels(x, self.thresholds, self.levels, low=0, high=high, closed="right")


def half_gaussian_levels(count: int) -> list[float]:
    """Return Lloyd's levels of |x|, x ~ N(0, 1): each is the mean of its cell.

    Args:
        count: Number of levels.
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
    """Return the mean of a standard Gaussian between two bounds."""
    mass = math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))
    density = math.exp(-(low**2) / 2) - math.exp(-(high**2) / 2)
    return density * math.sqrt(2 / math.pi) / mass
