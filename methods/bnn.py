"""Binarized Neural Networks (Courbariaux et al., NeurIPS 2016, arXiv:1602.02830).

Weights and activations, 1 bit (Eq. 1)::

    w_b = sign(w),   x_b = sign(x)

The gradient is straight through for weights, which are clipped to [−1, 1] after each update, and
that of a hard tanh for activations (Eq. 4)::

    ∂w_b/∂w = 1,   ∂x_b/∂x = 1[|x| ≤ 1]

A hard tanh replaces every ReLU: after a ReLU every sign would be +1. Max-pooling comes before
normalisation, as in the authors' networks: after it nearly every sign would be +1. ResNets are
those of the authors, which normalise the sum of a block (`qbench.models.binary_resnet`). There are
no scales; batch normalisation takes their place.

``stochastic: true`` draws activations in training, as the authors' Torch code does (Eq. 2)::

    x_b = +1 with probability clip((x + 1)/2, 0, 1), else −1

Departures. The authors' shift-based batch normalisation, AdaMax and learning rates by layer
(Glorot's coefficient) are left to the recipe. They widen the network on ImageNet, where the number
for AlexNet comes from. They binarize all layers, but not the image; so does ``recipe: paper``.
"""

from __future__ import annotations

from torch import Tensor, nn

from qbench.method import Binary, BitWidths, Layer, Method, Recipe
from qbench.quant.surgery import RELU, pool_before_norm, replace_modules

from .binary_connect import RESNETS, SignActivation, SignWeight


class BNN(Method):
    """Weights and activations ±1, without a scale.

    Attributes:
        stochastic: Whether to draw the signs of the activations in training.
    """

    paper = "Courbariaux et al., NeurIPS 2016, arXiv:1602.02830"
    revision = 2
    weights = Binary(scales=0, required=True)
    activations = Binary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="adam", lr=5e-3, schedule="step", milestones=(20, 30, 35, 40),
        milestone_lrs=(1e-3, 5e-4, 1e-4, 1e-5), epochs=50, batch_size=256,
    )  # fmt: skip
    paper_layers = "all_but_image"
    networks = RESNETS
    stochastic: bool = False

    def network_departure(self, model: str, bits: BitWidths) -> str:
        """Return that the bottleneck of the authors does not run."""
        return "the authors' block raises an error" if model == "resnet50" else ""

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Let negative values reach the signs, past ReLUs and pooling."""
        return replace_modules(pool_before_norm(model), RELU, nn.Hardtanh)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SignWeight:
        """Build sign(w)."""
        return SignWeight()

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> SignActivation:
        """Build the deterministic or the stochastic sign."""
        return SignActivation(self.stochastic)
