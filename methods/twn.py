"""Ternary Weight Networks (Li, Zhang, Liu, 2016, arXiv:1605.04711).

Weights, 2 bits, for each layer (Eq. 3–6), or for each group of the option ``granularity``::

    Δ = 0.7 · mean|w|
    t = +1 where w > Δ, −1 where w < −Δ, else 0
    w_q = α t,   α = mean of |w| over |w| > Δ

α is the least-squares scale of t. The gradient goes straight through: ∂w_q/∂w = 1.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import ternarize
from qbench.method import Field, Granularity, Layer, Method, PerTensor, Recipe, ScopeOption, Ternary


class TWN(Method):
    """Ternary weights, α·{−1, 0, 1}.

    Attributes:
        threshold: Ratio Δ / mean|w|.
        granularity: Weights that share Δ and α. Default: those of a layer, as in the paper.
    """

    paper = "Li et al., 2016, arXiv:1605.04711"
    weights = Ternary(required=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, schedule="step", milestones=(30, 40, 50), epochs=60, batch_size=64,
        weight_decay=1e-4,
    )  # fmt: skip
    threshold: Annotated[float, Field(ge=0)] = 0.7
    granularity: ScopeOption = PerTensor()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> TernaryWeight:
        """Build α t."""
        return TernaryWeight(self.threshold, self.granularity)


class TernaryWeight(nn.Module):
    """w_q = α t with t ∈ {−1, 0, 1}.

    Args:
        threshold: Ratio Δ / mean|w|.
        granularity: Weights that share Δ and α.
    """

    def __init__(self, threshold: float, granularity: Granularity) -> None:
        super().__init__()
        self.threshold, self.granularity = threshold, granularity

    def forward(self, w: Tensor) -> Tensor:
        """Ternarise ``w``, (out, in, …)."""
        size, reduce = w.detach().abs(), self.granularity.reduce
        delta = self.threshold * reduce(size, torch.mean)
        kept = ternarize(size, delta)
        alpha = reduce(size * kept, torch.sum) / reduce(kept, torch.sum).clamp(min=1)
        return ternarize(w, delta, alpha)
