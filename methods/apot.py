"""APoT: additive powers of two (Li, Dong, Wang, ICLR 2020, arXiv:1909.13144).

Levels are sums of powers of two, one of each base set, divided by their largest (Eq. 5; sets as in
the authors' code)::

    2 bits: {0, 2⁻¹, 2⁻², 2⁻³}
    3 bits: {0, 2⁻¹, 2⁻², 2⁻⁴} + {0, 2⁻³}
    4 bits: {0, 2⁻¹, 2⁻³, 2⁻⁵} + {0, 2⁻², 2⁻⁴, 2⁻⁶}   and so on

A k-bit weight has its sign and a (k − 1)-bit magnitude, a k-bit activation k bits. 2-bit weights
are {−1, 0, 1}.

Weights are normalised, then clipped and projected on the levels, α learned (Eq. 6 and 10)::

    w̃ = (w − μ)/σ,   ŵ = α Π(clip(w̃/α, −1, 1))
    ∂ŵ/∂w̃ = 1 inside, 0 outside (2-bit weights: 1)
    ∂ŵ/∂α = sign(w̃) outside,   Π(w̃/α) − w̃/α inside

and activations likewise, x̂ = α Π(clip(x/α, 0, 1)). α starts at 3 for weights, 6 for activations.

``normalization_gradient: false`` takes no gradient through μ and σ, as the authors' CIFAR code.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import add_gradient, nearest_level, straight_through
from qbench.method import Field, Layer, Method, Recipe, SumsOfPowersOfTwo

# Exponents of each base set's powers of two, by bits of the magnitude.
EXPONENTS = {
    2: ((1, 2, 3),),
    3: ((1, 2, 4), (3,)),
    4: ((1, 3, 5), (2, 4, 6)),
    5: ((1, 3, 6), (2, 4, 7), (5,)),
    6: ((1, 4, 7), (2, 5, 8), (3, 6, 9)),
}


class APoT(Method):
    """Levels that are sums of powers of two, a learned clip.

    Options:
        weight_clip: α of normalised weights at the start.
        input_clip: α of activations at the start.
        additive: sums of powers of two; without, powers of two alone.
        normalization_gradient: let gradients through the weights' mean and deviation.
    """

    name = "apot"
    title = "APoT"
    paper = "Li et al., ICLR 2020, arXiv:1909.13144"
    weights = SumsOfPowersOfTwo(bits=range(2, 8))
    activations = SumsOfPowersOfTwo(bits=range(2, 7), signed=False)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        schedule="step",
        milestones=(30, 60, 90),
        gamma=0.1,
        epochs=120,
        batch_size=1024,
        weight_decay=1e-4,
        initialization="pretrained",
    )
    weight_clip: Annotated[float, Field(gt=0)] = 3.0
    input_clip: Annotated[float, Field(gt=0)] = 6.0
    additive: bool = True
    normalization_gradient: bool = True

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> NormalisedWeight:
        """ŵ."""
        bits = layer.weight_bits.bits
        return NormalisedWeight(
            ternary_or(bits - 1, self.additive),
            self.weight_clip,
            clip_gradient=bits > 2,
            normalization_gradient=self.normalization_gradient,
        )

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> PowersOfTwoInput:
        """x̂."""
        return PowersOfTwoInput(
            magnitudes(layer.activation_bits.bits, self.additive), self.input_clip
        )


def ternary_or(bits: int, additive: bool) -> Tensor:
    """Magnitudes of a weight: {0, 1} at one bit, else as an activation's."""
    return torch.tensor([0.0, 1.0]) if bits == 1 else magnitudes(bits, additive)


def magnitudes(bits: int, additive: bool = True) -> Tensor:
    """Levels in [0, 1], ascending, (2^bits,).

    Args:
        bits: of the magnitude, 2 to 6.
        additive: sums of powers of two; without, 0 and 2⁰ … 2^−(2^bits − 2).
    """
    if not additive:
        powers = [2.0**-i for i in range(2**bits - 1)]
        return torch.tensor(sorted([0.0, *powers]))
    sets = [(0.0, *(2.0**-e for e in exponents)) for exponents in EXPONENTS[bits]]
    sums = sorted(sum(parts) for parts in itertools.product(*sets))
    return torch.tensor([value / sums[-1] for value in sums])


class NormalisedWeight(nn.Module):
    """ŵ = α Π(clip(w̃/α, −1, 1)), w̃ = (w − μ)/σ.

    Args:
        levels: magnitudes in [0, 1], ascending.
        clip: α at the start.
        clip_gradient: no gradient to weights that are clipped.
        normalization_gradient: let gradients through μ and σ.
    """

    levels: Tensor

    def __init__(
        self, levels: Tensor, clip: float, clip_gradient: bool, normalization_gradient: bool
    ) -> None:
        super().__init__()
        self.clip_gradient, self.normalization_gradient = clip_gradient, normalization_gradient
        self.register_buffer("levels", levels)
        self.alpha = nn.Parameter(torch.tensor(clip))

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        source = w if self.normalization_gradient else w.detach()
        std = source.std().clamp(min=torch.finfo(w.dtype).tiny)
        normal = (w - source.mean()) / std
        alpha = self.alpha.to(w.dtype)
        inside = normal if self.clip_gradient else normal.detach()
        unit = (inside / alpha).clamp(-1, 1)
        sizes = nearest_level(unit.abs(), self.levels)
        quantized = alpha * straight_through(unit, torch.where(unit < 0, -sizes, sizes))
        return quantized if self.clip_gradient else add_gradient(quantized, normal)


class PowersOfTwoInput(nn.Module):
    """x̂ = α Π(clip(x/α, 0, 1)).

    Args:
        levels: in [0, 1], ascending.
        clip: α at the start.
    """

    levels: Tensor

    def __init__(self, levels: Tensor, clip: float) -> None:
        super().__init__()
        self.register_buffer("levels", levels)
        self.alpha = nn.Parameter(torch.tensor(clip))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        alpha = self.alpha.to(x.dtype)
        unit = (x / alpha).clamp(0, 1)
        return alpha * straight_through(unit, nearest_level(unit, self.levels))
