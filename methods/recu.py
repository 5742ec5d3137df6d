"""ReCU: rectified clamp unit (Xu et al., ICCV 2021, arXiv:2103.12369).

Weights, 1 bit, with α learned for each filter. They are balanced and standardized for each filter,
to a Laplace distribution of b = 2, and clipped at the quantiles τ and 1 − τ of the layer, so that
weights far from zero, whose sign would never change, come back::

    ŵ = (w − mean w) / (std w / (2√2)),   Q = −mean|ŵ| ln(2 − 2τ),   w̃ = clip(ŵ, −Q, Q)
    w_b = α sign(w̃),   ∂sign(w̃)/∂w̃ = 1

The gradient passes through the mean and std, and not through Q. It is 0 beyond ±Q.

τ rises from ``tau_min`` in the first epoch to ``tau_max``, which it does not reach, in epoch
e = 0 … E − 1::

    τ = τ_min + (τ_max − τ_min) (exp(e/E) − 1)/(exp(1) − 1)

Activations, 1 bit, are divided by the standard deviation of each image in training, which does not
change their signs::

    x_b = sign(x),   with Bi-Real's derivative max(2 − 2|x̂|, 0) at x̂ = x / std x

The network is that of ``ir_net``.

Departures. α starts at mean|w|; the authors draw it from [0, 1], and batch normalization removes
its size. They multiply the output by α, which is the same, and decay it as they do the weights:
by 1e-4; here α has no decay. Their normalizations in residual blocks start with scales of 1e-8;
here with those of the full-precision network. A filter of one weight is not standardized.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import filter_dims, moments, sign, two_levels
from qbench.method import Binary, BitWidths, Field, Layer, Method, PerChannel, Quantizer, Recipe

from .ir_net import filter_moments, hard_tanh_shortcuts, mean_size

Quantile = Annotated[float, Field(gt=0.5, lt=1)]
_EPSILON = 1e-5


class ReCU(Method):
    """Standardized binary weights, clipped at a quantile.

    Attributes:
        tau_min: τ in the first epoch.
        tau_max: What τ approaches.
    """

    name = "recu"
    title = "ReCU"
    paper = "Xu et al., ICCV 2021, arXiv:2103.12369"
    weights = Binary(granularity=PerChannel(), required=True)
    activations = Binary(scales=0, required=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, epochs=200, batch_size=512, warmup_epochs=5, weight_decay=1e-4,
        weight_decay_on="weights",
    )  # fmt: skip
    tau_min: Quantile = 0.85
    tau_max: Quantile = 0.99

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Add shortcuts, replace ReLUs by hard tanhs, and normalize before the classifier."""
        return hard_tanh_shortcuts(model)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> RectifiedSign:
        """Build w_b."""
        return RectifiedSign(weight, self.tau_min, self.tau_max)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> StandardizedSign:
        """Build x_b."""
        return StandardizedSign()


class RectifiedSign(Quantizer):
    """w_b = α sign(w̃), for each filter.

    Args:
        weight: The weight, (out, in, …).
        tau_min: τ in the first epoch.
        tau_max: What τ approaches.
    """

    tau: Tensor

    def __init__(self, weight: Tensor, tau_min: float, tau_max: float) -> None:
        super().__init__()
        self.range = tau_min, tau_max
        self.register_buffer("tau", torch.tensor(tau_min))
        self.alpha = nn.Parameter(weight.abs().mean(filter_dims(weight), keepdim=True))

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Set τ."""
        low, high = self.range
        self.tau.fill_(low + (high - low) * math.expm1((epoch - 1) / epochs) / math.expm1(1))

    def forward(self, w: Tensor) -> Tensor:
        """Binarize ``w``, (out, in, …)."""
        mean, deviation = filter_moments(w, _EPSILON)
        if w[0].numel() > 1:
            deviation = deviation / (2 * 2**0.5)
        end = -mean_size(w, mean, deviation).mean() * torch.log(2 - 2 * self.tau.to(w.dtype))  # Q
        return two_levels(w, self.alpha.to(w.dtype), centre=mean, deviation=deviation, reach=end)


class StandardizedSign(nn.Module):
    """x_b = sign(x), with the derivative of Bi-Real's at x / std x."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarize ``x``, (N, C, …)."""
        if not self.training:
            return sign(x)
        _, deviation = moments(x, _EPSILON, correction=min(1, x[0].numel() - 1))
        return two_levels(x, deviation=deviation, slope="triangle")
