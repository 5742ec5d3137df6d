"""LSQ: learned step size quantization (Esser et al., ICLR 2020, arXiv:1902.08153).

Weights and activations, s learned for each layer and each of the two (Eq. 1–2)::

    v̄ = [clip(v/s, −Q_N, Q_P)],   v̂ = v̄ · s
    weights:      Q_N = 2^(k−1),  Q_P = 2^(k−1) − 1      activations:  Q_N = 0,  Q_P = 2^k − 1

Gradients (Eq. 3 and 5)::

    ∂v̂/∂s = [v/s] − v/s inside,   −Q_N below,   Q_P above
    ∂v̂/∂v = 1 inside,   0 outside

Step sizes start at 2 mean|v| / √Q_P; their gradient is scaled with 1/√(N Q_P), N the number of
weights, or of features of one sample (Section 2.2).

An input with negative values (the image itself) has a weight's Q_N and Q_P. Options name what ports
do: ``activation_count: numel`` counts the batch in N, ``weight_range: symmetric`` has Q_N = Q_P.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from qbench.functional import round_ste, scale_gradient
from qbench.method import Integers, Layer, Method, Recipe


class LSQ(Method):
    """Step sizes learned by gradient.

    Options:
        weight_range: codes −2^(k−1) … 2^(k−1) − 1, or without the first of them.
        activation_count: what N is for activations: features of a sample, or of the batch.
    """

    name = "lsq"
    title = "LSQ"
    paper = "Esser et al., ICLR 2020, arXiv:1902.08153"
    weights = Integers(named=True)
    activations = Integers(bits=range(1, 9), signed=False)
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
    weight_range: Literal["full", "symmetric"] = "full"
    activation_count: Literal["features", "numel"] = "features"

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedStep:
        """Signed; symmetric where the width names symmetric levels."""
        width = layer.weight_bits
        top = 2 ** (width.bits - 1) - 1
        symmetric = self.weight_range == "symmetric" or width.top is not None
        low = -top if symmetric else -top - 1
        return LearnedStep(low, top, initial_step(weight, top), weight.numel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedStep:
        """Unsigned after a ReLU."""
        bits = layer.activation_bits.bits
        signed = bits > 1 and bool(sample.min() < 0)
        low, top = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        count = sample[0].numel() if self.activation_count == "features" else None
        return LearnedStep(low, top, initial_step(sample, top), count)


def initial_step(v: Tensor, top: int) -> float:
    """2 mean|v| / √Q_P."""
    return max(2 * float(v.abs().mean()) / top**0.5, 1e-8)


class LearnedStep(nn.Module):
    """v̂ = [clip(v/s, −Q_N, Q_P)] · s.

    Args:
        low: −Q_N.
        top: Q_P.
        step: s at the start.
        count: N; None: as many as the tensor has.
    """

    def __init__(self, low: int, top: int, step: float, count: int | None) -> None:
        super().__init__()
        self.low, self.top, self.count = low, top, count
        self.step = nn.Parameter(torch.tensor(step))  # s

    def forward(self, v: Tensor) -> Tensor:
        """Quantize ``v``, any shape."""
        count = v.numel() if self.count is None else self.count
        s = scale_gradient(self.step.to(v.dtype), 1 / (count * self.top) ** 0.5)
        return round_ste((v / s).clamp(self.low, self.top)) * s
