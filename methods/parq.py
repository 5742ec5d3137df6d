"""PARQ: piecewise-affine regularized quantization (Jin et al., ICML 2025, arXiv:2503.15748).

A wrapper around the authors' code as it is in torchao: its quantizers choose the levels Q, its
proximal maps move weights toward them (``torchao.prototype.parq``), which needs torchao installed
(``pip install 'qbench-quant[libraries]'``). Written against torchao 0.18.

Levels, k bits, b = 0 being ternary, from the latent weights u of the layer or of each filter, anew
every ``period`` steps::

    lsb          {±v₁ ± … ± v_k},  v_i = mean|r_i|, r_1 = u, r_(i+1) = r_i − v_i sign(r_i)
                 k(±1): {−v, 0, v}, v = 1.1 mean|u|
    uniform      m/(2^(k−1) − ½) · {±½, ±3/2, …},      m = min(k mean|u|, max|u|)
    max_uniform  max|u|/(2^(k−1) − 1) · {0, ±1, …}
    ternary      ⅔ max|u| · {−1, 0, 1}

Training (Algorithm 1, AProx): after each step of the optimiser on u, the weights that the network
has next are p = prox(u), and its gradient goes to u unchanged. At step t of an annealing from t₁ to
t₂, f = (t − t₁)/(t₂ − t₁), between neighbouring levels a and b::

    parq          p = clip( c + (u − c)/ρ, a, b ),  c = (a + b)/2, beyond the ends the last level
                  ρ from 1 to 0: (σ(s(½ − f)) − σ(−s/2)) / (σ(s/2) − σ(−s/2)), s the steepness
    binary_relax  p = (1 − f) u + f Q(u)
    hard          p = Q(u), the straight-through estimator

Q(u) being the nearest level. Before t₁ the first two have p = u, as all have before the first step;
from t₂ on p = Q(u), as in evaluation. Nothing is learned but the weights.

torchao's optimiser wrapper does the same, keeping u beside p where here p is computed from u; its
defaults are the options' (it has none for the annealing; that of the authors' scripts lasts all of
training). What differs: in the steps that choose levels anew torchao's hard and binary_relax take
the quantizer's own rounding, in all others the nearest level, as is always done here. Its warm-up,
shrinkage and annealed weight decay, which are off by default, are left out, and its quantizers that
are only for exporting tensors.

The recipe is that of the authors' script for ImageNet, which chooses ``lsb`` levels for each filter
every 50 steps, with a steepness of 75 to 100. For ``scope: filter`` torchao compares every weight
of a layer with every level, which takes 2^k bytes a weight for a moment.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from qbench.functional import straight_through
from qbench.method import (
    BitWidth,
    Field,
    Integers,
    Layer,
    Learned,
    Levels,
    Library,
    Method,
    PerChannel,
    PerTensor,
    Recipe,
    ScopeOption,
    Ternary,
    Uniform,
)

LevelRule = Literal["lsb", "uniform", "max_uniform", "ternary"]
Prox = Literal["parq", "binary_relax", "hard"]


class PARQ(Method):
    """Weights drawn to levels by a proximal map.

    Options:
        quantizer: how levels are chosen: `LSBQuantizer`, `UnifQuantizer`, `MaxUnifQuantizer` or
            `TernaryUnifQuantizer`.
        prox: the proximal map: `ProxPARQ`, `ProxBinaryRelax` or `ProxHardQuant`.
        scope: levels of the layer, or of each filter.
        period: steps after which levels are chosen anew.
        anneal_start: the share of training after which annealing starts.
        anneal_end: the share of training after which weights are quantized fully.
        steepness: of ρ's descent, for ``parq``.
    """

    name = "parq"
    title = "PARQ"
    paper = "Jin et al., ICML 2025, arXiv:2503.15748"
    library = Library("torchao", "0.18", "torchao.prototype.parq")
    soft = True
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        schedule="step",
        milestones=(30, 60),
        gamma=0.1,
        epochs=90,
        batch_size=256,
        weight_decay=1e-4,
        initialization="scratch",
    )
    quantizer: LevelRule = "lsb"
    prox: Prox = "parq"
    granularity: ScopeOption = PerTensor()
    period: Annotated[int, Field(ge=1)] = 10
    anneal_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    anneal_end: Annotated[float, Field(ge=0, le=1)] = 1.0
    steepness: Annotated[float, Field(gt=0)] = 10.0

    def __post_init__(self) -> None:
        """Check the schedule."""
        if self.anneal_start >= self.anneal_end:
            raise ValueError(
                f"anneal_start: {self.anneal_start} is not less than anneal_end: {self.anneal_end}"
            )
        self._epoch, self._epochs, self._step, self._steps = 1, 1, 1, 1

    @property
    def weights(self) -> Levels:
        """The levels of the option ``quantizer``."""
        match self.quantizer:
            case "lsb":
                return Learned(basis=True) | Ternary()
            case "uniform":
                return Uniform(scales=1)
            case "max_uniform":
                return Integers(symmetric=True, named=True)
            case "ternary":
                return Ternary()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> ProximalWeight:
        """Levels from the weight, and no proximal map yet."""
        return ProximalWeight(self, layer.weight_bits, weight)

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Count."""
        self._epoch, self._epochs = epoch, epochs

    def on_step_start(self, step: int, steps: int) -> None:
        """Count."""
        self._step, self._steps = step, steps

    def after_optimizer_step(self) -> None:
        """Choose levels anew, where it is time, and go on with the annealing."""
        now = (self._epoch - 1) * self._steps + self._step - 1
        total = self._epochs * self._steps
        start = round(self.anneal_start * total)
        end = max(start + 1, round(self.anneal_end * total))
        for layer in self.layers:
            quantizer = layer.weight_quantizer
            assert isinstance(quantizer, ProximalWeight)  # noqa: S101
            if now % self.period == 0:
                quantizer.choose_levels(layer.latent_weight)
            quantizer.progress = (now, start, end)


class ProximalWeight(nn.Module):
    """prox(u) in training, the nearest level in evaluation.

    Args:
        method: the method, for its options.
        width: k.
        weight: u, to choose the first levels from.
    """

    levels: Tensor

    def __init__(self, method: PARQ, width: BitWidth, weight: Tensor) -> None:
        super().__init__()
        from torchao.prototype import parq

        kinds = {
            "lsb": parq.LSBQuantizer,
            "uniform": parq.UnifQuantizer,
            "max_uniform": parq.MaxUnifQuantizer,
            "ternary": parq.TernaryUnifQuantizer,
        }
        self.quantizer = kinds[method.quantizer]()
        ternary = method.quantizer == "ternary" or (method.quantizer == "lsb" and width.top == 1)
        self.bits = 0 if ternary else width.bits
        self.prox, self.steepness = method.prox, method.steepness
        self.per_filter = method.granularity == PerChannel()
        self.progress = (-1, 0, 1)  # the step, none yet; annealing's start and end
        self.register_buffer("levels", self._levels(weight))

    def forward(self, u: Tensor) -> Tensor:
        """Return the weight that the network uses, shape of ``u``."""
        return straight_through(u, self._compute(u))

    def choose_levels(self, u: Tensor) -> None:
        """Have torchao's quantizer choose the levels for ``u``."""
        self.levels.copy_(self._levels(u))

    def get_extra_state(self) -> Tensor:
        """Where the annealing is, for a checkpoint."""
        return torch.tensor(self.progress)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from where a checkpoint was."""
        now, start, end = (int(value) for value in state)
        self.progress = now, start, end

    def _levels(self, u: Tensor) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):  # the library multiplies matrices
            levels: Tensor = self.quantizer.quantize(self._rows(u), self.bits, dim=self._dim)[1]
        return levels.to(u.dtype)

    def _map(self, u: Tensor) -> Tensor:
        now, start, end = self.progress
        p = self._rows(u).clone()
        if now >= 0 or not self.training:
            kind: Prox = self.prox if self.training else "hard"
            prox = _prox_map(kind, start, end, self.steepness)
            prox.apply_(p, None, self.levels.to(p.dtype), now, dim=self._dim)
        return p.view(u.shape)

    # The step is a plain number, as the library wants it: torch.compile would compile for each.
    _compute = torch.compiler.disable(_map)

    def _rows(self, u: Tensor) -> Tensor:
        return u.detach().flatten(1) if self.per_filter else u.detach()

    @property
    def _dim(self) -> int | None:
        return -1 if self.per_filter else None


def _prox_map(kind: Prox, start: int, end: int, steepness: float) -> Any:
    from torchao.prototype.parq import ProxBinaryRelax, ProxHardQuant, ProxPARQ

    match kind:
        case "parq":
            return ProxPARQ(start, end, steepness=steepness)
        case "binary_relax":
            return ProxBinaryRelax(start, end)
        case "hard":
            return ProxHardQuant()
