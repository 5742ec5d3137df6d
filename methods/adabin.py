"""AdaBin: adaptive binary sets (Tu et al., ECCV 2022, arXiv:2208.08084).

Weights, 1 bit, for each filter, with the centre β and the distance α of the two levels fitted to
them::

    β = mean w,   α = √mean (w − β)²,   w_b = α sign(ŵ) + β,   ŵ = (w − β)/α

The derivative of the sign is IR-Net's, k t (1 − tanh²(t ŵ)), with t from 10⁻³ to 10. The gradient
passes through α and β as well.

Activations, 1 bit, with α and β learned for each layer, which start at 1 and 0::

    x_b = α (sign(x̂) + β),   x̂ = (x − β)/α

The derivative of the sign is Bi-Real's. This is the authors' code, whose β of the output has the
factor α.

The network has a shortcut around every binary convolution, as that of Bi-Real Net, and batch
normalization before the classifier. After each sum, and after the first convolution, comes Maxout,
with a scale of each channel for either sign, which start at 1 and ¼::

    f(x) = γ₊ max(x, 0) + γ₋ min(x, 0)

Departures. 1e-12 is added to α², so that a filter of equal weights has a gradient.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from qbench.functional import moments, two_levels
from qbench.method import Binary, BitWidths, Layer, Method, PerChannel, Recipe
from qbench.quant.surgery import add_shortcuts, pool_before_norm, relu_channels

from .ir_net import DecayingSign, norm_before_classifier

_TEMPERATURES = 1e-3, 10.0


class AdaBin(Method):
    """Two levels for each filter and each input, at any centre and distance."""

    name = "adabin"
    title = "AdaBin"
    paper = "Tu et al., ECCV 2022, arXiv:2208.08084"
    weights = Binary(granularity=PerChannel(), scales=2, offset=True, required=True)
    activations = Binary(scales=2, offset=True, required=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, epochs=120, batch_size=256, weight_decay=1e-5,
        weight_decay_on="all",
    )  # fmt: skip

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Add shortcuts, put Maxout in place of ReLUs, and normalize before the classifier."""
        model = maxout_after_stem(pool_before_norm(model))
        return norm_before_classifier(add_shortcuts(model, Maxout))

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> CentredSign:
        """Build w_b."""
        return CentredSign(*_TEMPERATURES)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedSet:
        """Build x_b."""
        return LearnedSet()


def maxout_after_stem(model: nn.Module) -> nn.Module:
    """Replace the first ReLU by Maxout, with the channels of the normalization before it.

    Args:
        model: Model to change, in place.
    """
    for name, channels in itertools.islice(relu_channels(model).items(), 1):
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Maxout(channels))
    return model


class CentredSign(DecayingSign):
    """w_b = α sign(ŵ) + β, for each filter; arguments as of `DecayingSign`."""

    def forward(self, w: Tensor) -> Tensor:
        """Binarize ``w``, (out, in, …)."""
        beta, alpha = moments(w, 1e-12, correction=0)
        return two_levels(
            w, alpha, beta, centre=beta, deviation=alpha, slope="tanh", reach=self.temperature
        )


class LearnedSet(nn.Module):
    """x_b = α (sign((x − β)/α) + β)."""

    def __init__(self) -> None:
        super().__init__()
        self.distance = nn.Parameter(torch.tensor(1.0))  # α
        self.centre = nn.Parameter(torch.tensor(0.0))  # β

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, any shape."""
        alpha, beta = self.distance.to(x.dtype), self.centre.to(x.dtype)
        return two_levels(x, alpha, alpha * beta, centre=beta, deviation=alpha, slope="triangle")


class Maxout(nn.Module):
    """f(x) = γ₊ max(x, 0) + γ₋ min(x, 0).

    Args:
        channels: Number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.positive = nn.Parameter(torch.ones(channels, 1, 1))  # γ₊
        self.negative = nn.Parameter(torch.full((channels, 1, 1), 0.25))  # γ₋

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return self.positive * x.relu() - self.negative * (-x).relu()
