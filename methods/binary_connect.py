"""BinaryConnect (Courbariaux, Bengio, David, NeurIPS 2015, arXiv:1511.00363).

Weights, 1 bit (Eq. 1–2 and Algorithm 1)::

    deterministic:  w_b = +1 if w ≥ 0 else −1
    stochastic:     w_b = +1 with probability σ(w) = clip((w + 1)/2, 0, 1), else −1

The gradient at w_b is applied to w unchanged, and w is clipped to [−1, 1] after each update.

Activations, 1 bit, as in the authors' sequel (BNN, Courbariaux et al. 2016, arXiv:1602.02830,
Eq. 4)::

    x_b = sign(x),   ∂x_b/∂x = 1 where |x| ≤ 1, else 0

A hard tanh replaces the ReLU before a binarized input, and max-pooling moves before normalisation:
after a ReLU every sign would be +1, and after a maximum nearly every one.

Departures. Stochastic weights are evaluated as sign(w), where the paper evaluates the real-valued
ones, because a table of 1-bit networks lists 1-bit networks. The paper scales the learning rate of
each layer by its Glorot coefficient. Here the recipe sets the learning rate. Its loss is a squared
hinge, and here cross-entropy. The authors binarize all layers; so does ``recipe: paper``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import binarize, clip, straight_through
from qbench.method import Binary, BitWidths, Layer, Method, Quantizer, Recipe
from qbench.quant.surgery import RELU, pool_before_norm, replace_modules

RESNETS = {
    "resnet_tiny": "bnn_resnet8",
    **{f"resnet{n}": f"bnn_resnet{n}" for n in (18, 20, 32, 34, 44, 50, 56)},
}
"""The ResNets of BNN, by the models that they take the place of."""


class BinaryConnect(Method):
    """Weights ±1, without a scale.

    Attributes:
        stochastic: Whether to draw the signs of the weights in training.
    """

    paper = "Courbariaux et al., NeurIPS 2015, arXiv:1511.00363"
    revision = 2
    weights = Binary(scales=0, required=True)
    activations = Binary(scales=0)
    paper_recipe = Recipe(
        optimizer="adam", lr=3e-3, schedule="exponential", final_lr=2e-6, epochs=500, batch_size=50,
    )  # fmt: skip
    paper_layers = "all_but_image"
    stochastic: bool = False

    def network_for(self, model: str, bits: BitWidths) -> str:
        """Return the network of BNN, if inputs are binarized."""
        return model if bits.activations.is_float else RESNETS.get(model, model)

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Let negative values reach a binarized input."""
        if bits.activations.is_float:
            return model
        return replace_modules(pool_before_norm(model), RELU, nn.Hardtanh)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SignWeight:
        """Build the deterministic or the stochastic sign."""
        return SignWeight(self.stochastic)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> SignActivation:
        """Build sign(x)."""
        return SignActivation()


class SignWeight(Quantizer):
    """w_b = sign(w); if stochastic, drawn in training with P(+1) = clip((w + 1)/2, 0, 1).

    Args:
        stochastic: Whether to draw.
    """

    def __init__(self, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = stochastic

    def forward(self, w: Tensor) -> Tensor:
        """Binarize ``w``, any shape."""
        if self.stochastic and self.training:
            return straight_through(w, drawn_sign(w))
        return binarize(w)

    def after_optimizer_step(self, layer: Layer) -> None:
        """Clip the latent weight: w ← clip(w, −1, 1)."""
        layer.latent_weight.clamp_(-1, 1)


class SignActivation(nn.Module):
    """x_b = sign(x), with a gradient where |x| ≤ 1; if stochastic, drawn as in `SignWeight`.

    Args:
        stochastic: Whether to draw in training.
    """

    def __init__(self, stochastic: bool = False) -> None:
        super().__init__()
        self.stochastic = stochastic

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, any shape."""
        if self.stochastic and self.training:
            return straight_through(clip(x, -1, 1), drawn_sign(x))
        return binarize(x, window=1)


def drawn_sign(x: Tensor) -> Tensor:
    """Return +1 with probability clip((x + 1)/2, 0, 1), else −1; shape of ``x``."""
    return 2 * torch.bernoulli(((x.detach() + 1) / 2).clamp(0, 1)) - 1
