"""Ternary-Binary Network (Wan et al., ECCV 2018).

Weights, 1 bit: α · sign(w) with α = mean|w| of each filter, as in BWN, with a straight-through
gradient.

Activations, ternary, for each image, with δ = 0.4::

    Δ = δ · mean|x|
    x_t = +1 where x > Δ,   −1 where x < −Δ,   else 0
    ∂x_t/∂x = 1[|x| ≤ 1]

The block is batch normalisation, ternary activation, convolution. So a hard tanh, which lets
negative values through, replaces every ReLU, and max-pooling comes before normalisation.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from qbench.functional import clip, straight_through
from qbench.method import Binary, BitWidths, Field, Layer, Method, PerChannel, Recipe, Ternary
from qbench.quant.surgery import RELU, pool_before_norm, replace_modules

from .dorefa import BinaryWeight


class TBN(Method):
    """Binary weights with a scale for each filter, ternary activations.

    Attributes:
        threshold: Threshold δ = Δ / mean|x|.
    """

    paper = "Wan et al., ECCV 2018"
    revision = 2
    weights = Binary(granularity=PerChannel(), required=True)
    activations = Ternary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, schedule="step", milestones=(30, 60, 90), epochs=100,
        batch_size=256, weight_decay=1e-4,
    )  # fmt: skip
    threshold: Annotated[float, Field(ge=0)] = 0.4

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Let negative values reach the ternary activations, past ReLUs and pooling."""
        return replace_modules(pool_before_norm(model), RELU, nn.Hardtanh)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> BinaryWeight:
        """Build α · sign(w)."""
        return BinaryWeight(PerChannel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> TernaryActivation:
        """Build x_t."""
        return TernaryActivation(self.threshold)


class TernaryActivation(nn.Module):
    """x_t ∈ {−1, 0, 1}, with a Δ for each image.

    Args:
        threshold: Threshold δ.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Ternarize ``x``, (images, …)."""
        size = x.detach().abs()
        delta = self.threshold * size.mean(tuple(range(1, x.dim())), keepdim=True)
        return straight_through(clip(x, -1, 1), x.sign() * (size > delta))
