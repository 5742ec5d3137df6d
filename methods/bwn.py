"""Binary-Weight-Networks (Rastegari et al., ECCV 2016, arXiv:1603.05279, Section 3.1).

Weights, 1 bit, for each filter of n weights (Eq. 5–6)::

    w_q = α · sign(w),   α = mean|w|

which minimises ‖w − αb‖² over α and b ∈ {−1, +1}ⁿ. Gradient (Section 3.1, "Training")::

    ∂C/∂w = g · (1/n + α · 1[|w| ≤ 1]),   g = ∂C/∂w_q

Training follows the authors' released code (allenai/XNOR-Net), whose learning rates the recipe has.
It differs from the equation in two ways. ``gradient: lua``, I the number of input channels::

    ∂C/∂w = g · (1/n + α · 1[|w| < 1]) · (1 − 1/I) · f,   f = n for SGD, 10⁹ for Adam

f is applied before each step of the optimizer, after gradients are clipped. Without n, a step of
SGD at the same learning rate is about a thousand times shorter, and the weights hardly move. To
Adam, 10⁹ matters only beside its ε and an L2 penalty, which it makes negligible.
``centre: true``: before each forward pass the mean over input channels is subtracted from the
weights, and they are clipped to [−1, 1]. 1 − 1/I is the slope of that subtraction.

``gradient: paper`` is the equation alone, which drops the correlation between the elements of a
filter. ``gradient: exact`` differentiates α(w)·sign(w) in full, with the straight-through sign::

    ∂C/∂w_i = α g_i 1[|w_i| ≤ 1] + sign(w_i)/n · Σ_j g_j sign(w_j)

Departure. Filters of one input channel, as in a depthwise convolution, are not centred, and their
gradient has no factor 1 − 1/I: otherwise every weight and every gradient would be zero.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from qbench.functional import binarize, filter_dims, sign
from qbench.method import Binary, Layer, Method, PerChannel, Quantizer, Recipe

Gradient = Literal["paper", "exact", "lua"]
ADAM_FACTOR = 1e9


class BWN(Method):
    """Binary weights with a scale for each filter.

    Attributes:
        gradient: Gradient of the weights: that of the released Lua code, which depends on the
            optimizer, that of the paper, or the exact one.
        centre: Whether to subtract the mean over input channels and clip to [−1, 1], as the
            released code does.
    """

    paper = "Rastegari et al., ECCV 2016, arXiv:1603.05279"
    revision = 2
    weights = Binary(granularity=PerChannel(), required=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=1e-2, schedule="step", milestones=(18, 29, 43, 52),
        milestone_lrs=(5e-3, 1e-3, 5e-4, 1e-4), epochs=55, steps=2500, batch_size=128,
        weight_decay=5e-4, milestone_weight_decays=(5e-4, 0, 0, 0),
    )  # fmt: skip
    gradient: Gradient = "lua"
    centre: bool = True

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
        alpha = w.detach().abs().mean(filter_dims(w), keepdim=True)
        if self.gradient == "exact":
            return _ExactScaledSign.apply(w, alpha)
        outside = w.new_tensor(1 / w[0].numel())
        inside = outside + alpha
        if self.gradient == "paper":
            return binarize(w, alpha, window=1, slopes=(inside, outside))
        centring = 1 - 1 / w.shape[1] if w.shape[1] > 1 else 1.0
        slopes = inside * centring, outside * centring
        return binarize(w, alpha, window=1, closed="neither", slopes=slopes)

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Centre the weights before the first forward pass."""
        if epoch == 1:
            self.after_optimizer_step(layer)

    def before_optimizer_step(self, layer: Layer) -> None:
        """Multiply the gradient with the factor of the released code for the optimizer."""
        if self.gradient != "lua":
            return
        sgd = isinstance(layer.optimizer, torch.optim.SGD)
        factor = layer.latent_weight[0].numel() if sgd else ADAM_FACTOR
        for parameter in layer.weight_parameters:
            if parameter.grad is not None:
                parameter.grad *= factor

    def after_optimizer_step(self, layer: Layer) -> None:
        """Centre the latent weights for the next forward pass, if asked to."""
        if self.centre:
            w = layer.latent_weight
            if w.shape[1] > 1:
                w.sub_(w.mean(1, keepdim=True))
            w.clamp_(-1, 1)


class _ExactScaledSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(w, alpha)
        return alpha * sign(w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        w, alpha = ctx.saved_tensors
        b, window = sign(w), (w.abs() <= 1).to(w.dtype)
        shared = b / w[0].numel() * (g * b).sum(filter_dims(w), keepdim=True)
        return alpha * g * window + shared, None
