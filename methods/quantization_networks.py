"""Quantization Networks (Yang et al., CVPR 2019, arXiv:1911.09464).

Quantization is a staircase of sigmoids onto numbers Y_1 < … < Y_{n+1}, for weights and activations
alike. With scales s_i = Y_{i+1} − Y_i and offset o = −Y_1 (½Σs_i for the paper's weights, which are
symmetric; 0 for activations, whose Y starts at 0)::

    training,   Eq. 7:  y = α ( Σ s_i σ(T(βx − b_i)) − o )
    evaluation, Eq. 5:  y = α ( Σ s_i A(βx − b_i) − o ),   A the unit step

α and β are learned with the network by the exact gradient of Eq. 7. The biases b are initialised
and stay. The temperature T = rate · epoch grows, so that the soft function approaches the hard one.

Initialisation (Section 4.1 and the released code)::

    β = 5p / 4q,  p = max|Y|,  q = max|x|;   α = 1/β
    b_i = midpoint of neighbouring centres of a k-means of βx into n + 1 clusters;
    the two biases around a zero level of weights are ∓0.05; a single one of weights is 0

Levels: weights of k bits are {−1, 1} (k = 1) or −(2^(k−1) − 1)…2^(k−1) − 1 (so 2 bits are ternary),
``3(±2)`` and ``3(±4)`` as written, or those of the option ``weight_levels``; activations of k bits
are 0…2^k − 1.

Where both are quantized there are three phases (Section 4.1): weights; activations, with α and β of
the weights fixed; both. The paper does not say how long each is: here each takes a third of the
epochs. An epoch counts for a quantizer's temperature once that quantizer is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from qbench.functional import hard_staircase, kmeans_1d, staircase, straight_through
from qbench.method import (
    Binary,
    BitWidth,
    BitWidths,
    Field,
    Integers,
    Layer,
    Levels,
    Method,
    Named,
    Recipe,
)

ZERO_BIAS = 0.05

Length = Annotated[float, Field(ge=0)]  # of a phase, relative to the others


@dataclass(frozen=True, kw_only=True)
class Given(Levels):
    """Levels that an option names, at every bit-width that can hold them.

    Attributes:
        values: The levels, ascending.
    """

    values: tuple[float, ...]

    @property
    def about(self) -> str:
        """What the levels are."""
        return f"{len(self.values)} given levels"

    def codes(self, width: BitWidth) -> tuple[float, ...]:
        """Return the levels."""
        return self.values


class QuantizationNetworks(Method):
    """A learned staircase of sigmoids that hardens as the temperature grows.

    Options:
        temperature_rate: T at the end of the first epoch, and by how much each next one adds.
        temperature_by: raise T with every epoch, or with every step so that it arrives there.
        phases: lengths of the three phases, in proportion; [0, 0, 1] trains all from the start.
        share: one quantization function for each layer, or one for all (Table 6).
        biases: k-means midpoints, or thresholds halfway between levels (Table 5).
        learn_biases: train the biases too.
        lr_factor: learning rate of α and β, as a factor of the network's.
        weight_levels: Y for weights, ascending, in place of those of the bit-width.
        compat: the paper's gradients, or those of the released code (`OfficialWeights`).
    """

    title = "Quantization Networks"
    paper = "Yang et al., CVPR 2019, arXiv:1911.09464"
    activations = Integers(bits=range(1, 9), signed=False)
    soft = True
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=1e-3,
        momentum=0.9,
        schedule="step",
        milestones=(30, 45),
        gamma=0.1,
        epochs=55,
        batch_size=256,
        weight_decay=1e-4,
        gradient_clip=5.0,
        initialization="pretrained",
    )
    temperature_rate: Annotated[float, Field(gt=0)] = 5.0
    temperature_by: Literal["epoch", "step"] = "epoch"
    phases: tuple[Length, Length, Annotated[float, Field(gt=0)]] = (1, 1, 1)
    share: Literal["layer", "network"] = "layer"
    biases: Literal["k_means", "uniform"] = "k_means"
    learn_biases: bool = False
    lr_factor: Annotated[float, Field(ge=0)] = 1.0
    weight_levels: tuple[float, ...] | None = None
    compat: Literal["paper", "official"] = "paper"

    def __post_init__(self) -> None:
        """Check what the options' types do not say."""
        levels = self.weight_levels
        if levels is not None and (len(levels) < 2 or sorted(set(levels)) != list(levels)):
            raise ValueError(f"weight_levels: two levels or more, ascending, not {list(levels)}")
        self._shared: dict[tuple[float, ...], tuple[SigmoidStaircase, list[Tensor]]] = {}

    @property
    def weights(self) -> Levels:
        """The levels of the bit-width, or those of the option."""
        if self.weight_levels is None:
            return Binary() | Named(default="symmetric")
        return Given(values=self.weight_levels)

    def supports(self, bits: BitWidths, task: str) -> str | None:
        """Any width, as long as ``weight_levels`` fit into it."""
        if self.weight_levels is None or bits.weights.is_float:
            return super().supports(bits, task)
        if bits.weights.top is not None:
            return "weight_levels takes the place of the levels that ± names; leave one out"
        if len(self.weight_levels) > bits.weights.count:
            return f"weight_levels are {len(self.weight_levels)}, too many for {bits.weights} bits"
        return super().supports(bits, task)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SigmoidStaircase:
        """Staircase onto levels around zero."""
        levels = self.weight_levels or levels_of(layer.weight_bits)
        return self._quantizer(
            OfficialWeights if self._official else SigmoidStaircase, levels, weight
        )

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> SigmoidStaircase:
        """Staircase from zero."""
        levels = range(2**layer.activation_bits.bits)
        return self._quantizer(
            OfficialInputs if self._official else SigmoidStaircase, levels, sample
        )

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Which of the phases it is, and T = rate · epoch."""
        weights, inputs = self._weight_quantizers(), self._input_quantizers()
        second, third = 0, 0  # the epochs before them
        if weights and inputs:
            total = sum(self.phases)
            second = math.floor(epochs * self.phases[0] / total + 1e-9)
            third = math.floor(epochs * (self.phases[0] + self.phases[1]) / total + 1e-9)
        fixed = second < epoch <= third
        trained = second if fixed else epoch if epoch <= second else epoch - (third - second)
        for quantizer in weights:
            quantizer.train_for(max(1, trained), self.temperature_rate, fixed)
        for quantizer in inputs:
            quantizer.train_for(max(0, epoch - second), self.temperature_rate)

    def on_step_start(self, step: int, steps: int) -> None:
        """T within an epoch, if it is raised by step."""
        if self.temperature_by == "step":
            for quantizer in self._weight_quantizers() + self._input_quantizers():
                quantizer.raise_temperature(self.temperature_rate, step / steps)

    def before_optimizer_step(self) -> None:
        """Apply the released code's chain rule to gradients that are already clipped."""
        for layer in self.layers:
            if isinstance(layer.weight_quantizer, OfficialWeights):
                layer.weight_quantizer.apply_chain_rule(layer.latent_weight)

    def parameter_groups(
        self, parameters: list[nn.Parameter], lr: float
    ) -> Iterable[dict[str, Any]]:
        """α and β: without weight decay, at a learning rate of their own."""
        return [{"params": parameters, "lr": lr * self.lr_factor, "weight_decay": 0.0}]

    @property
    def _official(self) -> bool:
        return self.compat == "official"

    def _weight_quantizers(self) -> list[SigmoidStaircase]:
        found = (layer.weight_quantizer for layer in self.layers)
        return list({id(q): q for q in found if isinstance(q, SigmoidStaircase)}.values())

    def _input_quantizers(self) -> list[SigmoidStaircase]:
        found = (layer.activation_quantizer for layer in self.layers)
        return list({id(q): q for q in found if isinstance(q, SigmoidStaircase)}.values())

    def _quantizer(
        self, kind: type[SigmoidStaircase], levels: Sequence[float], x: Tensor
    ) -> SigmoidStaircase:
        if self.share == "layer":
            quantizer = kind(levels, self)
            quantizer.initialise(x)
            return quantizer
        quantizer, samples = self._shared.setdefault(tuple(levels), (kind(levels, self), []))
        samples.append(_sample(x))
        quantizer.initialise(torch.cat(samples))  # from every layer so far
        return quantizer


class SigmoidStaircase(nn.Module):
    """The quantization function: Eq. 7 in training, Eq. 5 in evaluation.

    Args:
        levels: Y, ascending.
        options: the method, for its options.
    """

    scales: Tensor
    temperature: Tensor

    def __init__(self, levels: Sequence[float], options: QuantizationNetworks) -> None:
        super().__init__()
        self.levels = tuple(map(float, levels))
        self.offset = -self.levels[0]
        self.uniform = options.biases == "uniform"
        self.learn_biases = options.learn_biases
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.ones(()))
        self.biases = nn.Parameter(torch.zeros(len(levels) - 1), requires_grad=self.learn_biases)
        self.register_buffer("scales", torch.tensor(self.levels).diff())
        self.register_buffer("temperature", torch.tensor(options.temperature_rate))
        self.epochs = 1  # of its training, the present one included
        self.started = True  # apart from `epochs`, by which torch.compile would compile anew
        self.fixed = False

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set β, α and b from the tensor to be quantized, any shape (Section 4.1)."""
        levels = torch.tensor(self.levels, dtype=torch.float64)
        beta = 5 * float(levels.abs().max()) / (4 * float(x.abs().max().clamp(min=1e-8)))
        centres = levels if self.uniform else kmeans_1d(x * beta, len(levels)).cpu()
        biases = (centres[1:] + centres[:-1]) / 2
        around_zero = self.levels[0] < 0 < self.levels[-1]
        if around_zero and len(levels) == 2:
            biases = torch.zeros(1)
        elif around_zero and 0 in self.levels and not self.uniform:
            zero = self.levels.index(0)
            biases[zero - 1], biases[zero] = -ZERO_BIAS, ZERO_BIAS
        self.beta.fill_(beta)
        self.alpha.fill_(1 / beta)
        self.biases.copy_(biases)

    def train_for(self, epochs: int, rate: float, fixed: bool = False) -> None:
        """Set what an epoch changes.

        Args:
            epochs: how many it has been trained, this one included; 0 leaves the tensor as it is.
            rate: by how much each raises the temperature.
            fixed: whether α, β and b stay as they are in this one.
        """
        self.set_extra_state(torch.tensor([epochs, fixed]))
        self.temperature.fill_(rate * max(1, epochs))

    def get_extra_state(self) -> Tensor:
        """Return what a ``state_dict`` keeps beside parameters and buffers."""
        return torch.tensor([self.epochs, self.fixed])

    def set_extra_state(self, state: Tensor) -> None:
        """Go on where `get_extra_state` left off."""
        self.epochs, self.fixed = int(state[0]), bool(state[1])
        self.started = self.epochs > 0
        self.alpha.requires_grad_(not self.fixed)
        self.beta.requires_grad_(not self.fixed)
        self.biases.requires_grad_(self.learn_biases and not self.fixed)

    def raise_temperature(self, rate: float, part: float) -> None:
        """T after a part, from 0 to 1, of an epoch in which it is trained."""
        if self.epochs and not self.fixed:
            self.temperature.fill_(rate * (self.epochs - 1 + part))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        if not self.training:
            return self.hard(x)
        return self.soft(x) if self.started else x

    def soft(self, x: Tensor) -> Tensor:
        """Eq. 7."""
        return staircase(
            x, self.alpha, self.beta, self.biases, self.scales, self.offset, self.temperature
        )

    def hard(self, x: Tensor) -> Tensor:
        """Eq. 5."""
        return hard_staircase(x, self.alpha, self.beta, self.biases, self.scales, self.offset)


def levels_of(width: BitWidth) -> tuple[int, ...]:
    """Y for weights of a width: its fixed levels, else all odd-many integers that fit."""
    if width.levels is not None:
        return width.levels
    top = 2 ** (width.bits - 1) - 1
    return tuple(range(-top, top + 1)) if top else (-1, 1)


def _sample(x: Tensor, count: int = 2**16) -> Tensor:
    """Return some of a tensor's values, evenly spaced, with the least and the largest."""
    flat = x.flatten()
    return torch.cat([flat[:: -(-len(flat) // count)], torch.stack(flat.aminmax())])


# compat: official ------------------------------------------------------------------------------
#
# github.com/aliyun/alibabacloud-quantization-networks departs from the paper as follows.


class OfficialStaircase(SigmoidStaircase):
    """What both of the released functions share: arguments kept within ±10, and A(0) = 0."""

    def hard(self, x: Tensor) -> Tensor:
        """Eq. 5 with the step at 0 left out."""
        passed = x[..., None] * self.beta > self.biases
        return self.alpha * ((passed * self.scales.to(x.dtype)).sum(-1) - self.offset)

    def total(self, u: Tensor, temperature: Tensor) -> Tensor:
        """Σ s_i σ(T(u − b_i)) − o."""
        total = torch.full_like(u, -self.offset)
        for scale, h in self.heights(u, temperature):
            total += scale * h
        return total

    def heights(self, u: Tensor, temperature: Tensor | float) -> Iterable[tuple[Tensor, Tensor]]:
        """s_i and σ(T(u − b_i)), for every step."""
        for scale, bias in zip(self.scales, self.biases, strict=True):
            yield scale, torch.sigmoid((temperature * (u - bias)).clamp(-10, 10))


class OfficialWeights(OfficialStaircase):
    """``anybit.py``: T at most 2000; the slope is that of T = 1, times T.

    Weights are overwritten by quantized ones outside autograd, and restored after the backward
    pass. Gradients of quantized weights are clipped together with the network's, α and β have none
    yet. Then the chain rule turns them into those of the latent weights, α and β.
    """

    def soft(self, x: Tensor) -> Tensor:
        """Eq. 7, the gradient of ``x`` being that of the quantized weight."""
        with torch.no_grad():
            y = self.alpha * self.total(self.beta * x, self.temperature.clamp(max=2000))
        return straight_through(x, y)

    @torch.no_grad()
    def apply_chain_rule(self, weight: nn.Parameter) -> None:
        """Turn ``weight.grad``, that of the quantized weight, into those of weight, α and β."""
        g, u = weight.grad, self.beta * weight
        if g is None:
            return
        temperature = self.temperature.clamp(max=2000)
        slope = torch.zeros_like(u)
        for scale, h in self.heights(u, 1.0):
            slope += temperature * scale * h * (1 - h)
        if not self.fixed:
            _add_gradient(self.alpha, (self.total(u, temperature) * g).sum())
            _add_gradient(self.beta, (slope * weight * self.alpha * g).sum())
        weight.grad = slope * self.beta * self.alpha * g


class OfficialInputs(OfficialStaircase):
    """``models/quantization.py``: the slope of a step is s h(1 − s h), right where s = 1."""

    def soft(self, x: Tensor) -> Tensor:
        """Eq. 7."""
        return self.alpha * _OfficialSum.apply(self.beta * x, self)


class _OfficialSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, steps: OfficialInputs) -> Tensor:
        ctx.save_for_backward(u, steps.temperature.clone())
        ctx.steps = steps
        return steps.total(u, steps.temperature)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        u, temperature = ctx.saved_tensors
        slope = torch.zeros_like(u)
        for scale, h in ctx.steps.heights(u, temperature):
            slope += scale * h * (1 - scale * h) * temperature
        return g * slope, None


def _add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add to a gradient: a shared quantizer gets one from every layer."""
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
