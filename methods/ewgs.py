"""EWGS: element-wise gradient scaling (Lee, Kim, Ham, CVPR 2021, arXiv:2104.00903).

Weights and activations, l and u learned for each layer and each of the two (Eq. 1–3)::

    x_n = clip((x − l)/(u − l), 0, 1),   x_q = [(2^k − 1) x_n]/(2^k − 1)
    weights:  2 (x_q − ½) · |o|,   activations:  x_q

o is the layer's learned output scale; multiplying its weight is multiplying its output.

Gradient of the rounding (Eq. 5), which draws x_n toward or away from x_q::

    g_n = g_q (1 + δ sign(g_q) (x_n − x_q))

Start (Section 4.1 and the authors' code): weights at ∓3σ, activations at l = min x and
u = 3σ/√(1 − 2/π), o at the ratio of the layer's mean output before quantization to that after, on
calibration data.

Departures. δ is fixed; the authors also set it each epoch from the Hessian's trace. They train
l, u and o with an Adam of their own (learning rate 1e-5); here the network's optimiser does,
``lr_factor`` times as fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from qbench.method import Field, Layer, Method, Recipe, Uniform


class EWGS(Method):
    """Learned intervals; gradients scaled by the rounding error.

    Options:
        delta: δ.
        lr_factor: learning rate of l, u and o, over the network's.
    """

    name = "ewgs"
    title = "EWGS"
    paper = "Lee et al., CVPR 2021, arXiv:2104.00903"
    weights = Uniform(scales=1)
    activations = Uniform(scales=0)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        schedule="cosine",
        epochs=100,
        batch_size=256,
        weight_decay=1e-4,
        initialization="pretrained",
    )
    delta: Annotated[float, Field(ge=0)] = 1e-3
    lr_factor: Annotated[float, Field(gt=0)] = 0.1

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> ScaledWeight:
        """2 (x_q − ½) · o."""
        reach = max(3 * float(weight.std()), 1e-6)
        return ScaledWeight(layer.weight_bits.bits, -reach, reach, self.delta)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> UnitInterval:
        """x_q."""
        low = float(sample.min())
        high = 3 * float(sample.std()) / (1 - 2 / torch.pi) ** 0.5
        return UnitInterval(layer.activation_bits.bits, low, max(high, low + 1e-6), self.delta)

    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Start o where outputs keep their mean size."""
        scaled = [m for m in self.layers if isinstance(m.weight_quantizer, ScaledWeight)]
        if not batches or not scaled:
            return
        with self._off():
            before = _mean_outputs(model, scaled, batches[0])
        for layer, was in zip(scaled, before, strict=True):
            (now,) = _mean_outputs(model, [layer], batches[0])  # all before it have their scales
            quantizer = layer.weight_quantizer
            assert isinstance(quantizer, ScaledWeight)  # noqa: S101
            if was > 0 and now > 0:
                quantizer.output_scale.data.fill_(was / now)

    def parameter_groups(
        self, parameters: list[nn.Parameter], lr: float
    ) -> Iterable[dict[str, Any]]:
        """l, u and o, without decay."""
        return [{"params": parameters, "weight_decay": 0.0, "lr": self.lr_factor * lr}]

    @contextmanager
    def _off(self) -> Iterator[None]:
        """Have nothing quantized for a while."""
        pairs = ((layer.weight_quantizer, layer.activation_quantizer) for layer in self.layers)
        intervals = [q for pair in pairs for q in pair if isinstance(q, UnitInterval)]
        for interval in intervals:
            interval.on = False
        try:
            yield
        finally:
            for interval in intervals:
                interval.on = True


class UnitInterval(nn.Module):
    """x_q ∈ {0, 1/n, …, 1}, n = 2^k − 1, from [l, u].

    Args:
        bits: k.
        low: l at the start.
        high: u at the start.
        delta: δ.
    """

    def __init__(self, bits: int, low: float, high: float, delta: float) -> None:
        super().__init__()
        self.steps, self.delta = 2**bits - 1, delta
        self.low = nn.Parameter(torch.tensor(low))  # l
        self.high = nn.Parameter(torch.tensor(high))  # u
        self.on = True

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return self.unit(x) if self.on else x.clone()

    def unit(self, x: Tensor) -> Tensor:
        """x_q."""
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        normal = ((x - low) / (high - low)).clamp(0, 1)
        return _ScaledRound.apply(normal, self.steps, self.delta)


class ScaledWeight(UnitInterval):
    """2 (x_q − ½) · |o|; arguments as of `UnitInterval`."""

    def __init__(self, bits: int, low: float, high: float, delta: float) -> None:
        super().__init__(bits, low, high, delta)
        self.output_scale = nn.Parameter(torch.tensor(1.0))  # o

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        if not self.on:
            return x.clone()
        return 2 * (self.unit(x) - 0.5) * self.output_scale.abs().to(x.dtype)


class _ScaledRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, normal: Tensor, steps: int, delta: float) -> Tensor:
        quantized = (steps * normal).round() / steps
        ctx.save_for_backward(normal - quantized)
        ctx.delta = delta
        return quantized

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (error,) = ctx.saved_tensors
        return g * (1 + ctx.delta * g.sign() * error), None, None


@torch.no_grad()
def _mean_outputs(model: nn.Module, layers: list[Layer], x: Tensor) -> list[float]:
    """Mean size of each layer's output."""
    found: dict[str, float] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            found[name] = float(output.abs().mean())

        return hook

    hooks = [m.module.register_forward_hook(keep(m.name)) for m in layers]
    model(x)
    for handle in hooks:
        handle.remove()
    return [found[m.name] for m in layers]
