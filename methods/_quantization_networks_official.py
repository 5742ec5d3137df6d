"""Departures of the released code of Quantization Networks, for ``compat: official``.

github.com/aliyun/alibabacloud-quantization-networks computes the function of
`qbench_methods.quantization_networks` with these differences. With u = βx and h_i = σ(T(u − b_i)):

Weights and activations
    T(u − b_i) is clamped to ±10. In evaluation A(0) = 0.

Weights (``anybit.py``)
    T is at most 2000. The slope is Σ T s_i h_i(1 − h_i), for binary weights with h_i of T = 1. (The
    code as released does so for all weights; its comment says "when train binary model", and a line
    for the others is commented out.) The chain rule is applied after gradients are clipped: the
    gradient of the quantized weight is clipped with those of the network, and only then becomes the
    gradients of the latent weight, α and β.

Activations (``models/resnet18_all.py``)
    The quantizer behind the stem's pooling is computed, and its result is never used. So ResNet-18
    has 16 quantizers of activations in place of 17, and its first block receives unquantized
    values.

Activations (``models/quantization.py``)
    The slope is Σ s_i h_i(1 − s_i h_i) T, which is that of the function if s_i = 1. The only bias
    of binary activations is 0.05 (``config.py``), where the default is from k-means.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from qbench.functional import straight_through
from qbench.method import Layer, Place, Quantizer

MAX_ARGUMENT, MAX_TEMPERATURE = 10, 2000
RELEASED_BIAS = 0.05  # of binary activations


def is_released_stem(layer: Layer) -> bool:
    """Return whether the released code never uses the quantized values of a place.

    In its ResNet that is the place behind the stem's pooling, whose values the first block adds.

    Args:
        layer: A layer or a place.
    """
    return (
        isinstance(layer, Place)
        and layer.kind == "pool_output"
        and any(":add." in name for name in layer.consumers)
    )


class ReleasedStaircase(Quantizer):
    """Evaluation and sums of the released code, on the state of a `SigmoidStaircase`."""

    alpha: nn.Parameter
    beta: nn.Parameter
    biases: nn.Parameter
    scales: Tensor
    temperature: Tensor
    offset: float
    fixed: bool

    def hard(self, x: Tensor) -> Tensor:
        """Compute Eq. 5 with A(0) = 0."""
        passed = x[..., None] * self.beta > self.biases
        return self.alpha * ((passed * self.scales.to(x.dtype)).sum(-1) - self.offset)

    def total(self, u: Tensor, temperature: Tensor) -> Tensor:
        """Compute Σ s_i h_i − o."""
        total = torch.full_like(u, -self.offset)
        for scale, h in self.heights(u, temperature):
            total += scale * h
        return total

    def heights(self, u: Tensor, temperature: Tensor | float) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield s_i and h_i for every step."""
        for scale, bias in zip(self.scales, self.biases, strict=True):
            argument = temperature * (u - bias)
            yield scale, torch.sigmoid(argument.clamp(-MAX_ARGUMENT, MAX_ARGUMENT))


class ReleasedWeights(ReleasedStaircase):
    """Function of weights in the released code."""

    def soft(self, x: Tensor) -> Tensor:
        """Compute Eq. 7. The gradient of ``x`` is that of the quantized weight."""
        with torch.no_grad():
            temperature = self.temperature.clamp(max=MAX_TEMPERATURE)
            quantized = self.alpha * self.total(self.beta * x, temperature)
        return straight_through(x, quantized)

    def before_optimizer_step(self, layer: Layer) -> None:
        """Turn the gradient of the quantized weight into those of the latent weight, α and β."""
        w, g = layer.latent_weight, layer.latent_weight.grad
        if g is None:
            return
        u, temperature = self.beta * w, self.temperature.clamp(max=MAX_TEMPERATURE)
        slope = torch.zeros_like(u)
        binary = len(self.scales) == 1
        for scale, h in self.heights(u, 1.0 if binary else temperature):
            slope += temperature * scale * h * (1 - h)
        if not self.fixed:
            _add_gradient(self.alpha, (self.total(u, temperature) * g).sum())
            _add_gradient(self.beta, (slope * w * self.alpha * g).sum())
        w.grad = slope * self.beta * self.alpha * g


class ReleasedActivations(ReleasedStaircase):
    """Function of activations in the released code."""

    def soft(self, x: Tensor) -> Tensor:
        """Compute Eq. 7 with the released slope."""
        u = self.beta * x
        with torch.no_grad():
            slope = torch.zeros_like(u)
            for scale, h in self.heights(u, self.temperature):
                slope += scale * h * (1 - scale * h) * self.temperature
            total = self.total(u, self.temperature)
        return self.alpha * straight_through(u * slope, total)


def _add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add to a gradient: layers that share a function all contribute."""
    gradient = gradient.to(parameter.dtype)  # that of the weight may be another
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
