"""EWGS: element-wise gradient scaling (Lee, Kim, Ham, CVPR 2021, arXiv:2104.00903).

Weights and activations, with l and u learned for each layer and each of the two (Eq. 1–3)::

    x_n = clip((x − l)/(u − l), 0, 1),   x_q = [(2^k − 1) x_n]/(2^k − 1)
    weights:  2 (x_q − ½) · |o|,   activations:  x_q

o is the learned output scale of the layer; to multiply the weight is to multiply the output.

The gradient of the rounding (Eq. 5) draws x_n toward x_q or away from it::

    g_n = g_q (1 + δ sign(g_q) (x_n − x_q))

Initialization (Section 4.1 and the authors' code): weights start at ∓3σ, activations at l = min x
and u = 3σ/√(1 − 2/π). o starts at the mean size of the layer's output before quantization, divided
by that after, on calibration data.

Departures. δ is fixed; the authors also set it each epoch from the trace of the Hessian. They train
l, u and o with an Adam of their own at a learning rate of 1e-5. Here the optimizer of the network
trains them at ``lr_factor`` times its learning rate.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from qbench.functional import clip
from qbench.method import Field, Integers, Layer, Method, Recipe, Uniform
from qbench.quant.hooks import bypassed, record


class EWGS(Method):
    """Learned intervals; gradients scaled by the rounding error.

    Attributes:
        delta: Strength δ of the gradient scaling. With 0 the gradient is straight through.
        lr_factor: Learning rate of l, u and o divided by that of the network.
    """

    paper = "Lee et al., CVPR 2021, arXiv:2104.00903"
    revision = 2
    weights = Uniform(scales=1)
    activations = Integers(bits=range(1, 9), signed=False, scales=0)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.01, epochs=100, batch_size=256, weight_decay=1e-4,
        initialization="pretrained",
    )  # fmt: skip
    delta: Annotated[float, Field(ge=0)] = 1e-3
    lr_factor: Annotated[float, Field(gt=0)] = 0.1

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> ScaledWeight:
        """Build 2 (x_q − ½) · |o|."""
        u = max(3 * float(weight.std(correction=min(1, weight.numel() - 1))), 1e-6)
        return ScaledWeight(layer.weight_bits.bits, -u, u, self.delta)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> UnitInterval:
        """Build x_q."""
        low = float(sample.min())
        high = 3 * float(sample.std()) / (1 - 2 / torch.pi) ** 0.5
        return UnitInterval(layer.activation_bits.bits, low, max(high, low + 1e-6), self.delta)

    @torch.no_grad()
    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Initialize o so that outputs keep their mean size."""
        for layer in self.layers if batches else ():  # those before it have their scales
            with bypassed([*self.layers, *self.places]):
                before = record(model, layer, batches[:1], lambda x, y: y).abs().mean()
            after = record(model, layer, batches[:1], lambda x, y: y).abs().mean()
            if layer.weight_quantizer is not None and before > 0 and after > 0:
                ratio = float(before) / float(after)
                layer.weight_quantizer.get_parameter("output_scale").fill_(ratio)


class UnitInterval(nn.Module):
    """x_q ∈ {0, 1/n, …, 1}, n = 2^k − 1, from [l, u].

    Args:
        bits: Bit-width k.
        low: Initial l.
        high: Initial u.
        delta: Strength δ of the gradient scaling.
    """

    def __init__(self, bits: int, low: float, high: float, delta: float) -> None:
        super().__init__()
        self.n, self.delta = 2**bits - 1, delta
        self.low = nn.Parameter(torch.tensor(low))  # l
        self.high = nn.Parameter(torch.tensor(high))  # u

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        return _ScaledRound.apply(clip((x - low) / (high - low), 0, 1), self.n, self.delta)


class ScaledWeight(UnitInterval):
    """2 (x_q − ½) · |o|; arguments as of `UnitInterval`."""

    def __init__(self, bits: int, low: float, high: float, delta: float) -> None:
        super().__init__(bits, low, high, delta)
        self.output_scale = nn.Parameter(torch.tensor(1.0))  # o

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return 2 * (super().forward(x) - 0.5) * self.output_scale.abs().to(x.dtype)


class _ScaledRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, normal: Tensor, n: int, delta: float) -> Tensor:
        quantized = (n * normal).round() / n
        ctx.save_for_backward(normal - quantized)
        ctx.delta = delta
        return quantized

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (error,) = ctx.saved_tensors
        return g * (1 + ctx.delta * g.sign() * error), None, None
