"""Integer-arithmetic-only inference (Jacob et al., CVPR 2018, arXiv:1712.05877).

Affine quantization of r in [a, b] with n levels (Eq. 12)::

    s = (b − a)/(n − 1),   q(r) = [(clip(r, a, b) − a)/s] · s + a

with a ≤ 0 ≤ b moved a little, so that zero is one of the levels: r = s (code − z), z an integer.

Weights: a = min w, b = max w of the layer, n = 2^k − 1: the code −2^(k−1) is not used (Section
3.1). Activations: a and b are exponential moving averages of each batch's minimum and maximum,
n = 2^k.

Gradient (simulated quantization): 1 inside [a, b], 0 outside; none to a and b.

``delay`` is how many epochs activations stay at full precision at the start, for their ranges to
settle (Section 3.1); quantization is on from the start by default, for networks are pretrained.

Departures. Batch normalisation is not folded into the weights before they are quantized (Section
3.2). What torch and TFLite ship is this with weights symmetric for each filter: ``scope: filter``
gives each its own range.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import filter_dims, straight_through
from qbench.method import (
    Field,
    Integers,
    Layer,
    Method,
    PerChannel,
    PerTensor,
    Quantizer,
    Recipe,
    ScopeOption,
)


class Jacob(Method):
    """Affine quantization to running ranges.

    Options:
        scope: one range of weights for the layer (the paper), or for each filter.
        momentum: of the running averages of the activations' ranges.
        delay: epochs before activations are quantized.
    """

    name = "jacob"
    title = "Integer-only (Jacob et al.)"
    paper = "Jacob et al., CVPR 2018, arXiv:1712.05877"
    weights = Integers(symmetric=True, scales=2, offset=True)
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=1e-3,
        momentum=0.9,
        schedule="cosine",
        epochs=30,
        batch_size=256,
        weight_decay=4e-5,
        initialization="pretrained",
    )
    paper_layers = "all"
    granularity: ScopeOption = PerTensor()
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    delay: Annotated[int, Field(ge=0)] = 0

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> AffineWeight:
        """From the least to the largest weight."""
        return AffineWeight(layer.weight_bits.bits, per_filter=self.granularity == PerChannel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> AffineInput:
        """Over the running range."""
        return AffineInput(
            layer.activation_bits.bits, sample, self.momentum, started=self.delay == 0
        )

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Start to quantize activations after the delay."""
        for layer in self.layers:
            if isinstance(layer.activation_quantizer, AffineInput):
                layer.activation_quantizer.started.fill_(epoch > self.delay)


class AffineWeight(nn.Module):
    """q(w) over [min w, max w], 2^k − 1 levels.

    Args:
        bits: k.
        per_filter: each output channel has its own range.
    """

    def __init__(self, bits: int, per_filter: bool) -> None:
        super().__init__()
        self.levels, self.per_filter = 2**bits - 1, per_filter

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        dims = filter_dims(w) if self.per_filter else tuple(range(w.dim()))
        fixed = w.detach()
        low, high = fixed.amin(dims, keepdim=True), fixed.amax(dims, keepdim=True)
        return affine(w, low, high, self.levels)


class AffineInput(Quantizer):
    """q(x) over a running range, 2^k levels.

    Args:
        bits: k.
        sample: inputs to take the first range from.
        momentum: weight of the past.
        started: quantize in training.
    """

    low: Tensor
    high: Tensor
    started: Tensor

    def __init__(self, bits: int, sample: Tensor, momentum: float, started: bool) -> None:
        super().__init__()
        self.levels, self.momentum = 2**bits, momentum
        self.register_buffer("low", sample.min())
        self.register_buffer("high", sample.max())
        self.register_buffer("started", torch.tensor(started))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        quantized = affine(x, self.low.to(x.dtype), self.high.to(x.dtype), self.levels)
        if self.training:
            return torch.where(self.started, quantized, x)
        return quantized

    def observe(self, x: Tensor) -> None:
        """Move the range toward this batch's."""
        self.low.lerp_(x.min().to(self.low.dtype), 1 - self.momentum)
        self.high.lerp_(x.max().to(self.high.dtype), 1 - self.momentum)


def affine(r: Tensor, a: Tensor, b: Tensor, n: int) -> Tensor:
    """Eq. 12, with zero one of the levels; straight-through inside [a, b].

    Args:
        r: any shape.
        a: lower end, broadcast against ``r``.
        b: upper end, likewise.
        n: number of levels.
    """
    a, b = a.clamp(max=0), b.clamp(min=0)
    s = ((b - a) / (n - 1)).clamp(min=torch.finfo(r.dtype).tiny)
    z = (-a / s).round()
    clipped = r.clamp(-z * s, (n - 1 - z) * s)
    codes = (r.detach() / s).round().clamp(-z, n - 1 - z)
    return straight_through(clipped, codes * s)
