"""ReActNet (Liu, Shen, Savvides, Cheng, ECCV 2020, arXiv:2003.03488).

Bi-Real's weights, derivative of the sign and shortcuts, with learned shifts of each channel
(Eq. 2–3)::

    RSign:    x_b = sign(x + b),   ∂x_b/∂x = ∂x_b/∂b = Bi-Real's at x + b
    RPReLU:   f(x) = PReLU(x + b1) + b2,  after every shortcut

b, b1 and b2 start at 0 and the slope of PReLU at ¼. So RSign starts as a sign.

Departures. The paper's network is a MobileNet of its own, trained in two steps (activations first,
then weights) on the distribution of a full-precision teacher. Here the network of the suite is
trained once: with ``recipe: paper`` on its own distribution in full precision, otherwise on labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.method import Binary, BitWidths, Layer, Method, PerChannel, Recipe, Teacher
from qbench.quant.surgery import add_shortcuts, pool_before_norm

from .bireal import MagnitudeAwareWeight, PolynomialSign


class ReActNet(Method):
    """Binary weights and activations, with learned shifts."""

    name = "react_net"
    paper = "Liu et al., ECCV 2020, arXiv:2003.03488"
    revision = 2
    weights = Binary(granularity=PerChannel(), required=True)
    activations = Binary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="adam", lr=2.5e-3, schedule="linear", epochs=128, batch_size=512,
        teacher=Teacher(),
    )  # fmt: skip

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Add shortcuts, each followed by an RPReLU, and pool before normalisation."""
        return add_shortcuts(pool_before_norm(model), RPReLU)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> MagnitudeAwareWeight:
        """Build the quantizer of Bi-Real Net with the gradient of the released code."""
        return MagnitudeAwareWeight(magnitude_aware=False)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> RSign:
        """Build a sign with a learned threshold for each channel."""
        return RSign(sample.shape[1], sample.dim())


class RSign(nn.Module):
    """sign(x + b).

    Args:
        channels: Number of channels, the second dimension of the input.
        dims: Number of dimensions of the input.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, *([1] * (dims - 2))))  # b
        self.sign = PolynomialSign()

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, (N, C, …)."""
        return self.sign(x + self.shift.to(x.dtype))


class RPReLU(nn.Module):
    """PReLU(x + b1) + b2.

    Args:
        channels: Number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(1, channels, 1, 1))  # b1
        self.after = nn.Parameter(torch.zeros(1, channels, 1, 1))  # b2
        self.prelu = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return self.prelu(x + self.before) + self.after
