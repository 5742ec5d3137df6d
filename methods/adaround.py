"""AdaRound: adaptive rounding (Nagel et al., ICML 2020, arXiv:2004.10568).

Post-training: each weight is rounded up or down, whichever serves its layer's output (Eq. 21–25)::

    W̃ = s · clip(⌊W/s⌋ + h(V), −2^(k−1), 2^(k−1) − 1)
    h(V) = clip(1.2 σ(V) − 0.1, 0, 1)
    min over V:  ‖W x − W̃ x̂‖² + λ Σ (1 − |2 h(V) − 1|^β)

layer after layer, x̂ what the layer sees with all before it quantized. V starts where
h(V) = W/s − ⌊W/s⌋, so that W̃ = W; β falls from 20 to 2 and the regulariser pushes h to 0 or 1. In
the end h = 1[V ≥ 0].

s is the layer's step of least squared error. Activations are those of post-training quantization of
least error. The first fifth of the iterations has no regulariser. V is learned by Adam.

Departures. The loss is that of the layer's linear output, without the activation function after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qbench.method import Field, Integers, Layer, Method

from .ptq_minmax import FixedInput
from .ptq_mse import FACTORS, PTQMSE

WARM_UP = 0.2
BETA = (20.0, 2.0)


class AdaRound(Method):
    """Weights rounded up or down as their layer's output wants it, without training.

    Options:
        iterations: of Adam, for each layer.
        lr: its learning rate.
        batch_size: images in each iteration.
        regularization: λ.
    """

    name = "adaround"
    title = "AdaRound"
    paper = "Nagel et al., ICML 2020, arXiv:2004.10568"
    weights = Integers(required=True)
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    trains = False
    iterations: Annotated[int, Field(ge=1)] = 10_000
    lr: Annotated[float, Field(gt=0)] = 1e-3
    batch_size: Annotated[int, Field(ge=1)] = 32
    regularization: Annotated[float, Field(ge=0)] = 0.01

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> AdaptiveRounding:
        """W̃, V at the start."""
        return AdaptiveRounding(layer.weight_bits.bits, weight)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> FixedInput:
        """Of least error."""
        return PTQMSE().activation_quantizer(layer, sample)

    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Learn V, layer after layer."""
        if not batches:
            raise ValueError("adaround learns from calibration data: pass calibration=batches")
        for number, layer in enumerate(self.layers):
            self._quantize(0)
            with self._float_inputs():
                target = torch.cat([_record(model, layer, x)[1] for x in batches])
            self._quantize(number)
            seen = torch.cat([_record(model, layer, x)[0] for x in batches])
            self._quantize(number + 1)
            self._learn(layer, seen, target)
        self._quantize(len(self.layers))

    def _quantize(self, count: int) -> None:
        """Quantize the first so many layers, and leave the others float."""
        for number, layer in enumerate(self.layers):
            quantizer = layer.weight_quantizer
            assert isinstance(quantizer, AdaptiveRounding)  # noqa: S101
            quantizer.on = number < count

    @contextmanager
    def _float_inputs(self) -> Iterator[None]:
        """Have no input quantized for a while."""
        quantized = [m for m in self.layers if m.activation_quantizer is not None]
        for layer in quantized:
            layer.module.input_quantizer = nn.Identity()
        try:
            yield
        finally:
            for layer in quantized:
                assert layer.activation_quantizer is not None  # noqa: S101
                layer.module.input_quantizer = layer.activation_quantizer

    def _learn(self, layer: Layer, seen: Tensor, target: Tensor) -> None:
        quantizer = layer.weight_quantizer
        assert isinstance(quantizer, AdaptiveRounding)  # noqa: S101
        quantizer.soft = True
        v = quantizer.v.clone().requires_grad_()
        optimizer = torch.optim.Adam([v], lr=self.lr)
        warm_up = round(WARM_UP * self.iterations)
        for iteration in range(self.iterations):
            chosen = torch.randint(len(seen), (self.batch_size,)).to(seen.device)
            replaced = {"parametrizations.weight.0.v": v}
            output = functional_call(layer.module, replaced, (seen[chosen],))
            error = output - target[chosen]
            loss = error.square().sum() / self.batch_size
            if iteration >= warm_up:
                done = (iteration - warm_up) / max(1, self.iterations - warm_up)
                beta = BETA[1] + (BETA[0] - BETA[1]) * (1 - done)
                binary = (2 * quantizer.h(v) - 1).abs()
                loss = loss + self.regularization * (1 - binary.pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        quantizer.v.copy_(v.detach())
        quantizer.soft = False


class AdaptiveRounding(nn.Module):
    """W̃ = s · clip(⌊W/s⌋ + h, −2^(k−1), 2^(k−1) − 1).

    Args:
        bits: k.
        weight: W.
    """

    step: Tensor
    v: Tensor

    def __init__(self, bits: int, weight: Tensor) -> None:
        super().__init__()
        self.low, self.top = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.on, self.soft = True, False
        largest = weight.abs().max().clamp(min=torch.finfo(weight.dtype).tiny)
        steps = [factor * largest / self.top for factor in FACTORS]
        errors = [(self._nearest(weight, s) - weight).square().sum() for s in steps]
        self.register_buffer("step", steps[int(torch.stack(errors).argmin())])
        fraction = weight / self.step - (weight / self.step).floor()
        unit = (fraction + 0.1) / 1.2
        self.register_buffer("v", (unit / (1 - unit)).log())  # h(V) is the fraction

    @staticmethod
    def h(v: Tensor) -> Tensor:
        """Return the rectified sigmoid of V, in [0, 1]."""
        return (1.2 * v.sigmoid() - 0.1).clamp(0, 1)

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, the shape it was built for."""
        if not self.on:
            return w.clone()
        up = self.h(self.v) if self.soft else (self.v >= 0).to(w.dtype)
        s = self.step.to(w.dtype)
        return s * ((w / s).floor() + up.to(w.dtype)).clamp(self.low, self.top)

    def _nearest(self, w: Tensor, s: Tensor) -> Tensor:
        return s * (w / s).round().clamp(self.low, self.top)


@torch.no_grad()
def _record(model: nn.Module, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Record the input of a layer, before it is quantized, and its output."""
    found: dict[str, Tensor] = {}

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        found["input"] = args[0].clone()

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        found["output"] = output.clone()

    hooks = [
        layer.module.register_forward_pre_hook(before, prepend=True),
        layer.module.register_forward_hook(after),
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return found["input"], found["output"]
