"""LSQ+: learned offsets (Bhalgat et al., CVPR Workshops 2020, arXiv:2004.09576).

Activations, with s and β learned for each layer (Eq. 3–6), n = 2^k − 1::

    x̂ = [clip((x − β)/s, 0, n)] · s + β
    ∂x̂/∂s = [(x − β)/s] − (x − β)/s inside,   0 below,   n above
    ∂x̂/∂β = 0 inside,   1 outside

Weights are those of LSQ, without an offset, with codes −2^(k−1) … 2^(k−1) − 1. The gradients of s
and β are scaled as in LSQ.

Initialization (Section 3.3): weights start at s = max(|μ − 3σ|, |μ + 3σ|) / 2^(k−1). Activations
start at the s and β that minimise ‖x̂ − x‖² on calibration data. They are found by alternating
between the codes and the line through them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import fake_quantize, integer_range
from qbench.method import Integers, Layer, Method, Recipe, Uniform

from .lsq import LearnedStep


class LSQPlus(Method):
    """Step sizes and offsets learned by gradient."""

    name = "lsq_plus"
    title = "LSQ+"
    paper = "Bhalgat et al., CVPR Workshops 2020, arXiv:2004.09576"
    revision = 2
    weights = Integers()
    activations = Uniform(offset=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.01, epochs=90, batch_size=256, weight_decay=1e-4,
        initialization="pretrained",
    )  # fmt: skip
    paper_layers = "first_last_8bit"

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedStep:
        """Build the quantizer of LSQ with another initial step."""
        bits = layer.weight_bits.bits
        mean, std = float(weight.mean()), float(weight.std(correction=min(1, weight.numel() - 1)))
        step = max(abs(mean - 3 * std), abs(mean + 3 * std)) / 2 ** (bits - 1)
        return LearnedStep(integer_range(bits), max(step, 1e-8), weight.numel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedOffset:
        """Build a quantizer with an offset."""
        return LearnedOffset(layer.activation_bits.bits, sample)


class LearnedOffset(LearnedStep):
    """x̂ = [clip((x − β)/s, 0, n)] · s + β.

    Args:
        bits: Bit-width k.
        sample: Inputs, (images, …), from which s and β are initialized.
    """

    def __init__(self, bits: int, sample: Tensor) -> None:
        codes = integer_range(bits, signed=False)
        step, offset = fit_line(sample, codes[1])
        super().__init__(codes, step, sample[0].numel())
        self.offset = nn.Parameter(torch.tensor(offset))  # β

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        s, beta = (self.with_scaled_gradient(p, x) for p in (self.step, self.offset))
        return fake_quantize(x, s, 0, self.quant_max, offset=beta)


def fit_line(x: Tensor, quant_max: int, iterations: int = 50) -> tuple[float, float]:
    """Return s and β at a local minimum of ‖x̂ − x‖², starting from those of the whole range.

    Given the codes, the best s and β are the least-squares line through (code, x). Given s and β,
    the nearest codes are the best. Neither step raises the error.

    Args:
        x: Inputs, any shape.
        quant_max: Largest code n.
        iterations: Largest number of iterations. Default: 50.
    """
    x = x.flatten().double()
    s, beta = max(float(x.max() - x.min()) / quant_max, 1e-8), float(x.min())
    for _ in range(iterations):
        codes = ((x - beta) / s).round().clamp(0, quant_max)
        spread = codes - codes.mean()
        slope = float((spread * x).sum() / spread.square().sum().clamp(min=1e-300))
        moved = slope, float(x.mean() - slope * codes.mean())
        if slope <= 0 or moved == (s, beta):
            break
        s, beta = moved
    return s, beta
