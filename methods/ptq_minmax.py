"""Post-training quantization to the range: nothing is trained, nothing is lost but precision.

The reference point of every post-training method (for example Krishnamoorthi, 2018,
arXiv:1806.08342, Section 3). Weights, symmetric, n = 2^(k−1) − 1, r = max|w| of each filter::

    w_q = s · clip([w/s], −n, n),   s = r/n

Activations, affine over the range [a, b] of the calibration inputs, with zero one of the 2^k
levels::

    x_q = s · (clip([x/s] + z, 0, 2^k − 1) − z),   s = (b − a)/(2^k − 1),   z = [−a/s]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.method import Integers, Layer, Method, PerChannel, ScopeOption


class PTQMinMax(Method):
    """Weights and activations over their whole range, without training.

    Options:
        scope: one range of weights for each filter, or for the layer.
    """

    name = "ptq_minmax"
    title = "PTQ min–max"
    paper = "Krishnamoorthi, 2018, arXiv:1806.08342"
    weights = Integers(symmetric=True, named=True)
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    trains = False
    granularity: ScopeOption = PerChannel()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> FixedWeight:
        """Symmetric, over `weight_range`."""
        n = 2 ** (layer.weight_bits.bits - 1) - 1
        ranges = self.granularity.map(weight, lambda rows: self.weight_range(rows, n))
        return FixedWeight(ranges / n, n)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> FixedInput:
        """Affine, over `input_range`."""
        levels = 2**layer.activation_bits.bits
        low, high = self.input_range(sample.flatten(), levels)
        return FixedInput(low, high, levels)

    def weight_range(self, rows: Tensor, n: int) -> Tensor:
        """R of every filter.

        Args:
            rows: (filters, weights of one).
            n: the largest code.

        Returns:
            (filters,).
        """
        return rows.abs().amax(1)

    def input_range(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """Return a and b.

        Args:
            values: (inputs,).
            levels: 2^k.
        """
        return values.min(), values.max()


class FixedWeight(nn.Module):
    """w_q = s · clip([w/s], −n, n), s fixed.

    Args:
        step: s, broadcast against the weight.
        n: the largest code.
    """

    step: Tensor

    def __init__(self, step: Tensor, n: int) -> None:
        super().__init__()
        self.n = n
        self.register_buffer("step", step.clamp(min=torch.finfo(step.dtype).tiny))

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        s = self.step.to(w.dtype)
        return (w / s).round().clamp(-self.n, self.n) * s


class FixedInput(nn.Module):
    """x_q over [a, b], fixed; zero is a level.

    Args:
        low: a.
        high: b.
        levels: how many.
    """

    step: Tensor
    zero: Tensor

    def __init__(self, low: Tensor, high: Tensor, levels: int) -> None:
        super().__init__()
        self.levels = levels
        low, high = low.clamp(max=0), high.clamp(min=0)
        step = ((high - low) / (levels - 1)).clamp(min=torch.finfo(low.dtype).tiny)
        self.register_buffer("step", step)
        self.register_buffer("zero", (-low / step).round())

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        s, z = self.step.to(x.dtype), self.zero.to(x.dtype)
        return (x / s).round().clamp(-z, self.levels - 1 - z) * s
