"""StatsQ of OFQ: oscillation-free quantization (Liu, Liu, Cheng, ICML 2023, arXiv:2302.02210).

Weights, k bits, for each output channel. The scale is a statistic of the weights, because a learned
one oscillates with them::

    s = 2 mean|w|,   n = 2^(k−1),   c = clip([n w/s − ½], −n, n − 1)
    w_q = s · (c + ½)/n,   ∂w_q/∂w = 1

There are 2^k levels without a zero: ±½/n … ±(n − ½)/n, times s. At 1 bit the rounding of −1½ would
give a third one, so k is 2 or more.

Activations are those of LSQ, after a learned shift of each channel that starts at 0::

    x_q = LSQ(x + b)

Departures. OFQ's other parts are for transformers and are not here: confidence-guided annealing, in
which only weights near a threshold train on, and the joint quantization of queries and keys. A step
of an activation is that of the tensor; the authors have one for each token. They add a second shift
after the quantizer, which the layer turns into a part of its bias. They distil from a
full-precision teacher, as ``recipe: paper`` does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import fake_quantize, filter_dims
from qbench.method import Integers, Layer, Method, PerChannel, Recipe, Teacher, Uniform

from .lsq import LSQ


class StatsQ(Method):
    """Weights with a scale that is a statistic, without a zero among their levels."""

    name = "stats_q"
    title = "StatsQ (OFQ)"
    paper = "Liu et al., ICML 2023, arXiv:2302.02210"
    weights = Uniform(bits=range(2, 9), granularity=PerChannel(), scales=1)
    activations = Integers(bits=range(1, 9), signed=False)
    paper_recipe = Recipe(
        optimizer="adamw", lr=5.47e-4, final_lr=1e-5, epochs=300, batch_size=560,
        warmup_epochs=5, weight_decay=0.05, weight_decay_on="weights", initialization="pretrained",
        teacher=Teacher(),
    )  # fmt: skip
    paper_layers = "first_last_8bit"

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> StatisticalScale:
        """Build w_q."""
        return StatisticalScale(layer.weight_bits.bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> ShiftedStep:
        """Build x_q."""
        return ShiftedStep(LSQ().activation_quantizer(layer, sample), sample)


class StatisticalScale(nn.Module):
    """w_q = s · (c + ½)/n, for each output channel.

    Args:
        bits: Bit-width k.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.n = 2 ** (bits - 1)

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        v = w.detach()
        s = 2 * v.abs().mean(filter_dims(v), keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
        step = s / self.n
        return fake_quantize(w, step, -self.n, self.n - 1, offset=step / 2, inside="all")


class ShiftedStep(nn.Module):
    """x_q = LSQ(x + b).

    Args:
        lsq: LSQ's quantizer.
        sample: Values of the activation, (N, C, H, W) or (N, …, C).
    """

    def __init__(self, lsq: nn.Module, sample: Tensor) -> None:
        super().__init__()
        self.lsq = lsq
        shape = (sample.shape[1], 1, 1) if sample.dim() == 4 else sample.shape[-1:]
        self.shift = nn.Parameter(sample.new_zeros(shape))  # b

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, shaped as the sample."""
        quantized: Tensor = self.lsq(x + self.shift.to(x.dtype))
        return quantized
