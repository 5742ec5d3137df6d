"""Brevitas' quantizers (Franco et al., Xilinx/brevitas, doi:10.5281/zenodo.3333552).

A wrapper: the arithmetic is that of the modules that Brevitas' injectors build, which needs
Brevitas installed (``pip install 'qbench-quant[libraries]'``). Written against Brevitas 0.13.

Weights, k ≥ 2 bits, n = 2^(k−1) − 1 (``Int8WeightPerTensorFloat``, ``Int8WeightPerChannelFloat``)::

    s = max|w| / n,   w_q = s · clip([w/s], −n, n)

s is a statistic and gets its gradient; the rounding and the clipping are straight through::

    ∂C/∂w_i = g_i + 1[|w_i| = max|w|] · sign(w_i)/n · Σ_j g_j ([w_j/s] − w_j/s),   g = ∂C/∂w_q

Inputs, k bits (``Uint8ActPerTensorFloat``, with negative values ``Int8ActPerTensorFloat``)::

    x_q = s · clip([x/s], l, u),   s = |v|/u, l = 0, u = 2^k − 1
                                   s = |v|/2^(k−1), l = −2^(k−1), u = 2^(k−1) − 1

v, the range, is learned: ∂x_q/∂s = [x/s] − x/s inside, l below, u above; ∂x_q/∂x = 1 inside and 0
outside. v starts from the 99.999th percentile of |x|.

At 1 bit integers without −2^(k−1) would be one level. Weights are then `QuantType.BINARY`, scaled
by `StatsOp.AVE`, and so is an input with negative values, scaled by its learned range::

    w_q = α · sign(w), α = mean|w| of N,  ∂C/∂w_i = α g_i + sign(w_i)/N · Σ_j g_j sign(w_j)
    x_q = |v| · sign(x),                  ∂x_q/∂x = |v| where |x| ≤ |v|, else 0

What differs from the library's defaults. They are 8 bits, here k, one scale for a layer. v starts
from calibration inputs, where Brevitas collects percentiles over the first 300 training steps, in
which it is not learned, and changes state in every forward pass. Its own binary quantizer for
weights, `SignedBinaryWeightPerTensorConst`, has a constant scale, 0.1, and clips the latent weight
when it is read; the one here is its building blocks with a mean.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qbench.method import (
    Binary,
    Integers,
    Layer,
    Library,
    Method,
    PerChannel,
    PerTensor,
    ScopeOption,
)


class Brevitas(Method):
    """Brevitas' integer quantizers: weights scaled to their maximum, inputs to a learned range.

    Options:
        scope: one weight scale for the layer, or for each filter.
    """

    name = "brevitas"
    title = "Brevitas"
    paper = "Franco et al., Zenodo 2026, doi:10.5281/zenodo.3333552"
    library = Library("brevitas", "0.13", "brevitas.quant.scaled_int")
    weights = Binary() | Integers(symmetric=True, named=True)
    activations = Integers(bits=range(1, 9), signed=False)
    granularity: ScopeOption = PerTensor()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> TensorQuant:
        """Scaled to the maximum, or at 1 bit to the mean size."""
        from brevitas.inject.enum import QuantType, StatsOp
        from brevitas.quant import scaled_int

        per_filter = self.granularity == PerChannel()
        default = (
            scaled_int.Int8WeightPerChannelFloat
            if per_filter
            else scaled_int.Int8WeightPerTensorFloat
        )
        bits = layer.weight_bits.bits
        changes: dict[str, Any] = {"bit_width": bits}
        if bits == 1:
            changes = {"quant_type": QuantType.BINARY, "scaling_stats_op": StatsOp.AVE}
        # the last three are what Brevitas would read off one of its own layers
        injector = default.let(
            **changes,
            tracked_parameter_list=[nn.Parameter(weight)],
            scaling_per_output_channel_shape=(len(weight), *[1] * (weight.dim() - 1)),
            permute_dims=None,
            group_dim=None,
        )
        return TensorQuant(injector.tensor_quant)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> TensorQuant:
        """Build a quantizer with a learned range, from the percentile of the sample."""
        from brevitas.inject.enum import QuantType
        from brevitas.quant import scaled_int

        signed = bool(sample.min() < 0)
        default = scaled_int.Int8ActPerTensorFloat if signed else scaled_int.Uint8ActPerTensorFloat
        bits = layer.activation_bits.bits
        changes: dict[str, Any] = {"bit_width": bits}
        if signed and bits == 1:
            changes = {"quant_type": QuantType.BINARY}
        quantizer = TensorQuant(default.let(**changes, collect_stats_steps=1).tensor_quant)
        quantizer.to(sample.device).train()
        for _ in range(2):  # the first collects the one step's statistics, the second ends it
            quantizer(sample)
        return quantizer


class TensorQuant(nn.Module):
    """A quantization module of Brevitas, without the scale, zero point and width it also returns.

    Args:
        tensor_quant: what one of Brevitas' injectors builds.
    """

    def __init__(self, tensor_quant: nn.Module) -> None:
        super().__init__()
        self.tensor_quant = tensor_quant

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        quantized: Tensor = self.tensor_quant(x)[0]
        return quantized
