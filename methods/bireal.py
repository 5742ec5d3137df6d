"""Bi-Real Net (Liu et al., ECCV 2018, arXiv:1808.00278).

Weights, 1 bit, for each filter (Section 3.3)::

    w_b = mean|w| · sign(w),   ∂w_b/∂w = 1[|w| ≤ 1]

This is the gradient of the released PyTorch code, whose learning rate the recipe has. The released
Caffe code, for SGD, passes the gradient without the window. ``gradient: paper`` is the paper's
magnitude-aware gradient, mean|w| · 1[|w| < 1], which neither has: with it, a step of SGD at the
same learning rate is shorter by the factor mean|w|.

Activations, 1 bit, with the derivative of a piecewise polynomial (Eq. 7–8)::

    x_b = sign(x),   ∂x_b/∂x = 2 + 2x where −1 ≤ x < 0,   2 − 2x where 0 ≤ x < 1,   else 0

The network has a shortcut around every binary convolution and no ReLU. A block is sign,
convolution, normalisation, plus the input of the block; max-pooling, if any, comes before
normalisation. Where the shape changes, the shortcut averages over the stride. It then has a
full-precision 1×1 convolution with normalisation if the network has one there; otherwise channels
are repeated.

Departures. A residual block that is not torchvision's basic one keeps its own shortcut as well, and
a bottleneck gets no other. The paper trains in three stages, the first two with leaky and plain
clips in place of signs. Here one training starts from the weights of the recipe.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from qbench.functional import binarize, filter_dims, polynomial_sign
from qbench.method import Binary, BitWidths, Layer, Method, PerChannel, Recipe
from qbench.quant.surgery import add_shortcuts, pool_before_norm


class BiReal(Method):
    """Binary weights and activations, with a shortcut around every convolution.

    Attributes:
        gradient: Gradient of the weights: that of the released code, or the paper's, which has the
            factor mean|w|.
    """

    name = "bireal"
    title = "Bi-Real"
    paper = "Liu et al., ECCV 2018, arXiv:1808.00278"
    revision = 2
    weights = Binary(granularity=PerChannel(), required=True)
    activations = Binary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="adam", lr=1e-3, schedule="linear", epochs=256, batch_size=512,
        label_smoothing=0.1,
    )  # fmt: skip
    gradient: Literal["paper", "code"] = "code"

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Add shortcuts, remove ReLUs, and pool before normalisation."""
        return add_shortcuts(pool_before_norm(model), lambda channels: nn.Identity())

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> MagnitudeAwareWeight:
        """Build w_b."""
        return MagnitudeAwareWeight(magnitude_aware=self.gradient == "paper")

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        """Build x_b."""
        return PolynomialSign()


class MagnitudeAwareWeight(nn.Module):
    """w_b = mean|w| · sign(w), the mean over each filter and without a gradient.

    Args:
        magnitude_aware: Whether the gradient has the factor mean|w| too.
    """

    def __init__(self, magnitude_aware: bool) -> None:
        super().__init__()
        self.magnitude_aware = magnitude_aware

    def forward(self, w: Tensor) -> Tensor:
        """Binarize ``w``, (out, in, …)."""
        size = w.detach().abs().mean(filter_dims(w), keepdim=True)
        if self.magnitude_aware:
            return binarize(
                w, size, window=1, closed="neither", slopes=(size, torch.zeros_like(size))
            )
        return binarize(w, size, window=1)


class PolynomialSign(nn.Module):
    """x_b = sign(x), whose derivative is a triangle."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, any shape."""
        return polynomial_sign(x)
