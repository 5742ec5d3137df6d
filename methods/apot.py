"""APoT: additive powers of two (Li, Dong, Wang, ICLR 2020, arXiv:1909.13144).

Levels are sums of powers of two, one from each base set, divided by the largest sum (Eq. 5; sets as
in the authors' code)::

    2 bits: {0, 2⁻¹, 2⁻², 2⁻³}
    3 bits: {0, 2⁻¹, 2⁻², 2⁻⁴} + {0, 2⁻³}
    4 bits: {0, 2⁻¹, 2⁻³, 2⁻⁵} + {0, 2⁻², 2⁻⁴, 2⁻⁶}   and so on

A k-bit weight has a sign and a (k − 1)-bit magnitude, a k-bit activation a k-bit magnitude. 2-bit
weights are {−1, 0, 1}. 8-bit weights, which the paper has in the first and the last layer, are
evenly spaced, ŵ = [w/s] s with s = max|w|/127 and ∂ŵ/∂w = 1.

Weights are normalised, then clipped and projected on the levels, with α learned (Eq. 6 and 10)::

    w̃ = (w − μ)/σ,   ŵ = α Π(clip(w̃/α, −1, 1))
    ∂ŵ/∂w̃ = 1 inside, 0 outside (2-bit weights: 1)
    ∂ŵ/∂α = sign(w̃) outside,   Π(w̃/α) − w̃/α inside

and activations likewise, x̂ = α Π(clip(x/α, 0, 1)). α starts at 3 for weights, at 6 for activations.

``normalization_gradient: false`` stops the gradient through μ and σ, as in the authors' CIFAR code.

Departures. The authors reach k bits from k + 1 by a progression of trainings; here training starts
from the full-precision network. Their s of 8-bit weights is max w/127, which is smaller if the
largest weight is negative.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import add_gradient, scaled_levels, standardize, straight_through
from qbench.method import BitWidths, Field, Integers, Layer, Method, Recipe, SumsOfPowersOfTwo

# Exponents of the powers of two in each base set, by bits of the magnitude.
EXPONENTS = {
    1: ((0,),),
    2: ((1, 2, 3),),
    3: ((1, 2, 4), (3,)),
    4: ((1, 3, 5), (2, 4, 6)),
    5: ((1, 3, 6), (2, 4, 7), (5,)),
    6: ((1, 4, 7), (2, 5, 8), (3, 6, 9)),
}


class APoT(Method):
    """Levels that are sums of powers of two, and a learned clip.

    Attributes:
        weight_clip: Initial α of normalised weights.
        input_clip: Initial α of activations.
        additive: Whether levels are sums of powers of two. If not, they are powers of two.
        normalization_gradient: Whether gradients pass through the mean and deviation of weights.
    """

    name = "apot"
    paper = "Li et al., ICLR 2020, arXiv:1909.13144"
    revision = 2
    weights = SumsOfPowersOfTwo(bits=range(2, 8)) | Integers(bits=(8,), symmetric=True)
    activations = SumsOfPowersOfTwo(bits=range(2, 7), signed=False)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.01, schedule="step", milestones=(30, 60, 90), epochs=100,
        batch_size=1024, weight_decay=1e-4, weight_decay_on="all", initialization="pretrained",
    )  # fmt: skip
    paper_layers = "first_last_8bit_weights"
    weight_clip: Annotated[float, Field(gt=0)] = 3.0
    input_clip: Annotated[float, Field(gt=0)] = 6.0
    additive: bool = True
    normalization_gradient: bool = True

    def paper_recipe_for(self, bits: BitWidths) -> Recipe:
        """Return the recipe, with another rate and weight decay at 2 bits."""
        changes = {"lr": 0.04, "weight_decay": 2e-5} if bits.weights.bits == 2 else {}
        return self.paper_recipe.model_copy(update=changes)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        """Build ŵ."""
        bits = layer.weight_bits.bits
        return EightBitWeight() if bits == 8 else NormalisedWeight(self, bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> PowersOfTwoActivation:
        """Build x̂."""
        levels = magnitudes(layer.activation_bits.bits, self.additive)
        return PowersOfTwoActivation(levels, self.input_clip)


def magnitudes(bits: int, additive: bool) -> Tensor:
    """Return the levels in [0, 1], ascending, (2^bits,).

    Args:
        bits: Bits of the magnitude, 1 to 6.
        additive: Whether they are sums of powers of two. If not, they are 0 and
            2⁰ … 2^−(2^bits − 2).
    """
    sets = EXPONENTS[bits] if additive else (tuple(range(2**bits - 1)),)
    terms = [(0.0, *(2.0**-e for e in exponents)) for exponents in sets]
    sums = sorted(sum(parts) for parts in itertools.product(*terms))
    return torch.tensor([value / sums[-1] for value in sums])


class PowersOfTwoActivation(nn.Module):
    """x̂ = α Π(clip(x/α, 0, 1)).

    Args:
        levels: Levels of Π in [0, 1], ascending.
        clip: Initial α.
    """

    levels: Tensor

    def __init__(self, levels: Tensor, clip: float) -> None:
        super().__init__()
        self.register_buffer("levels", levels)
        self.alpha = nn.Parameter(torch.tensor(clip))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return scaled_levels(x, self.alpha.to(x.dtype), self.levels)


class EightBitWeight(nn.Module):
    """ŵ = [w/s] s, s = max|w|/127, ∂ŵ/∂w = 1."""

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        s = (w.detach().abs().max() / 127).clamp(min=torch.finfo(w.dtype).tiny)
        return straight_through(w, (w.detach() / s).round() * s)


class NormalisedWeight(PowersOfTwoActivation):
    """ŵ = α Π(clip(w̃/α, −1, 1)), w̃ = (w − μ)/σ.

    Args:
        method: The method, for its options.
        bits: Bit-width k.
    """

    def __init__(self, method: APoT, bits: int) -> None:
        super().__init__(magnitudes(bits - 1, method.additive), method.weight_clip)
        self.clip_gradient = bits > 2  # no gradient to weights that are clipped
        self.normalization_gradient = method.normalization_gradient

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        normal = standardize(w, fixed=not self.normalization_gradient)
        alpha = self.alpha.to(w.dtype)
        if self.clip_gradient:
            return scaled_levels(normal, alpha, self.levels, signed=True)
        fixed = scaled_levels(normal.detach(), alpha, self.levels, signed=True)
        return add_gradient(fixed, normal)
