"""Integer-arithmetic-only inference (Jacob et al., CVPR 2018, arXiv:1712.05877).

Affine quantization of r in [a, b] with n levels (Eq. 12)::

    s = (b − a)/(n − 1),   q(r) = [(clip(r, a, b) − a)/s] · s + a

with a ≤ 0 ≤ b moved a little, so that zero is one of the levels: r = s (code − z), z an integer.

Weights: a = min w, b = max w of the layer, n = 2^k − 1. The code −2^(k−1) is not used (Section
3.1). Activations: a and b are exponential moving averages of the minimum and the maximum of each
batch, n = 2^k.

Gradient (simulated quantization): 1 inside [a, b], 0 outside. None passes to a and b.

``delay`` is the number of epochs, and ``delay_steps`` of steps, at the start in which activations
stay at full precision, so that their ranges settle (Section 3.1). By default quantization starts at
once, because networks are pretrained. ``recipe: paper`` has the paper's delay of 500,000 steps, and
ranges that are smoothed over thousands of steps.

Activations are quantized behind each ReLU, and at both inputs and the output of additions (Appendix
A.2): ``placement`` is ``after_activation_and_add``.

Departures. Batch normalisation is not folded into the weights before they are quantized (Section
3.2). What torch and TFLite ship is this method with symmetric weights for each filter. ``scope:
filter`` gives each filter a range of its own.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import clip_quantize
from qbench.method import Field, Integers, Layer, Method, PerTensor, Quantizer, Recipe, ScopeOption


class Jacob(Method):
    """Affine quantization to running ranges.

    Attributes:
        scope: Weights that share a range. Default: those of a layer, as in the paper.
        momentum: Weight of the past in the running averages of the activations' ranges.
        delay: Number of epochs before activations are quantized.
        delay_steps: Number of optimizer steps before activations are quantized.
    """

    title = "Integer-only (Jacob et al.)"
    paper = "Jacob et al., CVPR 2018, arXiv:1712.05877"
    revision = 2
    weights = Integers(symmetric=True, scales=2, offset=True)
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=1e-5, schedule="step", milestones=(30, 60, 90), epochs=100,
        batch_size=32, initialization="pretrained",
    )  # fmt: skip
    paper_layers = "all"
    placement = "after_activation_and_add"
    paper_options = {"delay_steps": 500_000, "momentum": 0.999}
    later_options = frozenset({"delay_steps"})
    granularity: ScopeOption = PerTensor()
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    delay: Annotated[int, Field(ge=0)] = 0
    delay_steps: Annotated[int, Field(ge=0)] = 0

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> AffineWeight:
        """Build the quantizer over the range of the weights."""
        return AffineWeight(self, 2**layer.weight_bits.bits - 1)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> AffineActivation:
        """Build the quantizer over the running range of the inputs."""
        return AffineActivation(self, 2**layer.activation_bits.bits, sample)


def affine_scale(a: Tensor, b: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return s and z of n levels over [a, b], extended to contain zero.

    Args:
        a: Lower end of the range, any shape.
        b: Upper end, same shape.
        n: Number of levels.
    """
    a, b = a.clamp(max=0), b.clamp(min=0)
    s = ((b - a) / (n - 1)).clamp(min=torch.finfo(a.dtype).tiny)
    return s, (-a / s).round()


def affine(r: Tensor, a: Tensor, b: Tensor, n: int) -> Tensor:
    """Return q(r), with zero one of the levels and a straight-through gradient inside [a, b].

    Args:
        r: Tensor to quantize, any shape.
        a: Lower end of the range; it broadcasts against ``r``.
        b: Upper end, likewise.
        n: Number of levels.
    """
    s, z = affine_scale(a, b, n)
    return clip_quantize(r, -z * s, (n - 1 - z) * s, s)


class AffineWeight(nn.Module):
    """q(w) over [min w, max w].

    Args:
        method: The method, for its granularity.
        n: Number of levels.
    """

    def __init__(self, method: Jacob, n: int) -> None:
        super().__init__()
        self.n, self.granularity = n, method.granularity

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        a, b = (self.granularity.reduce(w.detach(), end) for end in (torch.amin, torch.amax))
        return affine(w, a, b, self.n)


class RunningRange(Quantizer):
    """Base class of quantizers over exponential moving averages of the minimum and the maximum.

    Args:
        sample: Inputs, any shape, from which the range is initialized.
        momentum: Weight of the past.
    """

    low: Tensor
    high: Tensor

    def __init__(self, sample: Tensor, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("low", sample.min())  # a
        self.register_buffer("high", sample.max())  # b

    def observe(self, x: Tensor) -> None:
        """Move the range toward that of the batch."""
        self.low.lerp_(x.min().to(self.low.dtype), 1 - self.momentum)
        self.high.lerp_(x.max().to(self.high.dtype), 1 - self.momentum)


class AffineActivation(RunningRange):
    """q(x) over a running range, at full precision in training during the delay.

    Args:
        method: The method, for its options.
        n: Number of levels.
        sample: Inputs, any shape, from which the range is initialized.
    """

    started: Tensor

    def __init__(self, method: Jacob, n: int, sample: Tensor) -> None:
        super().__init__(sample, method.momentum)
        self.n, self.delay, self.delay_steps = n, method.delay, method.delay_steps
        self.epoch = 1
        self.register_buffer("started", torch.tensor(method.delay == method.delay_steps == 0))

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Count epochs."""
        self.epoch = epoch

    def on_step_start(self, layer: Layer, step: int, steps: int) -> None:
        """Start to quantize after the delay."""
        taken = (self.epoch - 1) * steps + step - 1
        self.started.fill_(self.epoch > self.delay and taken >= self.delay_steps)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        quantized = affine(x, self.low.to(x.dtype), self.high.to(x.dtype), self.n)
        if self.training and (self.delay or self.delay_steps):
            return torch.where(self.started, quantized, x)
        return quantized
