"""TQT: trained quantization thresholds (Jain, Gural, Wu, Dick, MLSys 2020, arXiv:1903.08066).

Weights and activations, with a threshold t learned for each layer and each of the two, in the log
domain. Scales are powers of two, and there are no zero points (Section 3)::

    q(x) = clip([x/s], n, p) · s
    signed:    s = 2^⌈log2 t⌉ / 2^(k−1),  n = −2^(k−1),  p = 2^(k−1) − 1
    unsigned:  s = 2^⌈log2 t⌉ / 2^k,      n = 0,         p = 2^k − 1

Gradients (Eq. 7–8), with the straight-through estimator for the rounding and for ⌈·⌉::

    ∂q/∂log2 t = s ln 2 · ([x/s] − x/s inside,   n below,   p above)
    ∂q/∂x = 1 inside,   0 outside

Inside is n ≤ [x/s] ≤ p: the interval ends half a step beyond the outermost levels, where the window
of LSQ ends at them.

Thresholds of weights start at |mean w| + 3σ. Those of activations start where the cumulative
histogram of |x|, up to the threshold and at as many points as there are positive codes, has the
least Kullback-Leibler-J distance to the whole one.

Quantizers sit behind each ReLU, and at both inputs and the output of additions. In the paper's
networks weights have 8 or 4 bits and activations 8, and batch normalization is folded.

The quantizer of the authors' own code is compiled. The form here is that of the quantizer that
Xilinx publishes in ``pytorch_nndct``, which refers to these equations. It rounds −1.5 to −1, as its
hardware does; here ties go to the even integer. Training follows the authors' script.

Departures. Batch normalization is not folded, biases and accumulators are not quantized, and the
addends of an addition do not share a threshold. The gradient of log2 t is multiplied by 1/√(N p),
as LSQ scales that of its step; Adam, with which the authors train thresholds, cancels any such
factor, and with SGD the sum over all N values would be too large. ``threshold_lr`` falls with the
learning rate of the network. The authors' halves every 1,000 steps, and each threshold is frozen
once its gradient is small; so theirs stay for all but the first of their epochs of 53,000 steps.
Histograms have at most 2,048 bins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench.functional import (
    fake_quantize,
    integer_range,
    is_signed,
    scale_gradient,
    straight_through,
)
from qbench.method import Field, Integers, Layer, Method, Recipe

_BINS = 2048


class TQT(Method):
    """Scales that are powers of two, with thresholds learned in the log domain.

    Attributes:
        threshold_lr: Learning rate of log2 t at the start, whatever that of the network is.
    """

    paper = "Jain et al., MLSys 2020, arXiv:1903.08066"
    weights = Integers(named=True)
    activations = Integers(bits=range(1, 9), signed=False)
    placement = "after_activation_and_add"
    paper_recipe = Recipe(
        optimizer="adam", lr=1e-6, schedule="exponential", final_lr=4.1e-9, epochs=5, batch_size=24,
        initialization="pretrained",
    )  # fmt: skip
    paper_layers = "first_last_8bit"
    threshold_lr: Annotated[float, Field(gt=0)] = 1e-2

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LogThreshold:
        """Build a signed quantizer that starts at |mean w| + 3σ."""
        width = layer.weight_bits
        start = float(weight.mean().abs() + 3 * weight.std(correction=0))
        codes = integer_range(width.bits, symmetric=width.top is not None)
        return LogThreshold(codes, start, weight.numel())

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LogThreshold:
        """Build a quantizer that is unsigned after a ReLU."""
        bits = layer.activation_bits.bits
        codes = integer_range(bits, signed=is_signed(sample, bits))
        return LogThreshold(codes, calibrated_threshold(sample, codes[1] + 1), sample[0].numel())

    def parameter_groups(
        self, parameters: list[nn.Parameter], lr: float
    ) -> Iterable[dict[str, Any]]:
        """Give thresholds a learning rate of their own."""
        return [{"params": parameters, "weight_decay": 0.0, "lr": self.threshold_lr}]


def calibrated_threshold(x: Tensor, count: int) -> float:
    """Return the threshold of least Kullback-Leibler-J distance.

    Args:
        x: Values of the activation, any shape.
        count: Number of codes of one sign, at which the cumulative histogram is sampled.
    """
    size = x.detach().abs().flatten().float()
    largest = float(size.max())
    bins = min(_BINS, int(np.ceil(size.numel() ** 0.5)))
    if largest == 0 or count + 1 > bins:
        return largest
    whole = torch.histc(size, bins, 0, largest).cpu().double().cumsum(0).numpy()
    whole /= whole[-1]
    known, coarse = whole > 0, np.linspace(0, 1, count)
    distances = []
    for i in range(count + 1, bins + 1):
        fine, kept = np.linspace(0, 1, i), np.append(whole[: i - 1], 1)
        found = np.append(np.interp(fine, coarse, np.interp(coarse, fine, kept)), np.ones(bins - i))
        p, q = whole[known], found[known]
        distances.append(float(((p - q) * np.log2(p / q)).sum()))
    return (count + 1 + int(np.argmin(distances)) + 0.5) * largest / bins


class LogThreshold(nn.Module):
    """q(x) = clip([x/s], n, p) · s, s a power of two.

    Args:
        codes: n and p.
        threshold: Initial t.
        count: N, the number of weights, or of features of one sample.
    """

    def __init__(self, codes: tuple[int, int], threshold: float, count: int) -> None:
        super().__init__()
        self.quant_min, self.quant_max = codes
        self.factor = (count * self.quant_max) ** -0.5
        self.log_threshold = nn.Parameter(torch.tensor(max(threshold, 1e-8)).log2())  # log2 t

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        log = scale_gradient(self.log_threshold, self.factor)
        s = torch.exp2(straight_through(log, log.ceil())) / (self.quant_max + 1)
        ends = self.quant_min, self.quant_max
        return fake_quantize(x, s.to(x.dtype), *ends, closed="both", inside="codes")
