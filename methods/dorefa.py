"""DoReFa-Net (Zhou et al., 2016, arXiv:1606.06160): low-bit weights and activations.

q_k(z) = [(2^k − 1) z] / (2^k − 1) for z ∈ [0, 1], gradient straight through (Eq. 5).

Weights (Eq. 8–10)::

    k = 1:  w_q = mean|w| · sign(w),  the mean over the layer, ∂w_q/∂w = 1
    k > 1:  w_q = 2 q_k( tanh(w) / (2 max|tanh(w)|) + ½ ) − 1

Only q_k is straight through: tanh and the maximum are differentiated. The levels are
{2i/(2^k − 1) − 1}, so at 2 bits {−1, −⅓, ⅓, 1}: no zero, and always as large as 1.

Activations (Eq. 11)::

    x_q = q_k( clip(x, 0, 1) )
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import quantize_unit, sign, straight_through
from qbench.method import Bits, Layer, Method


class DoReFa(Method):
    """tanh-normalised weights, activations clipped to [0, 1]."""

    name = "dorefa"
    title = "DoReFa-Net"
    paper = "Zhou et al., 2016, arXiv:1606.06160"
    paper_recipe = {
        "optimizer": "adam",
        "lr": 2e-4,
        "schedule": "step",
        "milestones": [60, 75],
        "gamma": 0.2,
        "epochs": 90,
        "batch_size": 256,
        "weight_decay": 0.0,
        "initialization": "scratch",
    }

    def supports(self, bits: Bits, task: str) -> str | None:
        """Any width with 2^k levels."""
        if bits.weights.top is not None:
            return f"its levels are 2^k evenly spaced values, not 0…±{bits.weights.top}"
        return None

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        """Eq. 8 at 1 bit, Eq. 9–10 above."""
        bits = layer.weight_bits.bits
        return BinaryWeight() if bits == 1 else TanhWeight(bits)

    def input_quantizer(self, layer: Layer, sample: Tensor) -> UnitInput:
        """Eq. 11."""
        return UnitInput(layer.input_bits.bits)


class BinaryWeight(nn.Module):
    """w_q = mean|w| · sign(w), the mean over the layer and without gradient."""

    def forward(self, w: Tensor) -> Tensor:
        """Binarise ``w``, any shape."""
        return straight_through(w, w.abs().mean() * sign(w))


class TanhWeight(nn.Module):
    """w_q = 2 q_k( tanh(w) / (2 max|tanh(w)|) + ½ ) − 1.

    Args:
        bits: k > 1.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        t = w.tanh()
        largest = t.abs().max().clamp(min=torch.finfo(w.dtype).tiny)  # a layer may be all zeros
        unit = t / (2 * largest) + 0.5
        return 2 * quantize_unit(unit, self.bits) - 1


class UnitInput(nn.Module):
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
