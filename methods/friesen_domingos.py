"""Feasible target propagation (Friesen, Domingos, ICLR 2018, arXiv:1710.11573).

Weights stay at full precision. Activations of k > 1 bits are a saturating staircase of n = 2^k − 1
steps over the range of a ReLU clipped to 1, step i at i/(n − 1)::

    x_q = clip(⌈(n − 1) x⌉, 0, n) / n

At 1 bit they are a sign, −1 or +1.

The step replaces the ReLU, as in the released code: ``placement`` is ``after_activation``, and a
unit below zero still has the gradient of its layer loss. A ReLU that only the float classifier
reads stays; at 1 bit it is a hard tanh. With ``placement: layer_inputs`` the ReLU (at 1 bit the
hard tanh) stays before each step and cuts the tails of the soft hinge.

Gradient. Each unit has the target t = −sign(g) and minimises a layer loss toward it, weighted with
|g| (Section 3). With the soft hinge, tanh(−t z) + 1, or the saturated hinge, the gradient is::

    soft_hinge:  ∂x_q/∂x = 1 − tanh²(2x − 1),   at 1 bit 1 − tanh²(x)
    saturated:   ∂x_q/∂x = 1[0 ≤ x ≤ 1],        at 1 bit 1[|x| ≤ 1]

The second is the saturated straight-through estimator. The staircase and the derivatives are those
of the released code.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from qbench.functional import clip, sign, straight_through
from qbench.method import Binary, BitWidths, Integers, Layer, Method, Recipe
from qbench.quant.surgery import RELU, replace_modules

Loss = Literal["soft_hinge", "saturated"]


class FriesenDomingos(Method):
    """Full-precision weights; activations by target propagation.

    Attributes:
        loss: Loss of each layer: the soft hinge, or the saturated one, which is plain
            straight-through.
    """

    title = "FTPROP"
    paper = "Friesen and Domingos, ICLR 2018, arXiv:1710.11573"
    revision = 2
    activations = Binary(scales=0) | Integers(signed=False, scales=0)
    placement = "after_activation"
    replaces_activations = True
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, schedule="step", milestones=(30, 60), epochs=90, batch_size=256,
        weight_decay=1e-5,
    )  # fmt: skip
    loss: Loss = "soft_hinge"

    def paper_recipe_for(self, bits: BitWidths) -> Recipe:
        """Return the recipe, with less weight decay at 1 bit."""
        if bits.activations.bits > 1:
            return self.paper_recipe
        return self.paper_recipe.model_copy(update={"weight_decay": 5e-7})

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Let negative values reach a sign."""
        one_bit = bits.activations.bits == 1
        return replace_modules(model, RELU, nn.Hardtanh) if one_bit else model

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> HardThreshold:
        """Build the sign, or the staircase."""
        return HardThreshold(layer.activation_bits.bits, self.loss)


class HardThreshold(nn.Module):
    """x_q = sign(x) at 1 bit, else clip(⌈(n − 1) x⌉, 0, n) / n.

    Args:
        bits: Bit-width k.
        loss: As in `FriesenDomingos`.
    """

    def __init__(self, bits: int, loss: Loss) -> None:
        super().__init__()
        self.bits, self.loss = bits, loss

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        soft, n = self.loss == "soft_hinge", 2**self.bits - 1
        if self.bits == 1:
            return straight_through(x.tanh() if soft else clip(x, -1, 1), sign(x))
        quantized = ((n - 1) * x).ceil().clamp(0, n) / n
        return straight_through((2 * x - 1).tanh() / 2 if soft else clip(x, 0, 1), quantized)
