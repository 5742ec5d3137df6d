"""StableQAT (Chen et al., 2026, arXiv:2601.19320).

Weights are quantized as by LSQ, with a step s for each output channel::

    v = w/s,   ŵ = clip([v], −Q_N, Q_P) · s,   Q_N = 2^(k−1),   Q_P = 2^(k−1) − 1

The gradient of the step is LSQ's, scaled with 1/√(N Q_P), N the number of weights of the layer. In
place of the straight-through estimator, the gradient of the rounding comes from the Fourier series
of the sawtooth between two levels, of which the first term is kept::

    ∂ŵ/∂w = (1 − √2 π A cos π(v + [v])) / (1 + √2 π A cos π(v + [v])) inside,   0 outside

Inside is −Q_N ≤ v ≤ Q_P. With A = 0 this is LSQ. With A = 0.21, as in the authors' commands, it is
1 halfway between two levels and falls to 1/29 at a level.

Steps start at max|w|/Q_P of the channel. The released code is
for the linear layers of language models and quantizes their weights alone; so it is here.

No recipe for images is public: the released commands train Llama-3.2-1B.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from qbench.functional import fake_quantize, filter_dims, integer_range, scale_gradient
from qbench.method import Field, Integers, Layer, Method, PerChannel

_BOUND = 1 / (2**0.5 * torch.pi)
"""Amplitude at which the gradient at a level is 0; beyond it, the gradient would be negative."""


class StableQAT(Method):
    """LSQ's weights, with a gradient that is small near a level.

    Attributes:
        amplitude: A, below 1/(√2 π).
    """

    name = "stable_qat"
    title = "StableQAT"
    paper = "Chen et al., 2026, arXiv:2601.19320"
    weights = Integers(granularity=PerChannel(), named=True)
    amplitude: Annotated[float, Field(ge=0, lt=_BOUND)] = 0.21

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> FourierStep:
        """Build ŵ; its levels are symmetric where the width names such."""
        width = layer.weight_bits
        codes = integer_range(width.bits, symmetric=width.top is not None)
        return FourierStep(codes, weight, self.amplitude)


class FourierStep(nn.Module):
    """ŵ = clip([w/s], −Q_N, Q_P) · s.

    Args:
        codes: −Q_N and Q_P.
        weight: The weight, (out, in, …).
        amplitude: A.
    """

    def __init__(self, codes: tuple[int, int], weight: Tensor, amplitude: float) -> None:
        super().__init__()
        (self.quant_min, self.quant_max), self.amplitude = codes, amplitude
        self.factor = (weight.numel() * self.quant_max) ** -0.5
        largest = weight.abs().amax(filter_dims(weight), keepdim=True)
        self.step = nn.Parameter((largest / self.quant_max).clamp(min=1e-8))  # s

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        s = scale_gradient(self.step, self.factor).to(w.dtype)
        shaped = _ShapeGradient.apply(w, s.detach(), 2**0.5 * torch.pi * self.amplitude)
        return fake_quantize(shaped, s, self.quant_min, self.quant_max, closed="both")


class _ShapeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, s: Tensor, size: float) -> Tensor:
        ctx.save_for_backward(w, s)
        ctx.size = size
        return w.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        w, s = ctx.saved_tensors
        v = w / s
        wave = ctx.size * torch.cos(torch.pi * (v + v.round()))
        return g * (1 - wave) / (1 + wave), None, None
