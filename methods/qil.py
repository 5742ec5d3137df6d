"""QIL: quantization interval learning (Jung et al., CVPR 2019, arXiv:1808.05779).

Each layer learns an interval by its centre c and half-width d. The transformer prunes what is below
the interval, clips what is above and stretches what is inside (Eq. 3–5)::

    weights:      ŵ = 0 where |w| < c − d,   sign(w) where |w| > c + d,
                  else sign(w) (a|w| + b)^γ,   a = 0.5/d,   b = −0.5 c/d + 0.5
    activations:  x̂ = 0 where x < c − d,   1 where x > c + d,   else a x + b

The discretizer rounds (Eq. 2)::

    w̄ = [q ŵ]/q,   q = 2^(k−1) − 1 for weights, 2^k − 1 for activations

Only the rounding is straight through: c, d and γ get the true derivative of the transformer, and
pruned or clipped values get none. Outputs are in [−1, 1]; batch normalisation absorbs the scale. An
input with negative values, such as the image, is treated as a weight with γ = 1.

Departures. The paper reaches k bits from k + 1 by a progression of trainings. Here one training
starts from the full-precision network, with an interval from 0 to the largest magnitude. The
parameters of the interval have ``lr_factor`` times the learning rate of the network.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import clip, integer_range, interval_quantize, is_signed
from qbench.method import Field, Integers, Layer, Method, Recipe


class QIL(Method):
    """Learned intervals of what is pruned, quantized and clipped.

    Attributes:
        learn_gamma: Whether to learn the exponent of the weights' transformer. If not, it is 1.
        lr_factor: Learning rate of the intervals divided by that of the network.
    """

    paper = "Jung et al., CVPR 2019, arXiv:1808.05779"
    revision = 2
    weights = Integers(symmetric=True, named=True, scales=0)
    activations = Integers(bits=range(1, 9), signed=False, scales=0)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.04, schedule="step", milestones=(20, 40, 60, 80), epochs=90,
        batch_size=1024, weight_decay=1e-4, weight_decay_on="all", initialization="pretrained",
    )  # fmt: skip
    learn_gamma: bool = True
    lr_factor: Annotated[float, Field(gt=0)] = 0.01

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> Interval:
        """Build a signed quantizer with γ."""
        return Interval(layer.weight_bits.bits, weight, signed=True, gamma=self.learn_gamma)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> Interval:
        """Build a quantizer without γ that is unsigned after a ReLU."""
        bits = layer.activation_bits.bits
        return Interval(bits, sample, signed=is_signed(sample, bits), gamma=False)


class Interval(nn.Module):
    """Transformer and discretizer.

    Args:
        bits: Bit-width k.
        x: Weight or inputs, any shape. The interval starts from 0 to their largest magnitude.
        signed: Whether values keep their sign. If not, negative ones are pruned.
        gamma: Whether to learn γ.
    """

    def __init__(self, bits: int, x: Tensor, signed: bool, gamma: bool) -> None:
        super().__init__()
        self.signed = signed
        _, self.quant_max = integer_range(bits, signed=signed)  # q
        half = max(float(x.abs().max()), 1e-6) / 2
        self.centre = nn.Parameter(torch.tensor(half))  # c
        self.half_width = nn.Parameter(torch.tensor(half))  # d
        self.gamma = nn.Parameter(torch.tensor(1.0), requires_grad=gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        c, d, gamma = (p.to(x.dtype) for p in (self.centre, self.half_width, self.gamma))
        learned = gamma if self.gamma.requires_grad else None
        d = clip(d, 1e-6)
        return interval_quantize(x, c, d, self.quant_max, gamma=learned, signed=self.signed)
