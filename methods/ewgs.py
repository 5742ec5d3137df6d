"""EWGS: element-wise gradient scaling (Lee, Kim, Ham, CVPR 2021, arXiv:2104.00903).

Weights and activations, with l and u learned for each layer and each of the two (Eq. 1–3)::

    x_n = clip((x − l)/(u − l), 0, 1),   x_q = [(2^k − 1) x_n]/(2^k − 1)
    weights:  2 (x_q − ½),   activations:  x_q

The output of every quantized layer, its bias included, is multiplied by |o|, a learned scale.

The gradient of the rounding (Eq. 5) draws x_n toward x_q or away from it::

    g_n = g_q (1 + δ sign(g_q) (x_n − x_q))

Initialization (Section 4.1 and the authors' code): weights start at ∓3σ, activations at l = min x
and u = 3σ/√(1 − 2/π). o starts at the mean size of the layer's output with the float weight and
input, divided by that with the quantized ones. One batch passes through the network, whose batch
normalization uses the statistics of the batch. Each layer starts when the batch arrives, from the
outputs of the quantized layers before it.

Departures. u suits an input that starts at zero, as after a ReLU. Where l > 1.98σ, as after an
average pooling, it starts at l + 3σ: the authors' u may lie below l there. δ is fixed; the authors
also set it each epoch from the trace of the Hessian. They train l, u and o with an Adam of their
own at a learning rate of 1e-5. Here the optimizer of the network trains them at ``lr_factor``
times its learning rate.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import interval_round
from qbench.method import Field, Integers, Layer, Method, Recipe, Uniform
from qbench.quant.hooks import batch_statistics, bypassed


class EWGS(Method):
    """Learned intervals; gradients scaled by the rounding error.

    Attributes:
        delta: Strength δ of the gradient scaling. With 0 the gradient is straight through.
        lr_factor: Learning rate of l, u and o divided by that of the network.
    """

    paper = "Lee et al., CVPR 2021, arXiv:2104.00903"
    revision = 2
    weights = Uniform(scales=0)
    activations = Integers(bits=range(1, 9), signed=False, scales=0)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.01, epochs=100, batch_size=256, weight_decay=1e-4,
        initialization="pretrained",
    )  # fmt: skip
    delta: Annotated[float, Field(ge=0)] = 1e-3
    lr_factor: Annotated[float, Field(gt=0)] = 0.1

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SymmetricInterval:
        """Build 2 (x_q − ½)."""
        u = max(3 * float(weight.std(correction=min(1, weight.numel() - 1))), 1e-6)
        return SymmetricInterval(layer.weight_bits.bits, -u, u, self.delta)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> UnitInterval:
        """Build x_q."""
        return UnitInterval(layer.activation_bits.bits, *initial_range(sample), self.delta)

    def output_module(self, layer: Layer) -> OutputScale:
        """Build the multiplication by |o|."""
        return OutputScale()

    @torch.no_grad()
    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Initialize the ranges of inputs, and o, of each layer on the quantized network."""
        hooks = [
            layer.module.register_forward_pre_hook(partial(_start_scale, layer), prepend=True)
            for layer in self.layers
        ]
        inputs = (place.activation_quantizer for place in self.places)
        hooks += [q.register_forward_pre_hook(_start_range) for q in inputs if q is not None]
        try:
            with batch_statistics(model.modules()):
                for batch in batches[:1]:
                    model(batch)
        finally:
            for hook in hooks:
                hook.remove()


def initial_range(x: Tensor) -> tuple[float, float]:
    """Return the initial l and u of inputs ``x``, any shape."""
    low, std = float(x.min()), float(x.std(correction=min(1, x.numel() - 1)))
    narrowest = 1e-6 * max(1.0, abs(low))  # so that l and u differ in float32
    return low, max(3 * std / (1 - 2 / torch.pi) ** 0.5, low + max(3 * std, narrowest))


def _start_range(quantizer: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Initialize l and u from the tensor that is about to be quantized."""
    for name, value in zip(("low", "high"), initial_range(args[0]), strict=True):
        quantizer.get_parameter(name).fill_(value)


def _start_scale(layer: Layer, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Initialize o from the input of the layer, before the layer quantizes it."""
    x, inputs = args[0], layer.activation_quantizer
    with bypassed([layer]):
        before = module.forward(*args).abs().mean()
    after = module.forward(x if inputs is None else inputs(x), *args[1:]).abs().mean()
    if before > 0 and after > 0:
        module.get_parameter("output_module.scale").fill_(float(before) / float(after))


class UnitInterval(nn.Module):
    """x_q ∈ {0, 1/n, …, 1}, n = 2^k − 1, from [l, u].

    Args:
        bits: Bit-width k.
        low: Initial l.
        high: Initial u.
        delta: Strength δ of the gradient scaling.
    """

    signed = False

    def __init__(self, bits: int, low: float, high: float, delta: float) -> None:
        super().__init__()
        self.n, self.delta = 2**bits - 1, delta
        self.low = nn.Parameter(torch.tensor(low))  # l
        self.high = nn.Parameter(torch.tensor(high))  # u

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        ends = self.low.to(x.dtype), self.high.to(x.dtype)
        return interval_round(x, *ends, self.n, signed=self.signed, error_slope=self.delta)


class SymmetricInterval(UnitInterval):
    """2 (x_q − ½) ∈ [−1, 1]; arguments as of `UnitInterval`."""

    signed = True


class OutputScale(nn.Module):
    """Multiplication by |o|."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))  # o

    def forward(self, y: Tensor) -> Tensor:
        """Scale ``y``, any shape."""
        return y * self.scale.abs().to(y.dtype)
