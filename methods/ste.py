"""Plain uniform quantization with the straight-through estimator: the baseline of baselines.

Straight-through estimator: Bengio, Léonard, Courville, 2013, arXiv:1308.3432.

Weights, k bits, symmetric, n = 2^(k−1) − 1 (2^k − 1 levels; at 2 bits ternary)::

    s = max|w| / n,   w_q = s · clip([w/s], −n, n)
    k = 1:  w_q = mean|w| · sign(w)

Activations, k bits, after a ReLU, n = 2^k − 1, r the range of the input::

    s = r / n,        x_q = s · clip([x/s], 0, n)

An input that takes negative values (the image itself) is quantized symmetrically, as a weight is,
at 1 bit to r · sign(x). r is a running average of each batch's maximum (or a percentile of it),
taken in training only.

Gradient: ∂w_q/∂w = 1, ∂x_q/∂x = 1 inside the range and 0 outside; s and r get none.

No paper defines this baseline. The moving-average range is that of Jacob et al. (CVPR 2018,
arXiv:1712.05877).
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from qbench.functional import filter_dims, round_ste, sign, straight_through
from qbench.method import Binary, Field, Integers, Layer, Method, PerChannel, Quantizer, ScopeOption


class STE(Method):
    """Uniform quantization to the maximum, straight-through gradient.

    Options:
        scope: one weight scale for each filter, or for the layer.
        percentile: share of each batch's activations that the range covers, in percent.
        momentum: of the running average of the activations' range.
    """

    title = "STE"
    paper = "Bengio et al., 2013, arXiv:1308.3432"
    weights = Binary() | Integers(symmetric=True, named=True)
    activations = Integers(bits=range(1, 9), signed=False)
    granularity: ScopeOption = PerChannel()
    percentile: Annotated[float, Field(gt=0, le=100)] = 100.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> UniformWeight:
        """Symmetric, scaled to the maximum."""
        return UniformWeight(layer.weight_bits.bits, per_filter=self.granularity == PerChannel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> UniformInput:
        """Unsigned after a ReLU, scaled to the running maximum."""
        return UniformInput(layer.activation_bits.bits, sample, self.percentile, self.momentum)


class UniformWeight(Quantizer):
    """w_q = s · clip([w/s], −n, n), s = max|w|/n; at 1 bit mean|w| · sign(w).

    Args:
        bits: k.
        per_filter: one s for each output channel.
    """

    def __init__(self, bits: int, per_filter: bool) -> None:
        super().__init__()
        self.bits, self.per_filter = bits, per_filter

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        dims = filter_dims(w) if self.per_filter else tuple(range(w.dim()))
        size = w.detach().abs()
        if self.bits == 1:
            return straight_through(w, size.mean(dims, keepdim=True) * sign(w))
        n = 2 ** (self.bits - 1) - 1
        s = size.amax(dims, keepdim=True) / n
        s = torch.where(s > 0, s, 1.0)  # a filter of zeros stays one
        return round_ste(w / s) * s


class UniformInput(Quantizer):
    """x_q = s · clip([x/s], 0, n), s = r/n, r a running average of the batch's range.

    Args:
        bits: k.
        sample: inputs to take the first range from.
        percentile: of |x|, in percent, that a batch's range is.
        momentum: weight of the past in the running average.
    """

    range: Tensor

    def __init__(self, bits: int, sample: Tensor, percentile: float, momentum: float) -> None:
        super().__init__()
        self.percentile, self.momentum = percentile, momentum
        self.bits = bits
        self.signed = bool(sample.min() < 0)
        self.register_buffer("range", self._range(sample))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        r = self.range.to(x.dtype).clamp(min=torch.finfo(x.dtype).tiny)
        if self.signed and self.bits == 1:
            return straight_through(x.clamp(-r, r), r * sign(x))
        n = 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1
        s = r / n
        return round_ste((x / s).clamp(-n if self.signed else 0, n)) * s

    def observe(self, x: Tensor) -> None:
        """Move the range toward this batch's."""
        self.range.lerp_(self._range(x).to(self.range.dtype), 1 - self.momentum)

    def _range(self, x: Tensor) -> Tensor:
        size = x.abs().flatten().float()
        if self.percentile < 100:
            kept = max(1, round(size.numel() * self.percentile / 100))
            return size.kthvalue(kept).values.clamp(min=1e-8)
        return size.max().clamp(min=1e-8)
