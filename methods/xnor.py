"""XNOR-Net (Rastegari et al., ECCV 2016, arXiv:1603.05279, Section 3.2).

Weights, 1 bit, for each filter of n weights, as in Binary-Weight-Networks::

    w_b = α · sign(w),   α = mean|w|

Activations, 1 bit::

    x_b = sign(x),   ∂x_b/∂x = 1[|x| < 1]

With ``scale_map: true`` the output of the layer is multiplied by K, the box-filtered mean size of
the input (Eq. 11)::

    y = (sign(x) * sign(w)) ⊙ K α,   K = A * k,   A = mean over channels of |x|,   k = 1/(k_w k_h)

K is off by default, as in the released code: the paper finds that α matters far more. ``gradient``
and ``centre`` are those of BWN; their defaults are those of the released code.

The paper's block is batch normalisation, sign, convolution, pooling, without a ReLU between binary
layers. A chain of convolution, normalisation, ReLU, pooling becomes that when pooling moves before
normalisation and the ReLU is removed. A hard tanh takes the place of each ReLU but the one before
the classifier; it changes neither a sign nor its gradient. The maximum of normalised values is
nearly always positive: with its sign AlexNet had 30.3 % in place of 44.2 % (Table 3b).

AlexNet is that of the released code, whose stem has a ReLU, and a further normalisation behind it
(`qbench.models.alexnet.XNORAlexNet`). ResNets are pre-activation networks of that block
(`qbench.models.binary_resnet`), those of the code of TBN, which builds on XNOR-Net. The paper's own
are not public, so that its numbers for ResNets get no verdict.

Departures. In a residual network without such a form the hard tanh also clips what the shortcut
carries, and a third of the signs differ. K is computed behind the hard tanh.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.functional import binarize
from qbench.method import Binary, BitWidths, Layer, Method, PerChannel, Recipe
from qbench.quant.surgery import pass_signs, pool_before_norm

from .bwn import Gradient, ScaledBinaryWeight


class XNOR(Method):
    """Binary weights with a scale for each filter, binary activations.

    Attributes:
        gradient: Gradient of the weights: that of the released Lua code, which depends on the
            optimizer, that of the paper, or the exact one.
        centre: Whether to subtract the mean over input channels and clip to [−1, 1], as the
            released code does.
        scale_map: Whether to multiply outputs by K, the paper's scale of the input.
    """

    title = "XNOR-Net"
    paper = "Rastegari et al., ECCV 2016, arXiv:1603.05279"
    revision = 2
    weights = Binary(granularity=PerChannel(), required=True)
    activations = Binary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="adam", lr=1e-3, schedule="step", milestones=(18, 29, 43, 52),
        milestone_lrs=(5e-4, 1e-4, 5e-5, 1e-5), epochs=55, steps=1500, batch_size=800,
        epsilon=1e-17,
    )  # fmt: skip
    networks = {
        **{"alexnet_bn": "xnor_alexnet", "resnet_tiny": "tbn_resnet8"},
        **{f"resnet{n}": f"tbn_resnet{n}" for n in (18, 20, 32, 34, 44, 50, 56)},
    }
    gradient: Gradient = "lua"
    centre: bool = True
    scale_map: bool = False

    def network_departure(self, model: str, bits: BitWidths) -> str:
        """Return that the authors' network is public for AlexNet only."""
        return "" if model == "alexnet_bn" else f"the authors' {model} is not public"

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Pool before normalisation, replace ReLUs, and insert K."""
        model = pass_signs(pool_before_norm(model))
        for parent in list(model.modules()) if self.scale_map else ():
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d | nn.Linear):
                    setattr(parent, name, ScaledByInput(child))
        return model

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> ScaledBinaryWeight:
        """Build α · sign(w)."""
        return ScaledBinaryWeight(self.gradient, self.centre)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> WindowedSign:
        """Build sign(x)."""
        return WindowedSign()


class WindowedSign(nn.Module):
    """x_b = sign(x), with a gradient where |x| < 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, any shape."""
        return binarize(x, window=1, closed="neither")


class ScaledByInput(nn.Module):
    """Layer whose output is multiplied by K while its input is binarized.

    Args:
        layer: The convolution or linear layer.
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
