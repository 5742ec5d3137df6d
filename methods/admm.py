"""Extremely low bit networks with ADMM (Leng et al., AAAI 2018, arXiv:1707.09870).

Weights are quantized to α · {−1, 1}, α · {−1, 0, 1}, α · {0, ±1, ±2} or α · {0, ±1, ±2, ±4}, with
one α for each layer. The problem min f(W) subject to W = G and G in that set C is split (scaled
dual variable λ, Eq. 5)::

    L(W, G, λ) = f(W) + ρ/2 ‖W − G + λ‖² − ρ/2 ‖λ‖²

and each part is solved in turn::

    W:  gradient steps on f(W) + ρ/2 ‖W − G + λ‖²
    G:  projection of V = W + λ on C, alternating α = ⟨V, Q⟩/⟨Q, Q⟩ and Q = nearest code of V/α
        (from several starts, of which the best result is kept)
    λ:  λ ← λ + W − G

The network is trained with the float W. The final weight is the projection of W + λ. The gradient
steps are extragradient steps (Eq. 10–11)::

    prediction:  W_p = W − η ∂L(W)
    correction:  W ← W − η ∂L(W_p)

each with a mini-batch of its own, so that a pair is two steps of the optimizer. W stands for all
parameters of the network, those that are not quantized too. G and λ are updated between pairs: a
step that is left over before an update, or at the end of an epoch, is a plain gradient step.

The paper gives neither ρ nor how often G and λ are updated; here it is once an epoch. With a large
ρ, W reaches C soon; with a small one, it follows f. The best value depends on the learning rate and
on the number of updates. With the default, W reaches C within the fifteen to twenty epochs of a
small dataset, where a tenth of it does not suffice; long trainings need less.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.functional import nearest_level
from qbench.method import (
    Binary,
    BitWidths,
    Field,
    Layer,
    Method,
    Named,
    Quantizer,
    Recipe,
    Ternary,
    Tunable,
)


class ADMM(Method):
    """Float weights that a penalty draws to their projection.

    Attributes:
        rho: Factor ρ of the penalty.
        updates: Number of updates of G and λ per epoch.
        extragradient: Whether steps are predictions and corrections, or plain gradient steps.
    """

    paper = "Leng et al., AAAI 2018, arXiv:1707.09870"
    weights = Binary() | Ternary() | Named()
    soft = True
    elementwise = False
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.01, schedule="step", milestones=(20, 30), epochs=40, batch_size=256,
        weight_decay=1e-4, initialization="pretrained",
    )  # fmt: skip
    keeps_weights = True
    revision = 2
    rho: Annotated[float, Field(gt=0), Tunable(0.01, 100, log=True)] = 1.0
    updates: Annotated[int, Field(ge=1)] = 1
    extragradient: bool = True

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Keep the network as it is, and its parameters in mind for extragradient steps."""
        self.network, self.left_over = model, False
        self.starts: list[Tensor] = []  # W at the last prediction, until it is corrected
        return model

    def on_step_start(self, step: int, steps: int) -> None:
        """Find out whether a pair that starts with the step would not end before an update."""
        self.left_over = step % -(-steps // self.updates) == 0 or step == steps

    def before_optimizer_step(self) -> None:
        """Start a prediction from W, and a correction from where its prediction started."""
        if not self.extragradient:
            return
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        if self.starts:
            for parameter, start in zip(parameters, self.starts, strict=True):
                parameter.copy_(start)
            self.starts = []
        elif not self.left_over:
            self.starts = [p.clone() for p in parameters]

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SplitWeight:
        """Split the weight into W, G and λ."""
        width = layer.weight_bits
        codes = (Binary() if width.bits == 1 else Named()).codes(width)
        return SplitWeight(weight, torch.tensor(codes).to(weight), self)


class SplitWeight(Quantizer):
    """W in training, the projection of W + λ on C in evaluation.

    Args:
        weight: W at the start.
        codes: Codes of C, ascending.
        method: The method, for its options.
    """

    codes: Tensor
    projected: Tensor
    dual: Tensor

    def __init__(self, weight: Tensor, codes: Tensor, method: ADMM) -> None:
        super().__init__()
        self.rho, self.updates = method.rho, method.updates
        self.register_buffer("codes", codes)
        self.register_buffer("dual", torch.zeros_like(weight))  # λ
        self.register_buffer("projected", project(weight, codes))  # G

    def forward(self, w: Tensor) -> Tensor:
        """Return ``w``, shape of the layer's weight, or the projection of ``w`` + λ."""
        return w.clone() if self.training else project(w + self.dual, self.codes)

    def regularization_loss(self, layer: Layer) -> Tensor:
        """Return ρ/2 ‖W − G + λ‖²."""
        return self.rho / 2 * (layer.latent_weight - self.projected + self.dual).square().sum()

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Update G and λ after every epoch."""
        if epoch > 1:
            self.update(layer.latent_weight)

    def on_step_start(self, layer: Layer, step: int, steps: int) -> None:
        """Update G and λ within an epoch, if there are several updates."""
        if step > 1 and (step - 1) % -(-steps // self.updates) == 0:
            self.update(layer.latent_weight)

    def update(self, w: Tensor) -> None:
        """Solve for G and update λ."""
        self.projected.copy_(project(w + self.dual, self.codes))
        self.dual += w - self.projected


def project(v: Tensor, codes: Tensor, iterations: int = 50) -> Tensor:
    """Return the point of α · codesⁿ nearest to v, by alternation from several starts.

    Alternation ends in a local minimum. There is one start for each code that the largest value may
    have, so that a point of the set is its own projection. In sorted v the values of a code are
    consecutive, and their sum is a difference of two cumulative sums: an iteration takes no longer
    for a large layer than for a small one.

    Args:
        v: Tensor of any shape.
        codes: Codes in ascending order, (c,).
        iterations: Largest number of alternations from each start; fewer if codes repeat.

    Returns:
        α Q, shape and dtype of ``v``.
    """
    ordered = v.detach().flatten().sort().values.double()
    sums = F.pad(ordered.cumsum(0), (1, 0))
    values, tiny = codes.double(), torch.finfo(v.dtype).tiny
    midpoints = (values[1:] + values[:-1]) / 2
    square_of_v = least = ordered.square().sum()
    best = (torch.zeros_like(least), torch.zeros_like(least))
    for largest in values[values > 0]:
        alpha = start = ordered.abs().max() / largest
        ends = None
        for _ in range(iterations):
            # Where each code ends in sorted v: the number of its values and their sum follow.
            found = F.pad(torch.searchsorted(ordered, alpha * midpoints), (1, 0))
            found = F.pad(found, (0, 1), value=len(ordered))
            if ends is not None and torch.equal(found, ends):
                break
            ends, start = found, alpha
            product = (values * sums[ends].diff()).sum()  # ⟨V, Q⟩
            square = (values.square() * ends.diff()).sum()  # ⟨Q, Q⟩
            alpha = product / square.clamp(min=tiny)
        error = square_of_v - 2 * alpha * product + alpha.square() * square  # ‖V − αQ‖²
        if error < least:
            best, least = (start, alpha), error
    start, alpha = (each.to(v.dtype) for each in best)
    return alpha * nearest_level(v / start.clamp(min=tiny), codes.to(v.dtype))
