"""AdaRound: adaptive rounding (Nagel et al., ICML 2020, arXiv:2004.10568).

Post-training: each weight is rounded up or down, whichever serves the output of its layer better
(Eq. 21–25)::

    W̃ = s · clip(⌊W/s⌋ + h(V), −2^(k−1), 2^(k−1) − 1)
    h(V) = clip(1.2 σ(V) − 0.1, 0, 1)
    min over V:  ‖W x − W̃ x̂‖² + λ Σ (1 − |2 h(V) − 1|^β)

layer after layer, where x̂ is the input of the layer with all layers before it quantized. V starts
where h(V) = W/s − ⌊W/s⌋, so that W̃ = W. The first term is summed over the channels of the output
and averaged over images and positions, as in AIMET, the library of the authors, and in BRECQ: the
sum over positions would make the regularization weaker by their number. β falls from 20 to 2 along
a half cosine, as in AIMET (BRECQ's falls linearly), and the regularization moves h to 0 or 1. In
the end h = 1[V ≥ 0].

s is the step of least squared error, of the layer by default. Activations are those of
post-training quantization of least error. The first fifth of the iterations has no regularization.
V is learned by Adam.

Departures. The loss is that of the linear output of the layer, without the activation function
after it.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qbench.functional import clip, integer_range
from qbench.method import Field, Granularity, GranularityOption, Integers, Layer, Method, PerTensor
from qbench.quant.hooks import bypassed, record

from .ptq_minmax import FixedActivation
from .ptq_mse import PTQMSE, best_factor

WARM_UP = 0.2
BETA = (20.0, 2.0)


class AdaRound(Method):
    """Weights rounded up or down as the output of their layer needs it, without training.

    Attributes:
        iterations: Number of iterations of Adam for each layer.
        lr: Learning rate of Adam.
        batch_size: Number of images in each iteration.
        regularization: Weight λ of the regularization.
        granularity: Weights that share a step. Default: those of a layer.
    """

    name = "adaround"
    paper = "Nagel et al., ICML 2020, arXiv:2004.10568"
    revision = 2
    weights = Integers(required=True)
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    trains = False
    later_options = frozenset({"granularity"})
    iterations: Annotated[int, Field(ge=1)] = 10_000
    lr: Annotated[float, Field(gt=0)] = 1e-3
    batch_size: Annotated[int, Field(ge=1)] = 32
    regularization: Annotated[float, Field(ge=0)] = 0.01
    granularity: GranularityOption = PerTensor()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> AdaptiveRounding:
        """Build W̃ with the initial V."""
        return AdaptiveRounding(layer.weight_bits.bits, weight, self.granularity)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> FixedActivation:
        """Build the quantizer of least error."""
        return PTQMSE().activation_quantizer(layer, sample)

    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Learn V, layer after layer."""
        if not batches:
            raise ValueError("adaround learns from calibration data: pass calibration=batches")
        for i, layer in enumerate(self.layers):
            with bypassed([*self.layers, *self.places]):
                target = record(model, layer, batches, lambda x, y: y)
            with bypassed(self.layers[i:], activations=False):
                seen = record(model, layer, batches, lambda x, y: x)
            if layer.weight_quantizer is not None:
                v = layer.weight_quantizer.get_buffer("v")
                v.copy_(self.learn(layer, v, seen, target))

    def learn(self, layer: Layer, start: Tensor, seen: Tensor, target: Tensor) -> Tensor:
        """Return the V of a layer, learned from its inputs x̂ and its full-precision outputs W x."""
        name = next(name for name, buffer in layer.module.named_buffers() if buffer is start)
        v = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([v], lr=self.lr)
        warm_up = round(WARM_UP * self.iterations)
        for iteration in range(self.iterations):
            chosen = torch.randint(len(seen), (self.batch_size,)).to(seen.device)
            output = functional_call(layer.module, {name: v}, (seen[chosen],))
            error = (output - target[chosen]).square()
            loss = error.sum(-1 if isinstance(layer.module, nn.Linear) else 1).mean()
            if iteration >= warm_up:
                done = (iteration - warm_up) / max(1, self.iterations - warm_up)
                beta = BETA[1] + (BETA[0] - BETA[1]) * (1 + math.cos(math.pi * done)) / 2
                binary = (2 * AdaptiveRounding.h(v) - 1).abs()
                loss = loss + self.regularization * (1 - binary.pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return v.detach()


class AdaptiveRounding(nn.Module):
    """W̃ = s · clip(⌊W/s⌋ + h, −2^(k−1), 2^(k−1) − 1).

    Args:
        bits: Bit-width k.
        weight: W.
        granularity: Weights that share s.
    """

    step: Tensor
    v: Tensor

    def __init__(self, bits: int, weight: Tensor, granularity: Granularity) -> None:
        super().__init__()
        self.quant_min, self.quant_max = integer_range(bits)
        self.register_buffer("step", granularity.map(weight, self.best_step))
        fraction = weight / self.step - (weight / self.step).floor()
        unit = (fraction + 0.1) / 1.2
        self.register_buffer("v", (unit / (1 - unit)).log())  # h(V) is the fraction

    @staticmethod
    def h(v: Tensor) -> Tensor:
        """Return the rectified sigmoid of V, in [0, 1]."""
        return clip(1.2 * v.sigmoid() - 0.1, 0, 1)

    def best_step(self, rows: Tensor) -> Tensor:
        """Return the s of least squared error of every row, (rows,)."""
        r = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)

        def nearest(factor: Tensor) -> Tensor:
            s = factor * r / self.quant_max
            return s * (rows / s).round().clamp(self.quant_min, self.quant_max)

        return best_factor(rows, nearest, power=2) * r[:, 0] / self.quant_max

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, the shape it was built for. While V is learned, h is soft."""
        up = self.h(self.v) if self.v.requires_grad else self.v >= 0
        s = self.step.to(w.dtype)
        return s * clip((w / s).floor() + up.to(w.dtype), self.quant_min, self.quant_max)
