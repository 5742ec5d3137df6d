"""DoReFa-Net (Zhou et al., 2016, arXiv:1606.06160): low-bit weights and activations.

q_k(z) = [(2^k − 1) z] / (2^k − 1) for z ∈ [0, 1], with a straight-through gradient (Eq. 5).

Weights (Eq. 8–10)::

    k = 1:  w_q = mean|w| · sign(w),  the mean over the layer, ∂w_q/∂w = 1
    k > 1:  w_q = 2 q_k( tanh(w) / (2 max|tanh(w)|) + ½ ) − 1

Only q_k is straight through: tanh and the maximum are differentiated. The levels are
{2i/(2^k − 1) − 1}, so at 2 bits {−1, −⅓, ⅓, 1}: there is no zero, and the largest is always 1.

Activations (Eq. 11)::

    x_q = q_k( clip(x, 0, 1) )

Gradients, with ``gradient_bits: k``, of each quantized layer's output, m the largest |g| of each
sample and N uniform noise (Eq. 12)::

    g_q = 2m ( q_k( g/(2m) + ½ + N ) − ½ ),   N ~ U(−½, ½) / (2^k − 1)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qbench.functional import binarize, clip_round, quantize_unit, tanh_weight
from qbench.method import Binary, Granularity, Integers, Layer, Method, PerTensor, Recipe, Uniform


class DoReFa(Method):
    """Weights normalised by tanh, activations clipped to [0, 1].

    Attributes:
        gradient_bits: Bit-width of the gradients, 1 to 8. With 32 they are not quantized.
    """

    name = "dorefa"
    title = "DoReFa-Net"
    paper = "Zhou et al., 2016, arXiv:1606.06160"
    revision = 2
    weights = Binary() | Uniform(bits=range(2, 9), scales=0)
    activations = Integers(bits=range(1, 9), signed=False, scales=0)
    paper_recipe = Recipe(
        optimizer="adam", lr=1e-4, schedule="step", milestones=(56, 64), gamma=0.2, epochs=100,
        batch_size=128, weight_decay=5e-6, weight_decay_on="classifier", epsilon=1e-5,
    )  # fmt: skip
    gradient_bits: int = 32

    def __post_init__(self) -> None:
        """Check the bit-width of the gradients."""
        if self.gradient_bits != 32 and not 1 <= self.gradient_bits <= 8:
            raise ValueError(f"gradient_bits: {self.gradient_bits} is not 1 to 8, nor 32")

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        """Build the quantizer of Eq. 8 at 1 bit, of Eq. 9–10 above."""
        bits = layer.weight_bits.bits
        return BinaryWeight(PerTensor()) if bits == 1 else TanhWeight(bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> UnitActivation:
        """Build the quantizer of Eq. 11."""
        return UnitActivation(layer.activation_bits.bits)

    def output_module(self, layer: Layer) -> nn.Module | None:
        """Quantize the gradient of the output (Eq. 12)."""
        return None if self.gradient_bits == 32 else QuantizedGradient(self.gradient_bits)


class BinaryWeight(nn.Module):
    """w_q = mean|w| · sign(w), ∂w_q/∂w = 1.

    Args:
        granularity: Weights over which the mean is taken.
    """

    def __init__(self, granularity: Granularity) -> None:
        super().__init__()
        self.granularity = granularity

    def forward(self, w: Tensor) -> Tensor:
        """Binarize ``w``, (out, in, …)."""
        return binarize(w, self.granularity.reduce(w.detach().abs(), torch.mean))


class TanhWeight(nn.Module):
    """w_q = 2 q_k( tanh(w) / (2 max|tanh(w)|) + ½ ) − 1.

    Args:
        bits: Bit-width k, at least 2.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        return tanh_weight(w, 2**self.bits - 1)


class UnitActivation(nn.Module):
    """x_q = q_k( clip(x, 0, 1) ).

    Args:
        bits: Bit-width k.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return clip_round(x, 0, 1, 2**self.bits - 1)


class QuantizedGradient(nn.Module):
    """Identity whose gradient is quantized.

    Args:
        bits: Bit-width k of the gradient.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, y: Tensor) -> Tensor:
        """Return ``y``, (samples, …)."""
        return _QuantizedGradient.apply(y, self.bits)


class _QuantizedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, bits: int) -> Tensor:
        ctx.bits = bits
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        m = g.abs().amax(tuple(range(1, g.dim())), keepdim=True)
        m = m.clamp(min=torch.finfo(g.dtype).tiny)
        noise = (torch.rand_like(g) - 0.5) / (2**ctx.bits - 1)
        unit = (g / (2 * m) + 0.5 + noise).clamp(0, 1)
        return 2 * m * (quantize_unit(unit, ctx.bits) - 0.5), None
