"""LSQ+: learned offsets (Bhalgat et al., CVPR Workshops 2020, arXiv:2004.09576).

Activations, s and β learned for each layer (Eq. 3–6), n = 2^k − 1::

    x̂ = [clip((x − β)/s, 0, n)] · s + β
    ∂x̂/∂s = [(x − β)/s] − (x − β)/s inside,   0 below,   n above
    ∂x̂/∂β = 0 inside,   1 outside

Weights are LSQ's, without offset, codes −2^(k−1) … 2^(k−1) − 1. Gradients of s and β are scaled
as in LSQ.

Start (Section 3.3): weights at s = max(|μ − 3σ|, |μ + 3σ|) / 2^(k−1); activations at the s and β
that minimise ‖x̂ − x‖² on calibration data, found by alternating codes and the line through them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import round_ste, scale_gradient
from qbench.method import Integers, Layer, Method, Recipe, Uniform

from .lsq import LearnedStep


class LSQPlus(Method):
    """Step sizes and offsets learned by gradient."""

    name = "lsq_plus"
    title = "LSQ+"
    paper = "Bhalgat et al., CVPR Workshops 2020, arXiv:2004.09576"
    weights = Integers()
    activations = Uniform(offset=True)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        schedule="cosine",
        epochs=90,
        batch_size=256,
        weight_decay=1e-4,
        initialization="pretrained",
    )
    paper_layers = "first_last_8bit"

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedStep:
        """LSQ's, from another start."""
        half = 2 ** (layer.weight_bits.bits - 1)
        mean, std = float(weight.mean()), float(weight.std())
        step = max(abs(mean - 3 * std), abs(mean + 3 * std)) / half
        return LearnedStep(-half, half - 1, max(step, 1e-8), weight.numel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedOffset:
        """With an offset."""
        top = 2**layer.activation_bits.bits - 1
        step, offset = closest(sample, top)
        return LearnedOffset(top, step, offset, sample[0].numel())


class LearnedOffset(nn.Module):
    """x̂ = [clip((x − β)/s, 0, n)] · s + β.

    Args:
        top: n.
        step: s at the start.
        offset: β at the start.
        count: N, of the gradients' scale.
    """

    def __init__(self, top: int, step: float, offset: float, count: int) -> None:
        super().__init__()
        self.top = top
        self.factor = 1 / (count * top) ** 0.5
        self.step = nn.Parameter(torch.tensor(step))  # s
        self.offset = nn.Parameter(torch.tensor(offset))  # β

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        s = scale_gradient(self.step.to(x.dtype), self.factor)
        beta = scale_gradient(self.offset.to(x.dtype), self.factor)
        return round_ste(((x - beta) / s).clamp(0, self.top)) * s + beta


def closest(x: Tensor, top: int, iterations: int = 50) -> tuple[float, float]:
    """Return step and offset at a local minimum of ‖x̂ − x‖², starting from those of the range.

    Given the codes, the best s and β are the least-squares line through (code, x); given s and β,
    the nearest codes are the best. Neither raises the error.

    Args:
        x: any shape.
        top: the largest code.
        iterations: at most so many of each.
    """
    values = x.flatten().double()
    low, high = float(values.min()), float(values.max())
    step, offset = max((high - low) / top, 1e-8), low
    mean = values.mean()
    for _ in range(iterations):
        codes = ((values - offset) / step).round().clamp(0, top)
        spread = codes - codes.mean()
        square = float(spread.square().sum())
        slope = float((spread * values).sum()) / square if square else 0.0
        if slope <= 0:
            break
        moved = slope, float(mean - slope * codes.mean())
        if moved == (step, offset):
            break
        step, offset = moved
    return step, offset
