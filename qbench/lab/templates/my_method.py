"""My method: uniform levels over a multiple of the mean absolute value.

Weights, k bits, for each layer, n = 2^(k−1) − 1::

    s = reach · mean|w| / n,   w_q = s · clip([w/s], −n, n)

Activations, k bits, n = 2^k − 1, mean|x| over the calibration data::

    s = reach · mean|x| / n,   x_q = s · clip([x/s], 0, n)

Gradient: 1 inside the range, 0 outside.

This file works as it is. Change the equations above, then the two quantizers below to match.
`qbench check my_method.py` reports what a change breaks.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from qbench.functional import clip, round_ste
from qbench.method import Field, Integers, Layer, Method, Recipe


class MyMethod(Method):
    """One line for `qbench list methods`.

    Options:
        reach: Largest level, as a multiple of the mean absolute value. Above 0.
    """

    name = "my_method"
    title = "My method"  # in tables
    paper = ""  # as "Authors, venue year, arXiv:number"
    # Which levels there are. The bit-widths that the method supports follow from it.
    weights = Integers(symmetric=True, named=True)
    activations = Integers(bits=range(1, 9), signed=False)
    # The recipe of its paper, for `recipe: paper`.
    paper_recipe = Recipe(optimizer="sgd", lr=0.01, epochs=90, batch_size=256)
    reach: Annotated[float, Field(gt=0)] = 3.0  # an option: `my_method: {reach: 2}` in a suite

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        """Build the quantizer of a layer's weight; ``weight`` is what training starts from."""
        return WeightQuantizer(layer.weight_bits.bits, self.reach)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        """Build the quantizer of a layer's input; ``sample`` holds inputs on training data."""
        return ActivationQuantizer(layer.activation_bits.bits, self.reach * sample.abs().mean())


class WeightQuantizer(nn.Module):
    """Weight quantizer: w_q = s · clip([w/s], −n, n), s = reach · mean|w| / n.

    Args:
        bits: Bit-width k, at least 2.
        reach: Largest level over mean|w|.
    """

    def __init__(self, bits: int, reach: float) -> None:
        super().__init__()
        self.n, self.reach = 2 ** (bits - 1) - 1, reach

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        s = (self.reach * w.detach().abs().mean() / self.n).clamp(min=1e-8)
        return round_ste(clip(w / s, -self.n, self.n)) * s


class ActivationQuantizer(nn.Module):
    """Activation quantizer: x_q = s · clip([x/s], 0, n).

    Args:
        bits: Bit-width k.
        largest: Largest level, a scalar tensor.
    """

    step: Tensor

    def __init__(self, bits: int, largest: Tensor) -> None:
        super().__init__()
        self.n = 2**bits - 1
        self.register_buffer("step", (largest / self.n).clamp(min=1e-8))  # saved with the model

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        s = self.step.to(x.dtype)
        return round_ste(clip(x / s, 0, self.n)) * s
