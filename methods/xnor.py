"""XNOR-Net (Rastegari et al., ECCV 2016, arXiv:1603.05279, Section 3.2).

Weights, 1 bit, for each filter of n weights, as in Binary-Weight-Networks::

    w_b = α · sign(w),   α = mean|w|

Activations, 1 bit::

    x_b = sign(x),   ∂x_b/∂x = 1[|x| < 1]

and, with ``scale_map: true``, the layer's output times K, the box-filtered mean size of the input
(Eq. 11)::

    y = (sign(x) * sign(w)) ⊙ K α,   K = A * k,   A = mean over channels of |x|,   k = 1/(k_w k_h)

K is off by default, as in the released code: the paper finds that α matters far more. ``gradient``
is as in BWN; the released code uses ``lua`` and ``centre: true``.

The paper's block is batch normalisation, sign, convolution, pooling, without a ReLU between binary
layers. In a network of convolution, normalisation, ReLU, pooling that is what taking the ReLU away
and pooling before normalisation leaves; a hard tanh takes the ReLU's place, which changes no sign
and no gradient of one. The maximum of normalised values is nearly always positive: with its sign
AlexNet had 30.3 % in place of 44.2 (Table 3b).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.functional import sign, straight_through
from qbench.method import Binary, BitWidths, Layer, Method, PerChannel, Recipe
from qbench.quant.surgery import RELU, pool_before_norm, replace_modules

from .bwn import Gradient, ScaledBinaryFilters, centre


class XNOR(Method):
    """Binary weights with a scale for each filter, binary activations.

    Options:
        gradient: of the weights: the paper's, the exact one, or that of the released Lua code.
        centre: subtract the mean over input channels and clip to [−1, 1], as the released code.
        scale_map: multiply outputs by K, the paper's scale of the input.
    """

    name = "xnor"
    title = "XNOR-Net"
    paper = "Rastegari et al., ECCV 2016, arXiv:1603.05279"
    weights = Binary(granularity=PerChannel(), required=True)
    activations = Binary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="adam",
        lr=1e-3,
        schedule="step",
        milestones=(18, 29, 43, 52),
        gamma=0.5,
        epochs=55,
        batch_size=800,
        weight_decay=0.0,
        initialization="scratch",
    )
    gradient: Gradient = "paper"
    centre: bool = False
    scale_map: bool = False

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Take the ReLUs away, pool before normalisation, and make room for K."""
        model = replace_modules(pool_before_norm(model), RELU, nn.Hardtanh)
        if self.scale_map:
            for parent in list(model.modules()):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Conv2d | nn.Linear):
                        setattr(parent, name, ScaledByInput(child))
        return model

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> ScaledBinaryFilters:
        """α · sign(w)."""
        return ScaledBinaryFilters(self.gradient)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> ScaledBinaryInput:
        """sign(x)."""
        return ScaledBinaryInput()

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Centre the weights, so that the first forward pass sees them so."""
        if epoch == 1:
            with torch.no_grad():
                self.after_optimizer_step()

    def after_optimizer_step(self) -> None:
        """Centre the latent weights for the next forward pass, where asked to."""
        if self.centre:
            for layer in self.layers:
                centre(layer.latent_weight)


class ScaledBinaryInput(nn.Module):
    """x_b = sign(x), gradient where |x| < 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        return straight_through(torch.where(x.abs() < 1, x, x.detach()), sign(x))


class ScaledByInput(nn.Module):
    """A layer whose output is multiplied by K while its input is binarised.

    Args:
        layer: the convolution or linear layer.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) as the convolution does, or (N, …, C) as the linear layer does."""
        y: Tensor = self.layer(x)
        if not hasattr(self.layer, "input_quantizer"):
            return y
        bias = 0 if self.layer.bias is None else self.layer.bias
        if isinstance(self.layer, nn.Linear):
            return (y - bias) * x.abs().mean(-1, keepdim=True) + bias
        size = x.abs().mean(1, keepdim=True)
        box = torch.ones(1, 1, *self.layer.kernel_size, dtype=x.dtype, device=x.device)
        k = F.conv2d(
            size,
            box / box.numel(),
            stride=self.layer.stride,
            padding=self.layer.padding,
            dilation=self.layer.dilation,
        )
        bias = bias if isinstance(bias, int) else bias[:, None, None]
        return (y - bias) * k + bias
