"""Binary-Weight-Networks (Rastegari et al., ECCV 2016, arXiv:1603.05279, Section 3.1).

Weights, 1 bit, for each filter of n weights (Eq. 5–6)::

    w_q = α · sign(w),   α = mean|w|

which minimises ‖w − αb‖² over α and b ∈ {−1, +1}ⁿ. Gradient (Section 3.1, "Training")::

    ∂C/∂w = g · (1/n + α · 1[|w| ≤ 1]),   g = ∂C/∂w_q

The paper's gradient drops the correlation between filters' elements. ``gradient: exact``
differentiates α(w)·sign(w) in full, with the straight-through sign::

    ∂C/∂w_i = α g_i 1[|w_i| ≤ 1] + sign(w_i)/n · Σ_j g_j sign(w_j)

``gradient: lua`` is the authors' released code for SGD: the paper's factor times n (1 − 1/I), I the
input channels, with 1[|w| < 1]. ``centre: true`` is the released code's other step: before each
forward pass the weights lose their mean over input channels and are clipped to [−1, 1]. In a
depthwise layer, where I = 1, the first leaves no gradient and the second no weight: neither suits
one.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from qbench.functional import filter_dims, sign
from qbench.method import Binary, Layer, Method, PerChannel, Recipe

Gradient = Literal["paper", "exact", "lua"]


class BWN(Method):
    """Binary weights with a scale for each filter.

    Options:
        gradient: the paper's, the exact one, or that of the released Lua code.
        centre: subtract the mean over input channels and clip to [−1, 1], as the released code.
    """

    title = "BWN"
    paper = "Rastegari et al., ECCV 2016, arXiv:1603.05279"
    weights = Binary(granularity=PerChannel(), required=True)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=1e-2,
        momentum=0.9,
        schedule="step",
        milestones=(18, 29, 43, 52),
        gamma=0.5,
        epochs=55,
        batch_size=128,
        weight_decay=5e-4,
        initialization="scratch",
    )
    gradient: Gradient = "paper"
    centre: bool = False

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> ScaledBinaryFilters:
        """α · sign(w)."""
        return ScaledBinaryFilters(self.gradient)

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


def centre(weight: Tensor) -> None:
    """Subtract the mean over input channels and clip to [−1, 1], in place.

    Args:
        weight: (out, in, …).
    """
    weight.sub_(weight.mean(1, keepdim=True)).clamp_(-1, 1)


class ScaledBinaryFilters(nn.Module):
    """w_q = mean|w| · sign(w), the mean over each filter.

    Args:
        gradient: as in `BWN`.
    """

    def __init__(self, gradient: Gradient) -> None:
        super().__init__()
        self.gradient = gradient

    def forward(self, w: Tensor) -> Tensor:
        """Binarise ``w``, (out, in, …)."""
        return _ScaledSign.apply(w, self.gradient)


class _ScaledSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, gradient: Gradient) -> Tensor:
        ctx.save_for_backward(w)
        ctx.gradient = gradient
        return w.abs().mean(filter_dims(w), keepdim=True) * sign(w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (w,) = ctx.saved_tensors
        dims = filter_dims(w)
        n = w[0].numel()
        alpha = w.abs().mean(dims, keepdim=True)
        window = (w.abs() < 1 if ctx.gradient == "lua" else w.abs() <= 1).to(w.dtype)
        if ctx.gradient == "exact":
            b = sign(w)
            return alpha * g * window + b / n * (g * b).sum(dims, keepdim=True), None
        factor = 1 / n + alpha * window
        if ctx.gradient == "lua":
            factor = factor * (1 - 1 / w.shape[1]) * n
        return g * factor, None
