"""Trained Ternary Quantization (Zhu, Han, Mao, Dally, ICLR 2017, arXiv:1612.01064).

Weights, 2 bits, for each layer, two learned scales (Eq. 6)::

    Δ = t · max|w|,   t = 0.05 (Eq. 9)
    w_t = +W_p where w > Δ,   −W_n where w < −Δ,   else 0

Gradients, g = ∂L/∂w_t (Eq. 7–8)::

    ∂L/∂W_p =  Σ g over w > Δ
    ∂L/∂W_n = −Σ g over w < −Δ
    ∂L/∂w = W_p g where w > Δ,   W_n g where w < −Δ,   else g

The paper prints the gradient of W_n without its minus sign, with which W_n would climb the loss;
the authors' code has it right, by automatic differentiation of w_t, and so has this.

W_p and W_n start at 1, as in the authors' code; ``initial: mean`` starts them at the mean size of
the weights that they stand for.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from qbench.functional import add_gradient
from qbench.method import Field, Layer, Method, Recipe, Ternary


class TTQ(Method):
    """Ternary weights with two learned scales, {−W_n, 0, W_p}.

    Options:
        threshold: t = Δ / max|w|.
        initial: where W_p and W_n start: at 1, or at the mean of the weights beyond Δ.
    """

    title = "TTQ"
    paper = "Zhu et al., ICLR 2017, arXiv:1612.01064"
    weights = Ternary(scales=2, required=True)
    paper_recipe = Recipe(
        optimizer="adam",
        lr=1e-4,
        schedule="step",
        milestones=(56, 64),
        gamma=0.2,
        epochs=80,
        batch_size=128,
        weight_decay=5e-6,
        initialization="pretrained",
    )
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05
    initial: Literal["ones", "mean"] = "ones"

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedTernary:
        """{−W_n, 0, W_p}."""
        return LearnedTernary(weight, self.threshold, self.initial == "mean")


class LearnedTernary(nn.Module):
    """w_t ∈ {−W_n, 0, W_p}.

    Args:
        weight: the weight at the start.
        threshold: t.
        from_mean: start the scales at the mean size of the weights beyond Δ, rather than at 1.
    """

    def __init__(self, weight: Tensor, threshold: float, from_mean: bool) -> None:
        super().__init__()
        self.threshold = threshold
        start = weight.new_ones(2)
        if from_mean:
            for i, beyond in enumerate(self._beyond(weight)):
                if beyond.any():
                    start[i] = weight[beyond].abs().mean()
        self.positive = nn.Parameter(start[0].clone())
        self.negative = nn.Parameter(start[1].clone())

    def forward(self, w: Tensor) -> Tensor:
        """Ternarise ``w``, any shape."""
        above, below = self._beyond(w)
        zero = torch.zeros_like(w)
        w_p, w_n = self.positive.to(w.dtype), self.negative.to(w.dtype)
        ternary = torch.where(above, w_p, zero) - torch.where(below, w_n, zero)
        slope = torch.where(above, w_p, torch.where(below, w_n, 1.0)).detach()
        return add_gradient(ternary, w * slope)

    def _beyond(self, w: Tensor) -> tuple[Tensor, Tensor]:
        delta = self.threshold * w.detach().abs().max()
        return w > delta, w < -delta
