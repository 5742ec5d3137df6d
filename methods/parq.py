"""PARQ: piecewise-affine regularized quantization (Jin et al., ICML 2025, arXiv:2503.15748).

A wrapper around the authors' code in torchao: its quantizers choose the levels Q, and its proximal
maps move weights toward them (``torchao.prototype.parq``). It needs torchao installed
(``pip install 'qbench-quant[libraries]'``). Written against torchao 0.18.

Levels, k bits, where b = 0 is ternary. They are chosen from the latent weights u of each group of
the option ``granularity``, every ``period`` steps::

    lsb          {±v₁ ± … ± v_k},  v_i = mean|r_i|, r_1 = u, r_(i+1) = r_i − v_i sign(r_i)
                 k(±1): {−v, 0, v}, v = 1.1 mean|u|
    uniform      m/(2^(k−1) − ½) · {±½, ±3/2, …},      m = min(k mean|u|, max|u|)
    max_uniform  max|u|/(2^(k−1) − 1) · {0, ±1, …}
    ternary      ⅔ max|u| · {−1, 0, 1}

Training (Algorithm 1, AProx): after each optimizer step on u, the next weights of the network are
p = prox(u), and their gradient goes to u unchanged. At step t of an annealing from t₁ to t₂,
f = (t − t₁)/(t₂ − t₁). Between neighbouring levels a and b::

    parq          p = clip( c + (u − c)/ρ, a, b ),  c = (a + b)/2, beyond the ends the last level
                  ρ from 1 to 0: (σ(s(½ − f)) − σ(−s/2)) / (σ(s/2) − σ(−s/2)), s the steepness
    binary_relax  p = (1 − f) u + f Q(u)
    hard          p = Q(u), the straight-through estimator

Q(u) is the nearest level. Before t₁, parq and binary_relax have p = u, as all have before the first
step. From t₂ on p = Q(u), as in evaluation. Only the weights are learned.

torchao's optimizer wrapper computes the same, but stores u beside p, where here p is computed from
u. Its defaults are those of the options, except that it has none for the annealing; in the authors'
scripts the annealing lasts all of training. Differences: in the steps that choose levels, torchao's
hard and binary_relax use the rounding of the quantizer, and in all others the nearest level, which
is always used here. Its shrinkage and annealed weight decay, which are off by default, are left
out, and so are its quantizers that only export tensors. In its warm-up of ``warmup_steps``, p = u.

The recipe is that of the authors' script for ImageNet, which quantizes all layers, and chooses
``lsb`` levels for each filter every 50 steps after 2,500 of warm-up, with a steepness of 75. With
levels for each filter or group, torchao compares every weight of a layer with every level, which
takes 2^k bytes a weight for a moment.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from qbench.functional import straight_through
from qbench.method import (
    Field,
    Integers,
    Layer,
    Learned,
    Levels,
    Library,
    Method,
    PerTensor,
    Quantizer,
    Recipe,
    ScopeOption,
    Ternary,
    Uniform,
)  # fmt: skip

QUANTIZERS: dict[str, tuple[str, Levels]] = {  # torchao's classes, and their levels
    "lsb": ("LSBQuantizer", Learned(basis=True) | Ternary()),
    "uniform": ("UnifQuantizer", Uniform(scales=1)),
    "max_uniform": ("MaxUnifQuantizer", Integers(symmetric=True, named=True)),
    "ternary": ("TernaryUnifQuantizer", Ternary()),
}


class PARQ(Method):
    """Weights that a proximal map draws to levels.

    Attributes:
        quantizer: How levels are chosen: `LSBQuantizer`, `UnifQuantizer`, `MaxUnifQuantizer` or
            `TernaryUnifQuantizer`.
        prox: Proximal map: `ProxPARQ`, `ProxBinaryRelax` or `ProxHardQuant`.
        granularity: Weights that share levels. Default: those of a layer.
        period: Number of steps after which levels are chosen again.
        anneal_start: Share of training after which annealing starts.
        anneal_end: Share of training after which weights are fully quantized.
        steepness: Steepness of the decrease of ρ, for ``parq``.
        warmup_steps: Number of steps at the start in which weights stay at full precision.
    """

    paper = "Jin et al., ICML 2025, arXiv:2503.15748"
    library = Library("torchao", "0.18", "torchao.prototype.parq")
    soft = True
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, schedule="step", milestones=(30, 60), epochs=90, batch_size=256,
        weight_decay=1e-4,
    )  # fmt: skip
    paper_layers = "all"
    paper_options = {
        "granularity": "per_channel", "period": 50, "steepness": 75.0, "warmup_steps": 2500,
    }  # fmt: skip
    later_options = frozenset({"warmup_steps"})
    quantizer: Literal["lsb", "uniform", "max_uniform", "ternary"] = "lsb"
    prox: Literal["parq", "binary_relax", "hard"] = "parq"
    granularity: ScopeOption = PerTensor()
    period: Annotated[int, Field(ge=1)] = 10
    anneal_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    anneal_end: Annotated[float, Field(ge=0, le=1)] = 1.0
    steepness: Annotated[float, Field(gt=0)] = 10.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        """Check the schedule."""
        if self.anneal_start >= self.anneal_end:
            raise ValueError(
                f"anneal_start: {self.anneal_start} is not less than anneal_end: {self.anneal_end}"
            )

    @property
    def weights(self) -> Levels:
        """The levels of the option ``quantizer``."""
        return QUANTIZERS[self.quantizer][1]

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> ProximalWeight:
        """Build prox(u) with levels from the weight."""
        ternary = isinstance(self.weights.family_of(layer.weight_bits), Ternary)
        return ProximalWeight(weight, 0 if ternary else layer.weight_bits.bits, self)


class ProximalWeight(Quantizer):
    """prox(u) in training, the nearest level in evaluation.

    Args:
        weight: Latent weight u, from which the first levels are chosen.
        bits: Bit-width k as torchao has it, 0 if levels are ternary.
        method: The method, for its options.
    """

    levels: Tensor

    def __init__(self, weight: Tensor, bits: int, method: PARQ) -> None:
        super().__init__()
        from torchao.prototype import parq

        self.quantizer, self.bits = getattr(parq, QUANTIZERS[method.quantizer][0])(), bits
        self.prox, self.steepness, self.period = method.prox, method.steepness, method.period
        self.annealing = method.anneal_start, method.anneal_end
        self.warmup_steps = method.warmup_steps
        self.granularity = method.granularity
        self.dim = None if self.granularity == PerTensor() else -1  # of the weights of a group
        self.epoch = self.epochs = 1
        self.now = (0, 0, 1)  # the present step; start and end of the annealing
        self.progress = (-1, 0, 1)  # the same for the last step, -1 before the first
        self.register_buffer("levels", self._choose_levels(weight))

    def forward(self, u: Tensor) -> Tensor:
        """Return the weight that the network uses, shape of ``u``."""
        return straight_through(u, self._compute(u.detach()))

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Count epochs."""
        self.epoch, self.epochs = epoch, epochs

    def on_step_start(self, layer: Layer, step: int, steps: int) -> None:
        """Count steps."""
        start, end = (round(share * self.epochs * steps) for share in self.annealing)
        self.now = (self.epoch - 1) * steps + step - 1, start, max(start + 1, end)

    def after_optimizer_step(self, layer: Layer) -> None:
        """Choose levels if a period has ended, and continue the annealing."""
        quantized = self.now[0] - self.warmup_steps
        if quantized >= 0 and quantized % self.period == 0:
            self.levels.copy_(self._choose_levels(layer.latent_weight))
        self.progress = self.now

    def get_extra_state(self) -> Tensor:
        """Return the progress of the annealing, for a checkpoint."""
        return torch.tensor(self.progress)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        now, start, end = map(int, state)
        self.progress = now, start, end

    def _groups(self, u: Tensor) -> list[Tensor]:
        return [u] if self.dim is None else self.granularity.split(u)

    def _choose_levels(self, u: Tensor) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):  # the library multiplies matrices
            found = [self.quantizer.quantize(x, self.bits, self.dim)[1] for x in self._groups(u)]
        return torch.cat(found).to(u.dtype)

    def _map(self, u: Tensor) -> Tensor:
        if self.training and self.progress[0] < self.warmup_steps:
            return u
        if self.dim is None:
            return self._prox(u, self.levels)
        levels = iter(self.levels.split([len(rows) for rows in self._groups(u)]))
        return self.granularity.apply(u, lambda rows: self._prox(rows, next(levels)))

    # The step is a plain number, as the library wants it: torch.compile would compile for each.
    _compute = torch.compiler.disable(_map)

    def _prox(self, u: Tensor, levels: Tensor) -> Tensor:
        from torchao.prototype import parq

        (now, start, end), p = self.progress, u.clone()
        if self.prox == "hard" or not self.training:
            prox = parq.ProxHardQuant()
        elif self.prox == "binary_relax":
            prox = parq.ProxBinaryRelax(start, end)
        else:
            prox = parq.ProxPARQ(start, end, steepness=self.steepness)
        prox.apply_(p, None, levels.to(p.dtype), now, dim=self.dim)
        return p
