"""Ternary Weight Networks (Li, Zhang, Liu, 2016, arXiv:1605.04711).

Weights, 2 bits, for each layer (Eq. 3–6)::

    Δ = 0.7 · mean|w|
    t = +1 where w > Δ, −1 where w < −Δ, else 0
    w_q = α t,   α = mean of |w| over |w| > Δ

α is the least-squares scale of t. The gradient goes straight through: ∂w_q/∂w = 1.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from qbench.functional import filter_dims, straight_through
from qbench.method import Field, Layer, Method, PerChannel, PerTensor, Recipe, ScopeOption, Ternary


class TWN(Method):
    """Ternary weights, α·{−1, 0, 1}.

    Options:
        threshold: Δ / mean|w|.
        scope: one Δ and α for the layer (the paper), or for each filter.
    """

    title = "TWN"
    paper = "Li et al., 2016, arXiv:1605.04711"
    weights = Ternary(required=True)
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        schedule="step",
        milestones=(30, 40, 50),
        gamma=0.1,
        epochs=60,
        batch_size=64,
        weight_decay=1e-4,
        initialization="scratch",
    )
    threshold: Annotated[float, Field(ge=0)] = 0.7
    granularity: ScopeOption = PerTensor()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> TernaryWeight:
        """α t."""
        return TernaryWeight(self.threshold, per_filter=self.granularity == PerChannel())


class TernaryWeight(nn.Module):
    """w_q = α t with t ∈ {−1, 0, 1}.

    Args:
        threshold: Δ / mean|w|.
        per_filter: Δ and α for each output channel.
    """

    def __init__(self, threshold: float, per_filter: bool) -> None:
        super().__init__()
        self.threshold, self.per_filter = threshold, per_filter

    def forward(self, w: Tensor) -> Tensor:
        """Ternarise ``w``, (out, in, …)."""
        dims = filter_dims(w) if self.per_filter else tuple(range(w.dim()))
        size = w.detach().abs()
        kept = (size > self.threshold * size.mean(dims, keepdim=True)).to(w.dtype)
        alpha = (size * kept).sum(dims, keepdim=True) / kept.sum(dims, keepdim=True).clamp(min=1)
        return straight_through(w, alpha * w.sign() * kept)
