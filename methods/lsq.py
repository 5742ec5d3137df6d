"""LSQ: learned step size quantization (Esser et al., ICLR 2020, arXiv:1902.08153).

Weights and activations, with s learned for each layer and each of the two (Eq. 1–2)::

    v̄ = [clip(v/s, −Q_N, Q_P)],   v̂ = v̄ · s
    weights:      Q_N = 2^(k−1),  Q_P = 2^(k−1) − 1      activations:  Q_N = 0,  Q_P = 2^k − 1

Gradients (Eq. 3 and 5)::

    ∂v̂/∂s = [v/s] − v/s inside,   −Q_N below,   Q_P above
    ∂v̂/∂v = 1 inside,   0 outside

Inside is −Q_N < v/s < Q_P; the ends belong to the outside.

Step sizes start at 2 mean|v| / √Q_P. Their gradient is scaled with 1/√(N Q_P), where N is the
number of weights, or of features of one sample (Section 2.2).

An input with negative values, such as the image, has the Q_N and Q_P of a weight. Options stand for
what ports do: ``activation_count: numel`` counts the batch in N, and ``weight_range: symmetric``
has Q_N = Q_P.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from qbench.functional import fake_quantize, integer_range, is_signed, scale_gradient
from qbench.method import BitWidths, Integers, Layer, Method, Recipe


class LSQ(Method):
    """Step sizes learned by gradient.

    Attributes:
        weight_range: Codes of weights: all of −2^(k−1) … 2^(k−1) − 1, or without the first.
        activation_count: What N counts for activations: the features of a sample, or all values of
            the batch.
    """

    paper = "Esser et al., ICLR 2020, arXiv:1902.08153"
    revision = 2
    weights = Integers(named=True)
    activations = Integers(bits=range(1, 9), signed=False)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.01, epochs=90, batch_size=256, weight_decay=1e-4,
        initialization="pretrained",
    )  # fmt: skip
    paper_layers = "first_last_8bit"
    weight_range: Literal["full", "symmetric"] = "full"
    activation_count: Literal["features", "numel"] = "features"

    def paper_recipe_for(self, bits: BitWidths) -> Recipe:
        """Return the recipe, with less weight decay below 4 bits, and one epoch at 8 bits."""
        width = min(bits.weights.bits, bits.activations.bits)
        if width >= 8:
            return self.paper_recipe.model_copy(update={"lr": 1e-3, "epochs": 1})
        decay = {2: 0.25e-4, 3: 0.5e-4}.get(width, 1e-4)
        return self.paper_recipe.model_copy(update={"weight_decay": decay})

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedStep:
        """Build a signed quantizer; it is symmetric where the width names symmetric levels."""
        width = layer.weight_bits
        symmetric = self.weight_range == "symmetric" or width.top is not None
        codes = integer_range(width.bits, symmetric=symmetric)
        return LearnedStep(codes, initial_step(weight, codes[1]), weight.numel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedStep:
        """Build a quantizer that is unsigned after a ReLU."""
        bits = layer.activation_bits.bits
        codes = integer_range(bits, signed=is_signed(sample, bits))
        count = sample[0].numel() if self.activation_count == "features" else None
        return LearnedStep(codes, initial_step(sample, codes[1]), count)


def initial_step(v: Tensor, quant_max: int) -> float:
    """Return 2 mean|v| / √Q_P."""
    return max(2 * float(v.abs().mean()) / quant_max**0.5, 1e-8)


class LearnedStep(nn.Module):
    """v̂ = [clip(v/s, −Q_N, Q_P)] · s.

    Args:
        codes: −Q_N and Q_P.
        step: Initial s.
        count: N. None: the number of values of the tensor that is quantized.
    """

    def __init__(self, codes: tuple[int, int], step: float, count: int | None) -> None:
        super().__init__()
        (self.quant_min, self.quant_max), self.count = codes, count
        self.step = nn.Parameter(torch.tensor(step))  # s

    def forward(self, v: Tensor) -> Tensor:
        """Quantize ``v``, any shape."""
        s = self.with_scaled_gradient(self.step, v)
        return fake_quantize(v, s, self.quant_min, self.quant_max)

    def with_scaled_gradient(self, parameter: Tensor, v: Tensor) -> Tensor:
        """Return a parameter in the dtype of ``v``, its gradient scaled with 1/√(N Q_P)."""
        count = v.numel() if self.count is None else self.count
        return scale_gradient(parameter.to(v.dtype), 1 / (count * self.quant_max) ** 0.5)
