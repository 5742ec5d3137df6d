"""WRPN: wide reduced-precision networks (Mishra et al., ICLR 2018, arXiv:1709.01134).

Weights, k > 1 bits, one of them the sign (Eq. 1)::

    w_q = [(2^(k−1) − 1) · clip(w, −1, 1)] / (2^(k−1) − 1)

so 2^k − 1 levels; at 1 bit as in BWN, mean|w| · sign(w) of each filter. Activations::

    x_q = [(2^k − 1) · clip(x, 0, 1)] / (2^k − 1)

Gradients are straight through inside the clip, 0 outside. Nothing is learned, scales included: at
2 bits every weight below ½ is 0, so that a network whose weights are all smaller loses them.

What buys accuracy back is width: ``widen: 2`` doubles the channels of every layer, but the image's
and the classes'. A wider network has no pretrained weights: it starts from random ones.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from qbench.functional import quantize_unit, round_ste
from qbench.method import Binary, BitWidths, Field, Integers, Layer, Method, PerChannel, Recipe
from qbench.quant.surgery import widen

from .hwgq import WindowedBinaryFilters


class WRPN(Method):
    """Weights clipped to [−1, 1], activations to [0, 1], layers widened.

    Options:
        widen: factor on the number of channels.
    """

    name = "wrpn"
    title = "WRPN"
    paper = "Mishra et al., ICLR 2018, arXiv:1709.01134"
    weights = Binary(granularity=PerChannel()) | Integers(symmetric=True, named=True, scales=0)
    activations = Integers(bits=range(1, 9), signed=False, scales=0)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        schedule="step",
        milestones=(30, 60),
        gamma=0.1,
        epochs=90,
        batch_size=256,
        weight_decay=1e-4,
        initialization="scratch",
    )
    widen: Annotated[int, Field(ge=1, le=8)] = 1

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Widen the network."""
        return model if self.widen == 1 else widen(model, self.widen)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        """Signed, or binary."""
        bits = layer.weight_bits.bits
        return WindowedBinaryFilters() if bits == 1 else ClippedWeight(bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> UnitClippedInput:
        """Unsigned."""
        return UnitClippedInput(layer.activation_bits.bits)


class ClippedWeight(nn.Module):
    """w_q = [n clip(w, −1, 1)] / n, n = 2^(k−1) − 1.

    Args:
        bits: k > 1.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.n = 2 ** (bits - 1) - 1

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        return round_ste(self.n * w.clamp(-1, 1)) / self.n


class UnitClippedInput(nn.Module):
    """x_q = q_k( clip(x, 0, 1) ).

    Args:
        bits: k.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return quantize_unit(x.clamp(0, 1), self.bits)
