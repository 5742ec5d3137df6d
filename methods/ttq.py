"""Trained Ternary Quantization (Zhu, Han, Mao, Dally, ICLR 2017, arXiv:1612.01064).

Weights, 2 bits, for each layer, two learned scales (Eq. 6)::

    Δ = t · max|w|,   t = 0.05 (Eq. 9)
    w_t = +W_p where w > Δ,   −W_n where w < −Δ,   else 0

Gradients, g = ∂L/∂w_t (Eq. 7–8)::

    ∂L/∂W_p =  Σ g over w > Δ
    ∂L/∂W_n = −Σ g over w < −Δ
    ∂L/∂w = W_p g where w > Δ,   W_n g where w < −Δ,   else g

The paper prints the gradient of W_n without its minus sign, with which W_n would climb the loss.
The authors' code differentiates w_t automatically and has the minus sign, as here.

W_p and W_n start at 1, as in the authors' code. With ``initial: mean`` they start at the mean size
of the weights that they replace.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from qbench.functional import learned_ternary
from qbench.method import Field, Layer, Method, Recipe, Ternary


class TTQ(Method):
    """Ternary weights with two learned scales, {−W_n, 0, W_p}.

    Attributes:
        threshold: Ratio t = Δ / max|w|.
        initial: Start of W_p and W_n: 1, or the mean size of the weights beyond Δ.
    """

    paper = "Zhu et al., ICLR 2017, arXiv:1612.01064"
    revision = 2
    weights = Ternary(scales=2, required=True)
    paper_recipe = Recipe(
        optimizer="adam", lr=1e-4, schedule="step", milestones=(56, 64), gamma=0.2, epochs=100,
        batch_size=128, weight_decay=5e-6, weight_decay_on="classifier", epsilon=1e-5,
    )  # fmt: skip
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05
    initial: Literal["ones", "mean"] = "ones"

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedTernary:
        """Build {−W_n, 0, W_p}."""
        return LearnedTernary(weight, self.threshold, self.initial == "mean")


class LearnedTernary(nn.Module):
    """w_t ∈ {−W_n, 0, W_p}.

    Args:
        weight: The weight at the start.
        threshold: Ratio t.
        from_mean: Whether W_p and W_n start at the mean size of the weights beyond Δ, or at 1.
    """

    def __init__(self, weight: Tensor, threshold: float, from_mean: bool) -> None:
        super().__init__()
        self.threshold = threshold
        delta = self.delta(weight)
        start = [
            weight[beyond].abs().mean() if from_mean and beyond.any() else weight.new_ones(())
            for beyond in (weight > delta, weight < -delta)
        ]
        self.positive, self.negative = map(nn.Parameter, start)

    def delta(self, w: Tensor) -> Tensor:
        """Return Δ, scalar."""
        return self.threshold * w.detach().abs().max()

    def forward(self, w: Tensor) -> Tensor:
        """Ternarise ``w``, any shape."""
        w_p, w_n = self.positive.to(w.dtype), self.negative.to(w.dtype)
        return learned_ternary(w, self.delta(w), w_p, w_n)
