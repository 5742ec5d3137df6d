"""Oscillation freezing and dampening (Nagel et al., ICML 2022, arXiv:2203.11086).

LSQ quantizes weights and activations. With its straight-through gradient, a weight near a threshold
oscillates between two codes. Two remedies, one each of ``remedy``.

Iterative freezing. After each forward pass of training, with c the codes of the weights and m the
``momentum``::

    o = 1 where c changed in the direction opposite to its last change,   else 0
    f ← m o + (1 − m) f                           the frequency of oscillations
    freeze at [c̄] where f > f_th,   else   c̄ ← m c + (1 − m) c̄

A frozen weight keeps its code and gets no gradient. The step of its layer is still learned.

Dampening adds to the loss, for each layer, with ŵ the quantized weight, which gets no gradient::

    λ · Σ_o mean (ŵ_o − clip(w_o, −Q_N s, Q_P s))²

a sum over output channels o, and over the other dimensions a mean.

f_th and λ follow a cosine from ``threshold_start`` to ``threshold``, and from 0 to ``dampening``.
It begins after a quarter of training. Until then no weight is frozen, and λ is 0. Layers of more
than 4 bits are not frozen. All of this is the authors' released code.

Departures. The authors train steps with an Adam of their own at a rate of 1e-5, start them by least
squared error, do not scale their gradient, and pass the gradient half a step beyond the outermost
levels. Here LSQ is that of ``lsq``. They fold batch normalization into weights, and re-estimate its
statistics before each evaluation. ``momentum`` is 0.01, as in their tracker and in OFQ's; the
command-line option of their code has 0.001 where the published commands do not set it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from qbench.functional import clip
from qbench.method import BitWidths, Field, Layer, Quantizer, Recipe

from .lsq import LSQ, LearnedStep

WARM_UP = 0.25
"""Share of training before anything is frozen or dampened."""

Share = Annotated[float, Field(ge=0, le=1)]


class Oscillation(LSQ):
    """LSQ whose oscillating weights are frozen or dampened.

    Attributes:
        remedy: Whether weights are frozen or dampened.
        momentum: m, the weight of a step in the moving averages.
        threshold_start: f_th when freezing begins.
        threshold: f_th at the end. The authors' is 0.011 at 3 bits.
        dampening: λ at the end.
        max_bits: Largest bit-width at which weights are frozen.
    """

    title = "LSQ without oscillations"
    paper = "Nagel et al., ICML 2022, arXiv:2203.11086"
    revision = 1
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.0033, epochs=90, batch_size=128, weight_decay=5e-5,
        initialization="pretrained", reestimate_batches=50,
    )  # fmt: skip
    remedy: Literal["freezing", "dampening"] = "freezing"
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.01
    threshold_start: Share = 0.1
    threshold: Share = 0.01
    dampening: Annotated[float, Field(ge=0)] = 0.1
    max_bits: Annotated[int, Field(ge=2)] = 4

    def paper_recipe_for(self, bits: BitWidths) -> Recipe:
        """Return the recipe at 4 bits, or that at 3 bits where a width is smaller."""
        low = min(bits.weights.bits, bits.activations.bits) < 4
        decay = 2.5e-5 if low or self.remedy == "dampening" else 5e-5
        changes = {"lr": 0.01 if low else 0.0033, "weight_decay": decay}
        return self.paper_recipe.model_copy(update=changes)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedStep:
        """Build LSQ's quantizer with one of the remedies."""
        lsq = super().weight_quantizer(layer, weight)
        if self.remedy == "dampening":
            return DampenedStep(lsq, self.dampening)
        if layer.weight_bits.bits > self.max_bits:
            return lsq
        return FrozenStep(lsq, weight, self)


def annealed(start: float, end: float, progress: float) -> float:
    """Return what a cosine from ``start`` to ``end`` has reached.

    Args:
        start: Value at the end of the warm-up.
        end: Value at the end of training.
        progress: Share of training, warm-up included.
    """
    share = max(progress - WARM_UP, 0) / (1 - WARM_UP)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class _TimedStep(LearnedStep, Quantizer):
    """LSQ's quantizer, and the share of training that has passed.

    Args:
        lsq: The quantizer to take the codes, the step and N of.
    """

    progress: Tensor

    def __init__(self, lsq: LearnedStep) -> None:
        super().__init__((lsq.quant_min, lsq.quant_max), float(lsq.step.detach()), lsq.count)
        self.register_buffer("epoch", torch.zeros(2))
        self.register_buffer("progress", torch.zeros(()))

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Note the epoch."""
        self.get_buffer("epoch").copy_(torch.tensor([epoch - 1.0, epochs]))

    def on_step_start(self, layer: Layer, step: int, steps: int) -> None:
        """Note the share of training that has passed."""
        passed, epochs = self.get_buffer("epoch")
        self.progress.copy_((passed + step / steps) / epochs)


class DampenedStep(_TimedStep):
    """LSQ's quantizer with a loss that draws weights to their levels.

    Args:
        lsq: The quantizer to take the codes, the step and N of.
        strength: λ at the end of training.
    """

    def __init__(self, lsq: LearnedStep, strength: float) -> None:
        super().__init__(lsq)
        self.strength = strength

    def regularization_loss(self, layer: Layer) -> Tensor | None:
        """Return λ · Σ_o mean (ŵ_o − clip(w_o, −Q_N s, Q_P s))²."""
        strength = annealed(0, self.strength, float(self.progress))
        if strength == 0:
            return None
        w, s = layer.latent_weight, self.step.detach().to(layer.latent_weight.dtype)
        ends = sorted((float(self.quant_min * s), float(self.quant_max * s)))
        distance = self(w).detach() - clip(w, *ends)
        return strength * distance.square().sum(0).mean()


class FrozenStep(_TimedStep):
    """LSQ's quantizer with weights that are frozen once they oscillate too often.

    Args:
        lsq: The quantizer to take the codes, the step and N of.
        weight: The weight.
        method: The method, for its options.
    """

    code: Tensor
    direction: Tensor
    frequency: Tensor
    mean: Tensor
    frozen: Tensor

    def __init__(self, lsq: LearnedStep, weight: Tensor, method: Oscillation) -> None:
        super().__init__(lsq)
        self.momentum = method.momentum
        self.thresholds = method.threshold_start, method.threshold
        codes = self.codes_of(weight)
        self.register_buffer("code", codes.to(torch.int8))  # c
        self.register_buffer("direction", torch.zeros_like(weight, dtype=torch.int8))
        self.register_buffer("frequency", torch.zeros_like(weight))  # f
        self.register_buffer("mean", codes)  # c̄
        self.register_buffer("frozen", torch.zeros_like(weight, dtype=torch.bool))

    def codes_of(self, w: Tensor) -> Tensor:
        """Return the codes of ``w`` if none were frozen."""
        v = w.detach() / self.step.detach().to(w.dtype)
        return v.round_().clamp_(self.quant_min, self.quant_max)

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``; frozen weights have their codes."""
        s = self.with_scaled_gradient(self.step, w)
        return _Hold.apply(super().forward(w), s, self.code, self.frozen)

    def observe(self, x: Tensor) -> None:
        """Count the oscillations, and freeze what oscillates too often."""
        # Whole numbers of 8 bits: masks, and comparisons with numbers, are slow in torch.
        frozen = self.frozen.to(torch.int8)
        code = self.codes_of(x).to(torch.int8) * (1 - frozen) + self.code * frozen
        direction = (self.code - code).sign()
        oscillated = -(self.direction * direction).clamp(max=0)
        self.frequency.lerp_(oscillated.to(self.frequency.dtype), self.momentum)
        self.direction.mul_(1 - direction.abs()).add_(direction)
        self.code = code  # not in place: the backward pass needs what the forward pass read
        codes = code.to(self.mean.dtype)
        if float(self.progress) < WARM_UP:
            self.mean.copy_(codes)
            return
        threshold = annealed(*self.thresholds, float(self.progress))
        if float(self.frequency.amax()) > threshold:
            often = self.frequency > threshold
            held = self.mean.round().to(torch.int8)
            self.code = torch.where(often & ~self.frozen, held, code)
            self.frozen = self.frozen | often
        self.mean.lerp_(codes, self.momentum)


class _Hold(torch.autograd.Function):
    """The quantized weights, with s times their codes where they are frozen."""

    @staticmethod
    def forward(ctx: Any, quantized: Tensor, s: Tensor, code: Tensor, frozen: Tensor) -> Tensor:
        ctx.save_for_backward(code, frozen)
        ctx.mark_dirty(quantized)
        free, held = _parts(quantized, code, frozen)
        return quantized.mul_(free).add_(held.mul_(s))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        free, held = _parts(g, *ctx.saved_tensors)
        return g * free, (g * held).sum(), None, None


def _parts(like: Tensor, code: Tensor, frozen: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 where weights are not frozen, otherwise 0, and the codes of those that are."""
    return (~frozen).to(torch.int8).to(like.dtype), (code * frozen).to(like.dtype)
