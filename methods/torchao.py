"""torchao's fake quantization for quantization-aware training (Or et al., 2025, arXiv:2507.16099).

A wrapper: the arithmetic is that of ``torchao.quantization.qat.IntxFakeQuantizer``, which needs
torchao installed (``pip install 'qbench-quant[libraries]'``). Written against torchao 0.18.

Weights, k bits, symmetric, for each filter (``PerAxis(0)``), computed again at every step::

    s = max|w| / (2^(k−1) − ½),   w_q = s · clip([w/s], −2^(k−1), 2^(k−1) − 1)

Activations, k bits, asymmetric with an integer zero point, n = 2^k − 1, over a range [a, b] with
a ≤ 0 ≤ b::

    s = (b − a)/n,   z = clip(−[a/s], 0, n),   x_q = s · (clip([x/s] + z, 0, n) − z)

Gradient: 1 where the code is not clipped, 0 where it is. None passes to s and z. If the largest
weight of a filter is positive, it lies on the edge of the last step and is clipped where rounding
goes up. Nothing is learned. Weights have 2 bits or more: with the 1-bit codes −1 and 0, all of them
would round to 0.

Only the gradient is written here. torchao 0.18 leaves it to torch's clamp. The clamp of torch 2.15
has no gradient at its ends, where earlier ones have 1: the codes at both ends, and at few bits most
inputs, would get none. Later versions of torchao have the gradient above, as has any version with
an earlier torch.

By default the library has symmetric weights for each filter or group, and dynamic ranges of inputs,
of each row of a matrix, that move with every batch. Differences. An input has one static range, as
in ``IntxFakeQuantizer`` with ``is_dynamic=False``, because with a range for each row an input has
more than 2^k values. torchao would keep the range of the first batch; here it is a running average,
from which torchao's `choose_qparams_affine_with_min_max` computes scale and zero point. Filters or
groups are the rows of a matrix, because torchao's quantizer takes matrices. Float64 is quantized in
float32, the widest type that torchao takes. The prototype that learns ranges is left out.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import integer_range, straight_through
from qbench.method import Field, Integers, Layer, Library, Method, PerChannel, ScopeOption

from .jacob import RunningRange


class TorchAO(Method):
    """torchao's integer fake quantizer on weights and activations.

    Attributes:
        scope: Weights that share a scale. Default: those of a filter.
        momentum: Weight of the past in the running average of an input's range.
    """

    name = "torchao"
    title = "torchao QAT"
    paper = "Or et al., ICML 2025 CODEML workshop, arXiv:2507.16099"
    library = Library("torchao", "0.18", "torchao.quantization.qat")
    weights = Integers()
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    granularity: ScopeOption = PerChannel()
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> FakeQuantizedWeight:
        """Build a symmetric quantizer, scaled to the maximum."""
        if any(rows.shape[1] == 1 for rows in self.granularity.split(weight)):
            raise ValueError(
                f"torchao cannot scale one weight alone, as {self.granularity} does for "
                f"'{layer.name}': use per_tensor, or leave the layer out"
            )
        return FakeQuantizedWeight(layer.weight_bits.bits, self)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> FakeQuantizedActivation:
        """Build an asymmetric quantizer over the running range."""
        if sample[0].numel() == 1:
            raise ValueError(
                f"torchao cannot scale one value alone, as the input of '{layer.name}'"
            )
        return FakeQuantizedActivation(layer.activation_bits.bits, sample, self.momentum)


class FakeQuantizer(nn.Module):
    """``IntxFakeQuantizer`` on the rows of a matrix, with the gradient above.

    Args:
        bits: Bit-width k.
        signed: Whether weights are quantized, symmetrically and with dynamic scales. If not, the
            quantizer is static and asymmetric.
    """

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__()
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

        self.dtype: torch.dtype = getattr(torch, f"{'int' if signed else 'uint'}{bits}")
        self.quant_min, self.quant_max = integer_range(bits, signed=signed)
        config = IntxFakeQuantizeConfig(
            self.dtype, "per_channel", is_symmetric=signed, is_dynamic=signed
        )
        self.fake_quantizer = IntxFakeQuantizer(config)

    def forward(self, rows: Tensor) -> Tensor:
        """Quantize ``rows``, (rows, columns)."""
        x = rows.detach()
        x = x.float() if x.dtype == torch.float64 else x  # torchao takes no float64
        quantized: Tensor = self.fake_quantizer(x)
        code = (x * (1.0 / self.fake_quantizer.scale)).round() + self.fake_quantizer.zero_point
        kept = (code >= self.quant_min) & (code <= self.quant_max)
        return straight_through(torch.where(kept, rows, rows.detach()), quantized.to(rows.dtype))


class FakeQuantizedWeight(FakeQuantizer):
    """torchao's dynamic symmetric fake quantizer on a weight.

    Args:
        bits: Bit-width k.
        method: The method, for its granularity.
    """

    def __init__(self, bits: int, method: TorchAO) -> None:
        super().__init__(bits, signed=True)
        self.granularity = method.granularity

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        return self.granularity.apply(w, super().forward)


class FakeQuantizedActivation(RunningRange):
    """torchao's static asymmetric fake quantizer over a running range.

    Args:
        bits: Bit-width k.
        sample: Inputs, any shape, from which the range is initialized.
        momentum: Weight of the past in the running average.
    """

    def __init__(self, bits: int, sample: Tensor, momentum: float) -> None:
        super().__init__(sample.float(), momentum)
        self.quantize = FakeQuantizer(bits, signed=False)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        from torchao.quantization import quant_primitives as library

        # scale and zero point are no state: they follow from the range, which is
        fake = self.quantize.fake_quantizer
        fake.scale, fake.zero_point = library.choose_qparams_affine_with_min_max(
            self.low.view(1, 1), self.high.view(1, 1), library.MappingType.ASYMMETRIC,
            block_size=(1, 1), target_dtype=self.quantize.dtype, scale_dtype=torch.float32,
            zero_point_dtype=torch.int32,
        )  # fmt: skip
        quantized: Tensor = self.quantize(x.reshape(1, -1))
        return quantized.view(x.shape)
