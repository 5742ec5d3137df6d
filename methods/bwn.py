"""Binary-Weight-Networks (Rastegari et al., ECCV 2016, arXiv:1603.05279, Section 3.1).

Weights, 1 bit, for each filter of n weights (Eq. 5–6)::

    w_q = α · sign(w),   α = mean|w|

which minimises ‖w − αb‖² over α and b ∈ {−1, +1}ⁿ. Gradient (Section 3.1, "Training")::

    ∂C/∂w = g · (1/n + α · 1[|w| ≤ 1]),   g = ∂C/∂w_q

The paper's gradient drops the correlation between the elements of a filter. ``gradient: exact``
differentiates α(w)·sign(w) in full, with the straight-through sign::

    ∂C/∂w_i = α g_i 1[|w_i| ≤ 1] + sign(w_i)/n · Σ_j g_j sign(w_j)

``gradient: lua`` is that of the authors' released code for SGD: the paper's factor times
n (1 − 1/I), I the number of input channels, with 1[|w| < 1]. ``centre: true`` is the other step of
the released code: before each forward pass the mean over input channels is subtracted from the
weights, and they are clipped to [−1, 1]. In a depthwise layer, where I = 1, the first leaves no
gradient and the second no weight, so neither suits it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from qbench.functional import filter_dims, scaled_sign, sign
from qbench.method import Binary, Layer, Method, PerChannel, Quantizer, Recipe

Gradient = Literal["paper", "exact", "lua"]


class BWN(Method):
    """Binary weights with a scale for each filter.

    Attributes:
        gradient: Gradient of the weights: that of the paper, the exact one, or that of the released
            Lua code.
        centre: Whether to subtract the mean over input channels and clip to [−1, 1], as the
            released code does.
    """

    paper = "Rastegari et al., ECCV 2016, arXiv:1603.05279"
    weights = Binary(granularity=PerChannel(), required=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=1e-2, schedule="step", milestones=(18, 29, 43, 52),
        milestone_lrs=(5e-3, 1e-3, 5e-4, 1e-4), epochs=55, steps=2500, batch_size=128,
        weight_decay=5e-4, milestone_weight_decays=(5e-4, 0, 0, 0),
    )  # fmt: skip
    gradient: Gradient = "paper"
    centre: bool = False

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> ScaledBinaryWeight:
        """Build α · sign(w)."""
        return ScaledBinaryWeight(self.gradient, self.centre)


class ScaledBinaryWeight(Quantizer):
    """w_q = mean|w| · sign(w), the mean over each filter.

    Args:
        gradient: As in `BWN`.
        centre: As in `BWN`.
    """

    def __init__(self, gradient: Gradient, centre: bool) -> None:
        super().__init__()
        self.gradient, self.centre = gradient, centre

    def forward(self, w: Tensor) -> Tensor:
        """Binarize ``w``, (out, in, …)."""
        return _ScaledSign.apply(w, self.gradient)

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Centre the weights before the first forward pass."""
        if epoch == 1:
            self.after_optimizer_step(layer)

    def after_optimizer_step(self, layer: Layer) -> None:
        """Centre the latent weights for the next forward pass, if asked to."""
        if self.centre:
            w = layer.latent_weight
            w.sub_(w.mean(1, keepdim=True)).clamp_(-1, 1)


class _ScaledSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, gradient: Gradient) -> Tensor:
        ctx.save_for_backward(w)
        ctx.gradient = gradient
        return scaled_sign(w, PerChannel())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (w,) = ctx.saved_tensors
        dims, n = filter_dims(w), w[0].numel()
        alpha = w.abs().mean(dims, keepdim=True)
        window = (w.abs() < 1 if ctx.gradient == "lua" else w.abs() <= 1).to(w.dtype)
        if ctx.gradient == "exact":
            b = sign(w)
            return alpha * g * window + b / n * (g * b).sum(dims, keepdim=True), None
        factor = 1 / n + alpha * window
        if ctx.gradient == "lua":
            factor = factor * (1 - 1 / w.shape[1]) * n
        return g * factor, None
