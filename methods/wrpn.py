"""WRPN: wide reduced-precision networks (Mishra et al., ICLR 2018, arXiv:1709.01134).

Weights, k > 1 bits, one of them the sign (Eq. 1)::

    w_q = [(2^(k−1) − 1) · clip(w, −1, 1)] / (2^(k−1) − 1)

so there are 2^k − 1 levels. At 1 bit, mean|w| · sign(w) of each filter, as in BWN. Activations::

    x_q = [(2^k − 1) · clip(x, 0, 1)] / (2^k − 1)

Gradients are straight through inside the clip and 0 outside. Nothing is learned, scales included:
at 2 bits every weight below ½ is 0, so a network whose weights are all smaller loses them.

Width restores accuracy: ``widen: 2`` doubles the channels of every layer, except those of the image
and of the classes. A wider network has no pretrained weights. It starts from random ones.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from qbench.functional import clip_round, integer_range
from qbench.method import Binary, BitWidths, Field, Integers, Layer, Method, PerChannel, Recipe
from qbench.quant.surgery import widen

from .dorefa import BinaryWeight, UnitActivation


class WRPN(Method):
    """Weights clipped to [−1, 1], activations to [0, 1], wider layers.

    Attributes:
        widen: Factor on the number of channels.
    """

    paper = "Mishra et al., ICLR 2018, arXiv:1709.01134"
    revision = 2
    weights = Binary(granularity=PerChannel()) | Integers(symmetric=True, named=True, scales=0)
    activations = Integers(bits=range(1, 9), signed=False, scales=0)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, schedule="step", milestones=(30, 60), epochs=90, batch_size=256,
        weight_decay=1e-4,
    )  # fmt: skip
    widen: Annotated[int, Field(ge=1, le=8)] = 1

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Widen the network."""
        return model if self.widen == 1 else widen(model, self.widen)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        """Build the binary quantizer, or that of Eq. 1."""
        bits = layer.weight_bits.bits
        return BinaryWeight(PerChannel()) if bits == 1 else ClippedWeight(bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> UnitActivation:
        """Build the quantizer over [0, 1]."""
        return UnitActivation(layer.activation_bits.bits)


class ClippedWeight(nn.Module):
    """w_q = [n clip(w, −1, 1)] / n, n = 2^(k−1) − 1.

    Args:
        bits: Bit-width k, at least 2.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        _, self.n = integer_range(bits)

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        return clip_round(w, -1, 1, self.n)
