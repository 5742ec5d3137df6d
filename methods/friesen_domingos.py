"""Feasible target propagation (Friesen, Domingos, ICLR 2018, arXiv:1710.11573).

Weights stay at full precision. Activations, k > 1 bits, a saturating staircase of n = 2^k − 1 steps
over the range of a ReLU clipped to 1, step i at i/(n − 1)::

    x_q = clip(⌈(n − 1) x⌉, 0, n) / n

and at 1 bit a sign, −1 or +1, before which a ReLU becomes a hard tanh.

Gradient. Each unit is given the target t = −sign(g) and minimises a layer loss toward it, weighted
with |g| (Section 3). With the soft hinge, tanh(−t z) + 1, that comes to::

    soft_hinge:  ∂x_q/∂x = 1 − tanh²(2x − 1),   at 1 bit 1 − tanh²(x)
    saturated:   ∂x_q/∂x = 1[0 ≤ x ≤ 1],        at 1 bit 1[|x| ≤ 1]

the second, of a saturated hinge, is the saturated straight-through estimator. Staircase and
derivatives are the released code's.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from qbench.functional import sign, straight_through
from qbench.method import BitWidths, Layer, Method, Recipe, Uniform
from qbench.quant.surgery import RELU, replace_modules

Loss = Literal["soft_hinge", "saturated"]


class FriesenDomingos(Method):
    """Full-precision weights; activations by target propagation.

    Options:
        loss: each layer's: the soft hinge, or the saturated one, which is plain straight-through.
    """

    name = "friesen_domingos"
    title = "FTPROP"
    paper = "Friesen and Domingos, ICLR 2018, arXiv:1710.11573"
    activations = Uniform(scales=0)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        schedule="step",
        milestones=(30, 60),
        gamma=0.1,
        epochs=90,
        batch_size=256,
        weight_decay=1e-5,
        initialization="scratch",
    )
    loss: Loss = "soft_hinge"

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Let negative values reach a sign."""
        if bits.activations.bits == 1:
            return replace_modules(model, RELU, nn.Hardtanh)
        return model

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        """Return the sign, or the staircase."""
        bits = layer.activation_bits.bits
        return Sign(self.loss) if bits == 1 else HardStaircase(2**bits - 1, self.loss)


class Sign(nn.Module):
    """x_q = sign(x).

    Args:
        loss: as in `FriesenDomingos`.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return straight_through(x.tanh() if self.loss == "soft_hinge" else x.clamp(-1, 1), sign(x))


class HardStaircase(nn.Module):
    """x_q = clip(⌈(n − 1) x⌉, 0, n) / n.

    Args:
        steps: n.
        loss: as in `FriesenDomingos`.
    """

    def __init__(self, steps: int, loss: Loss) -> None:
        super().__init__()
        self.steps, self.loss = steps, loss

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        quantized = ((self.steps - 1) * x).ceil().clamp(0, self.steps) / self.steps
        smooth = (2 * x - 1).tanh() / 2 if self.loss == "soft_hinge" else x.clamp(0, 1)
        return straight_through(smooth, quantized)
