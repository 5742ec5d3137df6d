"""Extremely low bit networks with ADMM (Leng et al., AAAI 2018, arXiv:1707.09870).

Weights at α · {−1, 1}, α · {−1, 0, 1}, α · {0, ±1, ±2} or α · {0, ±1, ±2, ±4}, α each layer's own.
The problem min f(W) with W = G and G in that set C is split (scaled dual variable λ, Eq. 5)::

    L(W, G, λ) = f(W) + ρ/2 ‖W − G + λ‖² − ρ/2 ‖λ‖²

and each part is solved in turn::

    W:  gradient steps on f(W) + ρ/2 ‖W − G + λ‖²
    G:  projection of V = W + λ on C, alternating α = ⟨V, Q⟩/⟨Q, Q⟩ and Q = nearest code of V/α
        (from several starts, of which the best end is kept)
    λ:  λ ← λ + W − G

The network is trained with the float W; G is what it has in the end. Gradient steps are
extragradient ones (Eq. 10–11): a prediction and a correction from where it started::

    W_p = W − η ∂L(W),   W ← W − η ∂L(W_p)

each with a mini-batch of its own, so that a pair is two steps of the optimiser.

The paper gives neither ρ nor how often G and λ move; here once an epoch. A large ρ reaches C soon
and a small one follows f; what suits depends on the learning rate and on how many updates there
are. The default reaches C within the fifteen to twenty epochs of a small dataset, where a tenth of
it does not; long trainings want less.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import nearest_level
from qbench.method import Binary, BitWidth, Field, Layer, Method, Named, Recipe, Ternary

BASES = {"1": (-1, 1), "2": (-1, 0, 1), "2(±1)": (-1, 0, 1)}


class ADMM(Method):
    """Float weights pulled toward their quantized copies.

    Options:
        rho: ρ, how hard they are pulled.
        updates: how often in an epoch G and λ are updated.
        extragradient: predict and correct; without, plain gradient steps.
    """

    name = "admm"
    title = "ADMM"
    paper = "Leng et al., AAAI 2018, arXiv:1707.09870"
    weights = Binary() | Ternary() | Named()
    soft = True
    elementwise = False
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        schedule="step",
        milestones=(20, 30),
        gamma=0.1,
        epochs=40,
        batch_size=256,
        weight_decay=1e-4,
        initialization="pretrained",
    )
    rho: Annotated[float, Field(gt=0)] = 1.0
    updates: Annotated[int, Field(ge=1)] = 1
    extragradient: bool = True

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SplitWeight:
        """W in training, the projection of W + λ in evaluation."""
        return SplitWeight(layer.weight_bits, weight)

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Update G and λ after every epoch."""
        if epoch > 1:
            self._update()

    def on_step_start(self, step: int, steps: int) -> None:
        """Update them between steps too, where asked to."""
        if step > 1 and (step - 1) % -(-steps // self.updates) == 0:
            self._update()

    def before_optimizer_step(self) -> None:
        """Remember where a prediction starts; start the correction from there."""
        if self.extragradient:
            for layer in self.layers:
                self._split(layer).before_optimizer_step(layer.latent_weight)

    def regularization_loss(self) -> Tensor:
        """ρ/2 Σ ‖W − G + λ‖²."""
        distances = [
            (layer.latent_weight - split.projected + split.dual).square().sum()
            for layer in self.layers
            for split in (self._split(layer),)
        ]
        return self.rho / 2 * torch.stack(distances).sum()

    def _update(self) -> None:
        with torch.no_grad():
            for layer in self.layers:
                self._split(layer).update_dual(layer.latent_weight)

    def _split(self, layer: Layer) -> SplitWeight:
        quantizer = layer.weight_quantizer
        assert isinstance(quantizer, SplitWeight)  # noqa: S101
        return quantizer


class SplitWeight(nn.Module):
    """W in training; in evaluation the projection of W + λ on C.

    Args:
        width: which C.
        weight: W at the start.
    """

    codes: Tensor
    projected: Tensor
    dual: Tensor
    start: Tensor
    predicted: Tensor

    def __init__(self, width: BitWidth, weight: Tensor) -> None:
        super().__init__()
        codes = BASES.get(str(width)) or width.levels or ()
        self.register_buffer("codes", torch.tensor(codes).to(weight))
        self.register_buffer("dual", torch.zeros_like(weight))  # λ
        self.register_buffer("projected", project(weight, self.codes))  # G
        self.register_buffer("start", weight.clone())
        self.register_buffer("predicted", torch.tensor(False))

    def forward(self, w: Tensor) -> Tensor:
        """Return ``w``, shape of the layer's weight, as it is or projected."""
        return w.clone() if self.training else project(w + self.dual, self.codes)

    def update_dual(self, w: Tensor) -> None:
        """Take the G and λ steps."""
        self.projected.copy_(project(w + self.dual, self.codes))
        self.dual += w - self.projected

    def before_optimizer_step(self, w: Tensor) -> None:
        """Prediction and correction in turn: W ← where the prediction started."""
        w.copy_(torch.where(self.predicted, self.start, w))
        self.start.copy_(w)
        self.predicted.logical_not_()


def project(v: Tensor, codes: Tensor, iterations: int = 20) -> Tensor:
    """Return the point of α · codesⁿ nearest to v, by alternation from several starts.

    Alternation ends in a local minimum; with one start for each code that the largest value may
    have, a point that is in the set already stays where it is. With v sorted, the values that get a
    code are neighbours, and their sum is a difference of two of v's cumulative sums: an iteration
    takes no longer for a large layer than for a small one.

    Args:
        v: any shape.
        codes: (c,), ascending.
        iterations: at most so many alternations from each start; fewer where codes repeat.

    Returns:
        α Q, shape and dtype of ``v``.
    """
    ordered = v.detach().flatten().sort().values.double()
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    values = codes.double()
    between = (values[1:] + values[:-1]) / 2
    ends = torch.tensor([0, len(ordered)], device=v.device)
    tiny = torch.finfo(v.dtype).tiny
    whole = least = ordered.square().sum()
    best = (torch.zeros_like(whole), torch.zeros_like(whole))
    for largest in values[values > 0]:
        alpha = start = ordered.abs().max() / largest
        given = None
        for _ in range(iterations):
            # Where in order the code changes, and so how many values have each, and their sum.
            changes = torch.searchsorted(ordered, alpha * between)
            changes = torch.cat([ends[:1], changes, ends[1:]])
            if given is not None and torch.equal(changes, given):
                break
            given, start = changes, alpha
            product = (values * sums[changes].diff()).sum()
            square = (values.square() * changes.diff()).sum()
            alpha = product / square.clamp(min=tiny)
        error = whole - 2 * alpha * product + alpha.square() * square  # ‖v − αQ‖²
        if error < least:
            best, least = (start, alpha), error
    start, alpha = (each.to(v.dtype) for each in best)
    return alpha * nearest_level(v / start.clamp(min=tiny), codes.to(v.dtype))
