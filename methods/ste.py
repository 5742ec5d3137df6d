"""Plain uniform quantization with the straight-through estimator: the baseline of all others.

Straight-through estimator: Bengio, Léonard, Courville, 2013, arXiv:1308.3432.

Weights, k bits, symmetric, n = 2^(k−1) − 1 (2^k − 1 levels; at 2 bits ternary)::

    s = max|w| / n,   w_q = s · clip([w/s], −n, n)
    k = 1:  w_q = mean|w| · sign(w)

Activations, k bits, after a ReLU, n = 2^k − 1, r the range of the input::

    s = r / n,        x_q = s · clip([x/s], 0, n)

An input with negative values (the image itself) is quantized symmetrically, as a weight is, and at
1 bit to r · sign(x). r is a running average of the maximum of each batch (or of a percentile),
taken in training only.

Gradient: ∂w_q/∂w = 1, ∂x_q/∂x = 1 inside the range, 0 outside and at its ends. s and r get none.

No paper defines this baseline. The moving-average range is that of Jacob et al. (CVPR 2018,
arXiv:1712.05877).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from qbench.functional import (
    binarize,
    clip,
    fake_quantize,
    integer_range,
    sign,
    straight_through,
)
from qbench.method import Binary, Field, Integers, Layer, Method, PerChannel, Quantizer, ScopeOption


class STE(Method):
    """Uniform quantization to the maximum, with a straight-through gradient.

    Attributes:
        scope: Granularity of the weights' scales.
        percentile: Percentage of each batch's activations that the range covers.
        momentum: Momentum of the running average of the activations' range.
    """

    paper = "Bengio et al., 2013, arXiv:1308.3432"
    weights = Binary() | Integers(symmetric=True, named=True)
    activations = Integers(bits=range(1, 9), signed=False)
    granularity: ScopeOption = PerChannel()
    percentile: Annotated[float, Field(gt=0, le=100)] = 100.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> UniformWeight:
        """Build a symmetric quantizer, scaled to the maximum."""
        return UniformWeight(layer.weight_bits.bits, self)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> UniformActivation:
        """Build a quantizer scaled to the running maximum."""
        return UniformActivation(layer.activation_bits.bits, sample, self)


class UniformWeight(Quantizer):
    """w_q = s · clip([w/s], −n, n), s = max|w|/n; at 1 bit mean|w| · sign(w).

    Args:
        bits: Bit-width k.
        method: The method, for its granularity.
    """

    def __init__(self, bits: int, method: STE) -> None:
        super().__init__()
        self.bits, self.granularity = bits, method.granularity

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        if self.bits == 1:
            return binarize(w, self.granularity.reduce(w.detach().abs(), torch.mean))
        _, n = integer_range(self.bits)
        s = self.granularity.reduce(w.detach().abs(), torch.amax) / n
        s = torch.where(s > 0, s, 1.0)  # a filter of zeros stays one
        return fake_quantize(w, s)  # no code is beyond n


class UniformActivation(Quantizer):
    """x_q = s · clip([x/s], 0, n), s = r/n, r a running average of the batch's range.

    Args:
        bits: Bit-width k.
        sample: Inputs from which the first range is taken.
        method: The method, for its percentile and momentum.
    """

    range: Tensor

    def __init__(self, bits: int, sample: Tensor, method: STE) -> None:
        super().__init__()
        self.percentile, self.momentum = method.percentile, method.momentum
        self.signed = bool(sample.min() < 0)
        self.binary = self.signed and bits == 1
        self.quant_min, self.quant_max = integer_range(bits, signed=self.signed, symmetric=True)
        self.register_buffer("range", self._range(sample))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        r = self.range.to(x.dtype).clamp(min=torch.finfo(x.dtype).tiny)
        if self.binary:
            return straight_through(clip(x, -r, r, closed="neither"), r * sign(x))
        return fake_quantize(x, r / self.quant_max, self.quant_min, self.quant_max)

    def observe(self, x: Tensor) -> None:
        """Move the range toward that of the batch."""
        self.range.lerp_(self._range(x).to(self.range.dtype), 1 - self.momentum)

    def _range(self, x: Tensor) -> Tensor:
        size = x.abs().flatten().float()
        kept = max(1, round(size.numel() * self.percentile / 100))
        largest = size.max() if self.percentile == 100 else size.kthvalue(kept).values
        return largest.clamp(min=1e-8)
