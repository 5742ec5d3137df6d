"""DSQ: differentiable soft quantization (Gong et al., ICCV 2019, arXiv:1908.05033).

The range [l, u] has n = 2^k − 1 cells of Δ = (u − l)/n. In cell i, with middle m_i, a tanh stands
for the step (Eq. 5–8)::

    φ(x) = s tanh(κ (x − m_i)),   m_i = l + (i + ½) Δ
    s = 1/(1 − α),   κ = (1/Δ) ln(2/α − 1)
    Q_S(x) = l + Δ (i + (φ(x) + 1)/2),   l below the range, u above it

so that φ(m_i ± Δ/2) = ±1. α → 0 is the step, α → 1 the identity. The network computes with the hard
function, sgn φ in place of φ (Eq. 9), and learns with the derivatives of Q_S: for x, l, u and α,
which is kept in (0, ½] (Section 3.2).

Ranges start at the largest weight, ±max|w|, and at the least and the largest calibration input.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import straight_through
from qbench.method import Field, Layer, Method, Recipe, Uniform


class DSQ(Method):
    """Uniform levels, with the gradient of a staircase of tanh.

    Options:
        alpha: α at the start.
        learn_alpha: learn it.
    """

    name = "dsq"
    title = "DSQ"
    paper = "Gong et al., ICCV 2019, arXiv:1908.05033"
    weights = Uniform(offset=True)
    activations = Uniform(offset=True)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        schedule="cosine",
        epochs=90,
        batch_size=256,
        weight_decay=1e-4,
        initialization="pretrained",
    )
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    learn_alpha: bool = True

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SoftStaircase:
        """Over ±max|w| at the start."""
        u = float(weight.abs().max())
        return self._staircase(layer.weight_bits.bits, -u, u)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> SoftStaircase:
        """Over the inputs' range at the start."""
        return self._staircase(layer.activation_bits.bits, float(sample.min()), float(sample.max()))

    def after_optimizer_step(self) -> None:
        """Keep α in (0, ½]."""
        for layer in self.layers:
            for quantizer in (layer.weight_quantizer, layer.activation_quantizer):
                if isinstance(quantizer, SoftStaircase):
                    quantizer.alpha.clamp_(1e-3, 0.5)

    def _staircase(self, bits: int, low: float, high: float) -> SoftStaircase:
        return SoftStaircase(2**bits - 1, low, high, self.alpha, self.learn_alpha)


class SoftStaircase(nn.Module):
    """The uniform quantizer on [l, u], with the gradient of Q_S.

    Args:
        cells: n.
        low: l at the start.
        high: u at the start.
        alpha: α at the start.
        learn_alpha: learn it.
    """

    def __init__(
        self, cells: int, low: float, high: float, alpha: float, learn_alpha: bool
    ) -> None:
        super().__init__()
        self.cells = cells
        self.low = nn.Parameter(torch.tensor(low))  # l
        self.high = nn.Parameter(torch.tensor(max(high, low + 1e-6)))  # u
        self.alpha = nn.Parameter(torch.tensor(alpha), requires_grad=learn_alpha)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        delta = ((high - low) / self.cells).clamp(min=1e-8)
        with torch.no_grad():
            i = ((x - low) / delta).floor().clamp(0, self.cells - 1)
        middle = low + (i + 0.5) * delta
        hard = low.detach() + delta.detach() * (i + (x >= middle))
        alpha = self.alpha.to(x.dtype)
        kappa = (2 / alpha - 1).log() / delta
        phi = (kappa * (x - middle)).tanh() / (1 - alpha)
        soft = low + delta * (i + (phi + 1) / 2)
        soft = torch.where(x < low, low, torch.where(x > high, high, soft))
        return straight_through(soft, hard.to(x.dtype))
