"""torchao's fake quantization for quantization-aware training (Or et al., 2025, arXiv:2507.16099).

A wrapper: the arithmetic is that of ``torchao.quantization.qat.IntxFakeQuantizer``, which needs
torchao installed (``pip install 'qbench-quant[libraries]'``). Written against torchao 0.18.

Weights, k bits, symmetric, for each filter (``PerAxis(0)``), anew at every step::

    s = max|w| / (2^(k−1) − ½),   w_q = s · clip([w/s], −2^(k−1), 2^(k−1) − 1)

Inputs, k bits, asymmetric with an integer zero point, n = 2^k − 1, from a range [a, b], a ≤ 0 ≤ b::

    s = (b − a)/n,   z = clip(−[a/s], 0, n),   x_q = s · (clip([x/s] + z, 0, n) − z)

Gradient: 1 where the code is not clipped, 0 where it is; none to s and z. The largest weight of a
filter, if positive, lies on the edge of its last step, and is clipped where rounding goes up.
Nothing is learned.

The gradient alone is written here. torchao 0.18 leaves it to torch's clamp, and that of torch 2.15
has none at its ends, where it had 1: the codes at both ends, and at few bits most inputs, would get
none. Later torchao has again the gradient above, and so has any with an earlier torch.

The library's defaults are symmetric weights for each filter or group, and dynamic input ranges, of
each row of a matrix, that move with every batch. What differs here: an input has one static range,
as ``IntxFakeQuantizer`` with ``is_dynamic=False``, for with a range for each row an input has more
than 2^k values; torchao would keep the range of the first batch, here it is a running average, from
which torchao's `choose_qparams_affine_with_min_max` makes scale and zero point. A convolution's
filters are the rows of a matrix, since torchao's quantizer takes matrices. Float64 is quantized in
float32, the widest that torchao takes. Groups smaller than a filter, and the prototype that learns
ranges, are left out.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from qbench.functional import straight_through
from qbench.method import (
    Field,
    Integers,
    Layer,
    Library,
    Method,
    PerChannel,
    Quantizer,
    ScopeOption,
)


class TorchAO(Method):
    """torchao's integer fake quantizer on weights and inputs.

    Options:
        scope: one weight scale for each filter, or for the layer.
        momentum: of the running average of the inputs' range.
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
        """Symmetric, scaled to the maximum."""
        per_filter = self.granularity == PerChannel()
        if (weight[0] if per_filter else weight).numel() == 1:
            raise ValueError(
                f"torchao cannot scale one weight alone, as each filter of '{layer.name}' has: "
                "use scope: layer, or leave the layer out"
            )
        return FakeQuantizedWeight(layer.weight_bits.bits, per_filter)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> FakeQuantizedInput:
        """Asymmetric, over the running range."""
        return FakeQuantizedInput(layer.activation_bits.bits, sample, self.momentum)


class FakeQuantizedWeight(nn.Module):
    """torchao's dynamic symmetric fake quantizer on the rows of a weight.

    Args:
        bits: k.
        per_filter: a row, and so a scale, for each output channel.
    """

    def __init__(self, bits: int, per_filter: bool) -> None:
        super().__init__()
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

        self.per_filter = per_filter
        config = IntxFakeQuantizeConfig(getattr(torch, f"int{bits}"), "per_channel")
        self.fake_quantizer = IntxFakeQuantizer(config)
        self.codes = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        rows = w.flatten(1) if self.per_filter else w.reshape(1, -1)
        return _fake_quantize(self.fake_quantizer, rows, self.codes).view(w.shape)


class FakeQuantizedInput(Quantizer):
    """torchao's static asymmetric fake quantizer on an input, with a range that runs.

    Args:
        bits: k.
        sample: inputs to take the first range from.
        momentum: weight of the past in the running average.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int, sample: Tensor, momentum: float) -> None:
        super().__init__()
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

        self.momentum = momentum
        self.dtype: torch.dtype = getattr(torch, f"uint{bits}")
        config = IntxFakeQuantizeConfig(
            self.dtype, "per_channel", is_symmetric=False, is_dynamic=False
        )
        self.fake_quantizer = IntxFakeQuantizer(config)
        self.codes = (0, 2**bits - 1)
        self.register_buffer("low", sample.min().float())
        self.register_buffer("high", sample.max().float())

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        from torchao.quantization.quant_primitives import (
            MappingType,
            choose_qparams_affine_with_min_max,
        )

        # no state: they follow from the range, which is
        self.fake_quantizer.scale, self.fake_quantizer.zero_point = (
            choose_qparams_affine_with_min_max(
                self.low.view(1, 1),
                self.high.view(1, 1),
                MappingType.ASYMMETRIC,
                block_size=(1, 1),
                target_dtype=self.dtype,
                scale_dtype=torch.float32,
                zero_point_dtype=torch.int32,
            )
        )
        return _fake_quantize(self.fake_quantizer, x.reshape(1, -1), self.codes).view(x.shape)

    def observe(self, x: Tensor) -> None:
        """Move the range toward this batch's."""
        self.low.lerp_(x.min().to(self.low.dtype), 1 - self.momentum)
        self.high.lerp_(x.max().to(self.high.dtype), 1 - self.momentum)


def _fake_quantize(fake_quantizer: Any, rows: Tensor, codes: tuple[int, int]) -> Tensor:
    """Apply a quantizer of torchao's, which takes no float64, to a matrix.

    Args:
        fake_quantizer: torchao's; it has its scale and zero point after it has run.
        rows: the matrix.
        codes: the least and the greatest code.
    """
    narrow = rows.detach()
    narrow = narrow.float() if narrow.dtype == torch.float64 else narrow
    quantized: Tensor = fake_quantizer(narrow)
    code = (narrow * (1.0 / fake_quantizer.scale)).round() + fake_quantizer.zero_point
    kept = (code >= codes[0]) & (code <= codes[1])
    return straight_through(torch.where(kept, rows, rows.detach()), quantized.to(rows.dtype))
