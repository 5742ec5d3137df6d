"""Brevitas' quantizers (Franco et al., Xilinx/brevitas, doi:10.5281/zenodo.3333552).

A wrapper: the arithmetic is that of the modules that Brevitas' injectors build, which needs
Brevitas installed (``pip install 'qbench-quant[libraries]'``). Written against Brevitas 0.13.

Weights, k ≥ 2 bits, n = 2^(k−1) − 1 (``Int8WeightPerTensorFloat``, ``Int8WeightPerChannelFloat``)::

    s = max|w| / n,   w_q = s · clip([w/s], −n, n)

s is a statistic and gets its gradient. Rounding and clipping are straight through::

    ∂C/∂w_i = g_i + 1[|w_i| = max|w|] · sign(w_i)/n · Σ_j g_j ([w_j/s] − w_j/s),   g = ∂C/∂w_q

Activations, k bits (``Uint8ActPerTensorFloat``, with negative values ``Int8ActPerTensorFloat``)::

    x_q = s · clip([x/s], l, u),   s = |v|/u, l = 0, u = 2^k − 1
                                   s = |v|/2^(k−1), l = −2^(k−1), u = 2^(k−1) − 1

v, the range, is learned: ∂x_q/∂s = [x/s] − x/s inside, l below, u above; ∂x_q/∂x = 1 inside and 0
outside. v starts from the 99.999th percentile of |x|.

At 1 bit, integers without −2^(k−1) would be one level. Weights are then `QuantType.BINARY`, scaled
by `StatsOp.AVE`. So is an input with negative values, scaled by its learned range::

    w_q = α · sign(w), α = mean|w| of N,  ∂C/∂w_i = α g_i + sign(w_i)/N · Σ_j g_j sign(w_j)
    x_q = |v| · sign(x),                  ∂x_q/∂x = |v| where |x| ≤ |v|, else 0

Differences from the library's defaults. They have 8 bits, here k, and one scale for a layer. v
starts from calibration inputs. Brevitas collects percentiles over the first 300 training steps, in
which v is not learned, and changes state in every forward pass. Its binary quantizer for weights,
`SignedBinaryWeightPerTensorConst`, has a constant scale, 0.1, and clips the latent weight when it
is read. The one here consists of its building blocks with a mean. Groups of weights are the rows of
matrices, as the channels of `Int8WeightPerChannelFloat`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qbench.method import (
    Binary,
    Granularity,
    Integers,
    Layer,
    Library,
    Method,
    PerTensor,
    ScopeOption,
)


class Brevitas(Method):
    """Brevitas' integer quantizers: weights scaled to their maximum, inputs to a learned range.

    Attributes:
        scope: Weights that share a scale. Default: those of a layer.
    """

    paper = "Franco et al., Zenodo 2026, doi:10.5281/zenodo.3333552"
    library = Library("brevitas", "0.13", "brevitas.quant.scaled_int")
    weights = Binary() | Integers(symmetric=True, named=True)
    activations = Integers(bits=range(1, 9), signed=False)
    granularity: ScopeOption = PerTensor()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> WeightQuant:
        """Build a quantizer that is scaled to the maximum, or at 1 bit to the mean size."""
        return WeightQuant(layer.weight_bits.bits, weight, self.granularity)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> ActivationQuant:
        """Build a quantizer with a learned range, from the percentile of the sample."""
        quantizer = ActivationQuant(layer.activation_bits.bits, signed=bool(sample.min() < 0))
        quantizer.to(sample.device)
        for _ in range(2):  # the first collects the one step's statistics, the second ends it
            quantizer(sample)
        return quantizer


class WeightQuant(nn.Module):
    """Weight quantization modules of Brevitas, one for each matrix of groups.

    Args:
        bits: Bit-width k.
        weight: Weight to quantize, (out, in, …).
        granularity: Weights that share a scale.
    """

    def __init__(self, bits: int, weight: Tensor, granularity: Granularity) -> None:
        super().__init__()
        from brevitas.inject.enum import QuantType, StatsOp
        from brevitas.quant import scaled_int

        self.granularity = granularity
        whole = isinstance(granularity, PerTensor)
        default = (
            scaled_int.Int8WeightPerTensorFloat if whole else scaled_int.Int8WeightPerChannelFloat
        )
        binary = {"quant_type": QuantType.BINARY, "scaling_stats_op": StatsOp.AVE}
        changes: dict[str, Any] = binary if bits == 1 else {"bit_width": bits}
        # the last three are what Brevitas would read from one of its own layers
        self.tensor_quants = nn.ModuleList(
            default.let(
                **changes, tracked_parameter_list=[nn.Parameter(rows)],
                scaling_per_output_channel_shape=(len(rows), 1), permute_dims=None, group_dim=None,
            ).tensor_quant
            for rows in granularity.split(weight)
        )  # fmt: skip

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, the shape it was built for."""
        remaining = iter(self.tensor_quants)  # they return scale, zero point and width as well
        return self.granularity.apply(w, lambda rows: next(remaining)(rows)[0])


class ActivationQuant(nn.Module):
    """Activation quantization module of Brevitas.

    Args:
        bits: Bit-width k.
        signed: Whether inputs have negative values.
    """

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__()
        from brevitas.inject.enum import QuantType
        from brevitas.quant import scaled_int

        default = scaled_int.Int8ActPerTensorFloat if signed else scaled_int.Uint8ActPerTensorFloat
        binary = signed and bits == 1
        changes = {"quant_type": QuantType.BINARY} if binary else {"bit_width": bits}
        self.tensor_quant = default.let(**changes, collect_stats_steps=1).tensor_quant

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        quantized: Tensor = self.tensor_quant(x)[0]  # it returns scale, zero point and width too
        return quantized
