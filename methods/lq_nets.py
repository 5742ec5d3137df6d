"""LQ-Nets: learned quantization levels (Zhang et al., ECCV 2018, arXiv:1807.10029).

A quantizer of K bits has a basis v ∈ ℝᴷ; its levels are vᵀe_l for all 2ᴷ codes e_l (Eq. 4–5)::

    weights:      e ∈ {−1, +1}ᴷ,  one basis for each filter
    activations:  e ∈ {0, 1}ᴷ,    one basis for the layer

A value goes to the nearest level: thresholds are midpoints of neighbouring levels, and a value on
a threshold goes down.

The basis is learned by quantization error minimisation (QEM, Algorithm 1), one iteration in each
training step: with B the codes of x under the present basis,

    v* = (B Bᵀ)⁻¹ B x,   v ← 0.9 v + 0.1 v*

v gets no gradient. Gradients of the input: ∂w_q/∂w = 1; ∂x_q/∂x = 1 up to the top level, 0 above.

Initial basis (released code): v_j = 2ʲ u with u = 0.6745 √(2/f) / 2^(K−1) for weights, f = fan-out,
and u = 0.6745 · 2 / (2ᴷ − 1) for activations.

Departures. B Bᵀ has 1e-4 on its diagonal and the right-hand side 1e-4 v, as the released code does
for weights; here also for activations, where a code bit that no value uses would make it singular.
``debias: true`` is what the released code's TensorFlow average does by default: v ← v* after the
first step.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from torch import Tensor

from qbench.functional import straight_through
from qbench.method import Field, Layer, Learned, Method, PerChannel, Quantizer, Recipe

RIDGE = 1e-4


class LQNets(Method):
    """Learned levels for weights (each filter) and activations (each layer).

    Options:
        momentum: weight of the past in the basis' moving average.
        debias: correct the average for its start, as the released code's framework did.
    """

    name = "lq_nets"
    title = "LQ-Nets"
    paper = "Zhang et al., ECCV 2018, arXiv:1807.10029"
    weights = Learned(basis=True, granularity=PerChannel())
    activations = Learned(basis=True)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        schedule="step",
        milestones=(30, 60, 85, 95, 105),
        gamma=0.1,
        epochs=120,
        batch_size=256,
        weight_decay=1e-4,
        initialization="scratch",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    debias: bool = False

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedLevels:
        """Codes {−1, +1}ᴷ, a basis for each filter."""
        bits = layer.weight_bits.bits
        fan_out = weight[:, 0].numel()
        unit = 0.6745 * (2 / fan_out) ** 0.5 / 2 ** (bits - 1)
        return LearnedLevels((-1, 1), bits, unit, len(weight), self.momentum, self.debias)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedLevels:
        """Codes {0, 1}ᴷ, one basis."""
        bits = layer.activation_bits.bits
        unit = 0.6745 * 2 / (2**bits - 1)
        return LearnedLevels((0, 1), bits, unit, 1, self.momentum, self.debias)


class LearnedLevels(Quantizer):
    """Nearest of the levels {vᵀe}; v follows the data by QEM.

    Args:
        digits: the two values of a code bit.
        bits: K.
        unit: the initial basis is unit · (1, 2, 4, …).
        groups: number of bases; the input's first dimension is split into as many.
        momentum: of the moving average.
        debias: correct the average for its start.
    """

    codes: Tensor
    basis: Tensor
    updates: Tensor

    def __init__(
        self,
        digits: tuple[int, int],
        bits: int,
        unit: float,
        groups: int,
        momentum: float,
        debias: bool,
    ) -> None:
        super().__init__()
        self.clips = digits[0] == 0
        self.momentum, self.debias = momentum, debias
        codes = torch.tensor(list(itertools.product(digits, repeat=bits)), dtype=torch.float32)
        self.register_buffer("codes", codes)  # (2ᴷ, K)
        self.register_buffer("basis", (unit * 2.0 ** torch.arange(bits)).repeat(groups, 1))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``: (groups, …), or any shape where there is one basis."""
        levels, _ = self._levels()
        quantized = levels.gather(1, self._nearest(x, levels)).view_as(x).to(x.dtype)
        if self.clips:
            x = x.clamp(max=levels.amax().to(x.dtype))
        return straight_through(x, quantized)

    def observe(self, x: Tensor) -> None:
        """One QEM iteration on ``x``, then the moving average."""
        levels, order = self._levels()
        nearest = order.gather(1, self._nearest(x, levels))  # the code of every value
        values = x.reshape(len(self.basis), -1).double()
        # B Bᵀ and B x need of each code only how many values have it, and their sum: in float64,
        # for a float32 cannot count beyond 2²⁴. Sums of products, for autocast rounds matmul.
        codes, zero = self.codes.double(), torch.zeros_like(levels, dtype=torch.float64)
        count = zero.scatter_add(1, nearest, torch.ones_like(values))
        total = zero.scatter_add(1, nearest, values)
        products = codes.unsqueeze(2) * codes.unsqueeze(1)  # (2ᴷ, K, K)
        gram = (count[..., None, None] * products).sum(1)  # (groups, K, K)
        moment = (total.unsqueeze(-1) * codes).sum(1)  # (groups, K)
        ridge = RIDGE * torch.eye(codes.shape[1], dtype=codes.dtype, device=x.device)
        solution = torch.linalg.solve(gram + ridge, moment + RIDGE * self.basis)
        self.updates += 1
        rate = 1 - self.momentum
        if self.debias:
            rate /= 1 - self.momentum ** int(self.updates)
        self.basis.lerp_(solution.to(self.basis.dtype), rate)

    def _levels(self) -> tuple[Tensor, Tensor]:
        """Levels ascending, (groups, 2ᴷ), and the index of each one's code."""
        return torch.sort((self.basis.unsqueeze(1) * self.codes).sum(-1), dim=1)

    def _nearest(self, x: Tensor, levels: Tensor) -> Tensor:
        """Index of the level nearest to every value, (groups, values)."""
        midpoints = (levels[:, 1:] + levels[:, :-1]) / 2
        values = x.detach().reshape(len(levels), -1).to(levels.dtype)
        return torch.searchsorted(midpoints, values)
