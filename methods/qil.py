"""QIL: quantization interval learning (Jung et al., CVPR 2019, arXiv:1808.05779).

Each layer learns an interval by its centre c and half-width d. The transformer prunes what is below
it, clips what is above and stretches what is inside (Eq. 3–5)::

    weights:      ŵ = 0 where |w| < c − d,   sign(w) where |w| > c + d,
                  else sign(w) (a|w| + b)^γ,   a = 0.5/d,   b = −0.5 c/d + 0.5
    activations:  x̂ = 0 where x < c − d,   1 where x > c + d,   else a x + b

and the discretizer rounds (Eq. 2)::

    w̄ = [q ŵ]/q,   q = 2^(k−1) − 1 for weights, 2^k − 1 for activations

Only the rounding is straight through: c, d and γ get the transformer's true derivative, and pruned
or clipped values get none. Outputs are in [−1, 1]; batch normalisation absorbs the scale. An input
with negative values (the image itself) is treated as a weight is.

Departures. The paper reaches k bits from k + 1 by a progression of trainings; here one training
starts from the float network, the interval reaching from 0 to the largest magnitude. The interval's
parameters learn ``lr_factor`` times as fast as the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from qbench.functional import round_ste
from qbench.method import Field, Integers, Layer, Method, Recipe


class QIL(Method):
    """Learned intervals of what is pruned, quantized and clipped.

    Options:
        learn_gamma: learn the exponent of the weights' transformer; without, it is 1.
        lr_factor: learning rate of the intervals, over the network's.
    """

    name = "qil"
    title = "QIL"
    paper = "Jung et al., CVPR 2019, arXiv:1808.05779"
    weights = Integers(symmetric=True, named=True, scales=0)
    activations = Integers(bits=range(1, 9), signed=False, scales=0)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.4,
        momentum=0.9,
        schedule="step",
        milestones=(30, 60, 80),
        gamma=0.1,
        epochs=90,
        batch_size=1024,
        weight_decay=1e-4,
        initialization="pretrained",
    )
    learn_gamma: bool = True
    lr_factor: Annotated[float, Field(gt=0)] = 0.01

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> Interval:
        """Signed, with γ."""
        steps = 2 ** (layer.weight_bits.bits - 1) - 1
        return Interval(steps, float(weight.abs().max()), signed=True, gamma=self.learn_gamma)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> Interval:
        """Unsigned after a ReLU."""
        bits = layer.activation_bits.bits
        signed = bits > 1 and bool(sample.min() < 0)
        steps = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        return Interval(steps, float(sample.abs().max()), signed, gamma=False)

    def parameter_groups(
        self, parameters: list[nn.Parameter], lr: float
    ) -> Iterable[dict[str, Any]]:
        """c, d and γ, learned slowly and without decay."""
        return [{"params": parameters, "weight_decay": 0.0, "lr": self.lr_factor * lr}]


class Interval(nn.Module):
    """Transformer and discretizer.

    Args:
        steps: q.
        largest: where the interval ends at the start.
        signed: whether values keep their sign; otherwise negative ones are pruned.
        gamma: learn γ.
    """

    def __init__(self, steps: int, largest: float, signed: bool, gamma: bool) -> None:
        super().__init__()
        self.steps, self.signed = steps, signed
        half = max(largest, 1e-6) / 2
        self.centre = nn.Parameter(torch.tensor(half))  # c
        self.half_width = nn.Parameter(torch.tensor(half))  # d
        self.gamma = nn.Parameter(torch.tensor(1.0), requires_grad=gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        c, d = self.centre.to(x.dtype), self.half_width.to(x.dtype).clamp(min=1e-6)
        size = x.abs() if self.signed else x
        u = (0.5 / d * size - 0.5 * c / d + 0.5).clamp(0, 1)
        if self.gamma.requires_grad:
            inside = u > 0  # 0^γ is 0, but its derivative by γ would be 0 · ln 0
            u = torch.where(inside, torch.where(inside, u, 1.0) ** self.gamma.to(x.dtype), 0.0)
        quantized = round_ste(self.steps * u) / self.steps
        return x.detach().sign() * quantized if self.signed else quantized
