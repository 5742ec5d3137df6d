"""Ternary-Binary Network (Wan et al., ECCV 2018).

Weights, 1 bit: α · sign(w) with α = mean|w| of each filter, as in BWN, with a straight-through
gradient.

Activations, ternary, for each image, with δ = 0.4::

    Δ = δ · mean|x|
    x_t = +1 where x > Δ,   −1 where x < −Δ,   else 0
    ∂x_t/∂x = 1[|x| ≤ 1]

The block is batch normalisation, ternary activation, convolution. So max-pooling comes before
normalisation, and a hard tanh, which lets negative values through, takes the place of each ReLU but
the one before the classifier. ResNets are the authors' pre-activation networks
(`qbench.models.binary_resnet`).

Departures. The authors have no activation function before x_t; the hard tanh gives the network at
full precision one. It clips a third of the values, so that Δ is lower by a fifth. A residual
network without an authors' form keeps its order, and its quantizers see sums that are not
normalised.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from qbench.functional import ternarize
from qbench.method import Binary, BitWidths, Field, Layer, Method, PerChannel, Recipe, Ternary
from qbench.quant.surgery import pass_signs, pool_before_norm

from .dorefa import BinaryWeight


class TBN(Method):
    """Binary weights with a scale for each filter, ternary activations.

    Attributes:
        threshold: Threshold δ = Δ / mean|x|.
    """

    paper = "Wan et al., ECCV 2018"
    weights = Binary(granularity=PerChannel(), required=True)
    activations = Ternary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, schedule="step", milestones=(30, 60, 90), epochs=100,
        batch_size=256, weight_decay=1e-4,
    )  # fmt: skip
    revision = 2
    networks = {
        "resnet_tiny": "tbn_resnet8",
        **{f"resnet{n}": f"tbn_resnet{n}" for n in (18, 20, 32, 34, 44, 50, 56)},
    }
    threshold: Annotated[float, Field(ge=0)] = 0.4

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Let negative values reach the ternary activations, past ReLUs and pooling."""
        return pass_signs(pool_before_norm(model))

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
        size = x.detach().abs().mean(tuple(range(1, x.dim())), keepdim=True)
        return ternarize(x, self.threshold * size, window=1)
