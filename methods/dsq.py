"""DSQ: differentiable soft quantization (Gong et al., ICCV 2019, arXiv:1908.05033).

The range [l, u] has n = 2^k − 1 cells of length Δ = (u − l)/n. In cell i, with middle m_i, a tanh
approximates the step (Eq. 5–8)::

    φ(x) = s tanh(κ (x − m_i)),   m_i = l + (i + ½) Δ
    s = 1/(1 − α),   κ = (1/Δ) ln(2/α − 1)
    Q_S(x) = l + Δ (i + (φ(x) + 1)/2),   l below the range, u above it

so that φ(m_i ± Δ/2) = ±1. α → 0 gives the step, α → 1 the identity. The network computes with the
hard function, sgn φ in place of φ (Eq. 9), and learns with the derivatives of Q_S by x, l, u and α.
α is kept in (0, ½] (Section 3.2).

Ranges start at ±max|w| for weights, and at the least and the largest calibration input for
activations.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import clip, soft_uniform
from qbench.method import Field, Layer, Method, Quantizer, Recipe, Tunable, Uniform


class DSQ(Method):
    """Uniform levels, with the gradient of a staircase of tanh.

    Attributes:
        alpha: Initial α.
        learn_alpha: Whether to learn α.
    """

    paper = "Gong et al., ICCV 2019, arXiv:1908.05033"
    revision = 2
    weights = Uniform(offset=True)
    activations = Uniform(offset=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.01, epochs=90, batch_size=256, weight_decay=1e-4,
        initialization="pretrained",
    )  # fmt: skip
    alpha: Annotated[float, Field(gt=0, le=0.5), Tunable(0.05, 0.4)] = 0.2
    learn_alpha: bool = True

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SoftStaircase:
        """Build a quantizer that starts from ±max|w|."""
        u = float(weight.abs().max())
        return SoftStaircase(self, layer.weight_bits.bits, -u, u)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> SoftStaircase:
        """Build a quantizer that starts from the range of the inputs."""
        low, high = float(sample.min()), float(sample.max())
        return SoftStaircase(self, layer.activation_bits.bits, low, high)


class SoftStaircase(Quantizer):
    """The uniform quantizer on [l, u], with the gradient of Q_S.

    Args:
        method: The method, for its options.
        bits: Bit-width k.
        low: Initial l.
        high: Initial u.
    """

    def __init__(self, method: DSQ, bits: int, low: float, high: float) -> None:
        super().__init__()
        self.n = 2**bits - 1
        self.low = nn.Parameter(torch.tensor(low))  # l
        self.high = nn.Parameter(torch.tensor(max(high, low + 1e-6)))  # u
        self.alpha = nn.Parameter(torch.tensor(method.alpha), requires_grad=method.learn_alpha)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        low, high, alpha = (p.to(x.dtype) for p in (self.low, self.high, self.alpha))
        delta = clip((high - low) / self.n, 1e-8)
        return soft_uniform(x, low, high, delta, alpha, self.n)

    def after_optimizer_step(self, layer: Layer) -> None:
        """Keep α in (0, ½]."""
        self.alpha.clamp_(1e-3, 0.5)
