"""BinaryConnect (Courbariaux, Bengio, David, NeurIPS 2015, arXiv:1511.00363).

Weights, 1 bit (Eq. 1–2 and Algorithm 1)::

    deterministic:  w_b = +1 if w ≥ 0 else −1
    stochastic:     w_b = +1 with probability σ(w) = clip((w + 1)/2, 0, 1), else −1

The gradient at w_b is applied to w unchanged, and w is clipped to [−1, 1] after each update.

Activations, 1 bit, as in the authors' sequel (BNN, Courbariaux et al. 2016, arXiv:1602.02830,
Eq. 4)::

    x_b = sign(x),   ∂x_b/∂x = 1 where |x| ≤ 1, else 0

so a ReLU before a binarised input becomes a hard tanh, and max-pooling comes before normalisation:
after a ReLU every sign would be +1, after a maximum nearly every one.

Departures. Stochastic weights are evaluated as sign(w), where the paper evaluates the real-valued
ones: a table of 1-bit networks lists 1-bit networks. The paper scales each layer's learning rate
by its Glorot coefficient; here the recipe sets the learning rate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import sign, straight_through
from qbench.method import Binary, BitWidths, Layer, Method, Recipe
from qbench.quant.surgery import RELU, pool_before_norm, replace_modules


class BinaryConnect(Method):
    """Weights ±1, no scale.

    Options:
        stochastic: draw the weights' signs while training.
    """

    title = "BinaryConnect"
    paper = "Courbariaux et al., NeurIPS 2015, arXiv:1511.00363"
    weights = Binary(scales=0, required=True)
    activations = Binary(scales=0)
    paper_recipe = Recipe(
        optimizer="adam",
        lr=3e-3,
        schedule="exponential",
        final_lr=2e-6,
        epochs=500,
        batch_size=50,
        weight_decay=0.0,
        initialization="scratch",
    )
    stochastic: bool = False

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Let negative values reach a binarised input."""
        if bits.activations.bits == 1:
            return replace_modules(pool_before_norm(model), RELU, nn.Hardtanh)
        return model

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SignWeight:
        """sign(w), or drawn."""
        return SignWeight(self.stochastic)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> SignInput:
        """sign(x)."""
        return SignInput()

    def after_optimizer_step(self) -> None:
        """Clip the latent weights: w ← clip(w, −1, 1)."""
        for layer in self.layers:
            layer.latent_weight.clamp_(-1, 1)


class SignWeight(nn.Module):
    """w_b = sign(w), or drawn with P(+1) = clip((w + 1)/2, 0, 1) in training.

    Args:
        stochastic: draw.
    """

    def __init__(self, stochastic: bool) -> None:
        super().__init__()
        self.stochastic = stochastic

    def forward(self, w: Tensor) -> Tensor:
        """Binarise ``w``, any shape."""
        if self.stochastic and self.training:
            probability = ((w.detach() + 1) / 2).clamp(0, 1)
            return straight_through(w, 2 * torch.bernoulli(probability) - 1)
        return straight_through(w, sign(w))


class SignInput(nn.Module):
    """x_b = sign(x), gradient where |x| ≤ 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        return straight_through(x.clamp(-1, 1), sign(x))
