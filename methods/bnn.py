"""Binarized Neural Networks (Courbariaux et al., NeurIPS 2016, arXiv:1602.02830).

Weights and activations, 1 bit (Eq. 1)::

    w_b = sign(w),   x_b = sign(x)

Gradient, straight through for weights, which are clipped to [−1, 1] after each update; for
activations that of a hard tanh (Eq. 4)::

    ∂w_b/∂w = 1,   ∂x_b/∂x = 1[|x| ≤ 1]

So every ReLU becomes a hard tanh: after a ReLU every sign would be +1. And max-pooling comes before
normalisation, as in the authors' networks: after it nearly every sign would be. There are no
scales; batch normalisation takes their place.

``stochastic: true`` draws activations in training, as the authors' Torch code does (Eq. 2)::

    x_b = +1 with probability clip((x + 1)/2, 0, 1), else −1

Departures: the authors' shift-based batch normalisation and AdaMax, and their learning rate for
each layer (Glorot's coefficient), are left to the recipe. They binarise the last layer, and on
ImageNet widen the network, where the number for AlexNet comes from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import sign, straight_through
from qbench.method import Binary, BitWidths, Layer, Method, Recipe
from qbench.quant.surgery import RELU, pool_before_norm, replace_modules

from .binary_connect import SignWeight


class BNN(Method):
    """Weights and activations ±1, no scale.

    Options:
        stochastic: draw the activations' signs while training.
    """

    name = "bnn"
    title = "BNN"
    paper = "Courbariaux et al., NeurIPS 2016, arXiv:1602.02830"
    weights = Binary(scales=0, required=True)
    activations = Binary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="adam",
        lr=5e-3,
        schedule="step",
        milestones=(20, 30, 35, 40),
        gamma=0.3,
        epochs=50,
        batch_size=256,
        weight_decay=0.0,
        initialization="scratch",
    )
    stochastic: bool = False

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Let negative values reach the signs, past ReLUs and pooling."""
        return replace_modules(pool_before_norm(model), RELU, nn.Hardtanh)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SignWeight:
        """sign(w)."""
        return SignWeight(stochastic=False)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> BinaryActivation:
        """sign(x), or drawn."""
        return BinaryActivation(self.stochastic)

    def after_optimizer_step(self) -> None:
        """Clip the latent weights: w ← clip(w, −1, 1)."""
        for layer in self.layers:
            layer.latent_weight.clamp_(-1, 1)


class BinaryActivation(nn.Module):
    """x_b = sign(x), gradient where |x| ≤ 1.

    Args:
        stochastic: draw it in training, with P(+1) = clip((x + 1)/2, 0, 1).
    """

    def __init__(self, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = stochastic

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        window = x.clamp(-1, 1)
        if self.stochastic and self.training:
            return straight_through(window, 2 * torch.bernoulli((window.detach() + 1) / 2) - 1)
        return straight_through(window, sign(x))
