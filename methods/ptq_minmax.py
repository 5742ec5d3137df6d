"""Post-training quantization to the whole range: nothing is trained, nothing is clipped.

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

from qbench.functional import integer_range
from qbench.method import Integers, Layer, Method, PerChannel, ScopeOption

from .jacob import affine_scale


class PTQMinMax(Method):
    """Weights and activations over their whole range, without training.

    Attributes:
        scope: Weights that share a range. Default: those of a filter.
    """

    name = "ptq_minmax"
    title = "PTQ min–max"
    paper = "Krishnamoorthi, 2018, arXiv:1806.08342"
    weights = Integers(symmetric=True, named=True)
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    trains = False
    granularity: ScopeOption = PerChannel()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> FixedWeight:
        """Build a symmetric quantizer over `weight_range`."""
        _, n = integer_range(layer.weight_bits.bits)
        r = self.granularity.map(weight, lambda rows: self.weight_range(rows, n))
        return FixedWeight(r / n, n)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> FixedActivation:
        """Build an affine quantizer over `input_range`."""
        n = 2**layer.activation_bits.bits
        return FixedActivation(*self.input_range(sample.flatten(), n), n)

    def weight_range(self, rows: Tensor, n: int) -> Tensor:
        """Return r of every row, (rows,).

        Args:
            rows: Weights that share a range as the rows of a matrix.
            n: Largest code.
        """
        return rows.abs().amax(1)

    def input_range(self, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Return a and b, scalars.

        Args:
            values: Inputs, (inputs,).
            n: Number of levels.
        """
        return values.min(), values.max()


class FixedWeight(nn.Module):
    """w_q = s · clip([w/s], −n, n), s fixed.

    Args:
        scale: s; it broadcasts against the weight.
        n: Largest code.
    """

    step: Tensor

    def __init__(self, scale: Tensor, n: int) -> None:
        super().__init__()
        self.n = n
        self.register_buffer("step", scale.clamp(min=torch.finfo(scale.dtype).tiny))

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        s = self.step.to(w.dtype)
        return (w / s).round().clamp(-self.n, self.n) * s


class FixedActivation(nn.Module):
    """x_q over [a, b], fixed.

    Args:
        low: a, a scalar.
        high: b, a scalar.
        n: Number of levels.
    """

    step: Tensor
    zero: Tensor

    def __init__(self, low: Tensor, high: Tensor, n: int) -> None:
        super().__init__()
        self.n = n
        scale, zero_point = affine_scale(low, high, n)
        self.register_buffer("step", scale)
        self.register_buffer("zero", zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        s, z = self.step.to(x.dtype), self.zero.to(x.dtype)
        return (x / s).round().clamp(-z, self.n - 1 - z) * s
