"""Quantization Networks (Yang et al., CVPR 2019, arXiv:1911.09464).

Quantization is a staircase of sigmoids onto levels Y_1 < … < Y_{n+1}, for weights and activations
alike. With scales s_i = Y_{i+1} − Y_i and offset o = −Y_1 (½Σs_i for the paper's weights, whose
levels are symmetric; 0 for activations)::

    training,   Eq. 7:  y = α ( Σ s_i σ(T(βx − b_i)) − o )
    evaluation, Eq. 5:  y = α ( Σ s_i A(βx − b_i) − o ),   A the unit step

α and β are trained with the network by the exact gradient of Eq. 7. The biases b are initialised
and then fixed. The temperature T grows with the epochs, so that the soft function approaches the
hard one.

Initialisation (Section 4.1 and the released code)::

    β = 5p / 4q,  p = max|Y|,  q = max|x|
    b_i = midpoint of neighbouring centres of a k-means of βx into n + 1 clusters;
    the two biases around a zero level of weights are ∓0.05; the only bias of binary weights is 0
    α = 1/β in the paper; here the α that minimises ‖x − y‖²

The last line and `lr_factor` are departures. With α = 1/β the levels are about twice the values
that they stand for. At the network's learning rate α and β, whose gradients are sums over a layer,
do not train steadily in few epochs. ``alpha: reciprocal`` and ``lr_factor: 1`` are the paper's, and
what ``recipe: paper`` sets. docs/methodology.md shows what they change.

Levels: weights of k bits are {−1, 1} (k = 1) or −(2^(k−1) − 1)…2^(k−1) − 1 (so 2 bits are ternary),
``3(±2)`` and ``3(±4)`` as written, or those of the option ``weight_levels``; activations of k bits
are 0…2^k − 1. The paper quantizes activations behind a ReLU only. Elsewhere, as in attention, they
have negative values and, from 2 bits on, the levels of weights, whose offset is ½Σs_i.

Activations are quantized behind each ReLU, or behind the max-pooling that follows it (Section 4.1):
``placement`` is ``after_activation``.

Where weights and activations are quantized, training has three phases (Section 4.1)::

    phase   functions of weights        functions of activations
    1       trained                     not used: activations are not quantized
    2       fixed (α and β)             trained
    3       trained                     trained

Elsewhere all epochs are of phase 3. The paper does not say how long the phases are: by default each
takes a third of the epochs.

The paper raises T by a rate of 5 or 10 per epoch, for 55 epochs. The last temperature determines
how close the soft function comes to the hard one (Section 4.3), so that is the option here: after e
of the E epochs that train a function, T = final · e/E, for weights and for activations. With
``temperature_rate``, as in the paper, T = rate · e for both. A final temperature of 275 is that of
the paper's ResNets, of 550 that of its AlexNet.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from qbench.functional import hard_staircase, is_signed, kmeans_1d, staircase
from qbench.method import (
    Binary,
    Field,
    Fixed,
    Integers,
    Layer,
    Levels,
    Method,
    Named,
    Quantizer,
    Recipe,
    Tunable,
)

from ._quantization_networks_official import (
    RELEASED_BIAS,
    ReleasedActivations,
    ReleasedWeights,
    is_released_stem,
)

SYMMETRIC = Named(default="symmetric")  # and what ± names
ZERO_BIAS = 0.05
FIRST_TEMPERATURE = 5.0  # of the paper's first epoch on ResNets

Length = Annotated[float, Field(ge=0)]


class QuantizationNetworks(Method):
    """Staircases of sigmoids whose temperature grows.

    Attributes:
        final_temperature: Temperature T of weights in the last epoch. T rises to it evenly.
        final_activation_temperature: The same for activations.
        temperature_rate: Increase of T per epoch, for weights and activations, in place of the two
            final temperatures. The paper has 5 for ResNets and 10 for AlexNet and SSD.
        temperature_by: Whether T increases by epoch, or by step to the same value at its end.
        phases: Lengths of the three phases, in proportion. [0, 0, 1] trains everything from the
            start.
        share: Whether each layer has a function of its own, or all share one (Table 6).
        alpha: Initial α: the one with the least squared error, or the paper's 1/β.
        biases: Initial biases: midpoints of k-means centres, or of levels (Table 5).
        learn_biases: Whether biases are trained.
        lr_factor: Learning rate of α and β, as a factor of the network's. The paper's is 1.
        weight_levels: Levels of weights, ascending, in place of those of the bit-width.
        compat: Whether to compute as the paper or as the released code, where they differ.
    """

    title = "Quantization Networks"
    paper = "Yang et al., CVPR 2019, arXiv:1911.09464"
    activations = Integers(bits=range(1, 9), signed=False)
    soft = True
    revision = 3
    paper_options = {"temperature_rate": 5.0, "alpha": "reciprocal", "lr_factor": 1.0}
    later_options = frozenset({"final_temperature", "final_activation_temperature", "alpha"})
    placement = "after_activation"
    paper_recipe = Recipe(
        optimizer="sgd", lr=1e-3, schedule="step", milestones=(30, 45), epochs=55, batch_size=256,
        weight_decay=1e-4, gradient_clip=5.0, initialization="pretrained",
    )  # fmt: skip
    final_temperature: Annotated[float, Field(gt=0), Tunable(50, 1000, log=True)] = 275.0
    final_activation_temperature: Annotated[float, Field(gt=0), Tunable(20, 500, log=True)] = 100.0
    temperature_rate: Annotated[float, Field(gt=0)] | None = None
    temperature_by: Literal["epoch", "step"] = "epoch"
    phases: tuple[Length, Length, Annotated[float, Field(gt=0)]] = (1, 1, 1)
    share: Literal["layer", "network"] = "layer"
    alpha: Literal["least_squares", "reciprocal"] = "least_squares"
    biases: Literal["k_means", "uniform"] = "k_means"
    learn_biases: bool = False
    lr_factor: Annotated[float, Field(ge=0)] = 0.1
    weight_levels: tuple[float, ...] | None = None
    compat: Literal["paper", "official"] = "paper"

    def __post_init__(self) -> None:
        """Check what the types of the options cannot say."""
        levels = self.weight_levels
        if levels is not None and (
            not 2 <= len(levels) <= 256 or sorted(set(levels)) != list(levels)
        ):
            raise ValueError(
                f"weight_levels: write from two levels to 256, ascending, not {list(levels)}"
            )
        self._shared: dict[tuple[str | float, ...], tuple[SigmoidStaircase, list[Tensor]]] = {}

    @property
    def weights(self) -> Levels:
        """The levels of the bit-width, or those of the option."""
        if self.weight_levels is None:
            return Binary() | SYMMETRIC
        return Fixed(values=self.weight_levels)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> SigmoidStaircase:
        """Build the function of a weight."""
        width = layer.weight_bits
        levels = self.weight_levels or (Binary() if width.bits == 1 else SYMMETRIC).codes(width)
        kind = OfficialWeights if self.compat == "official" else SigmoidStaircase
        return self._function("weight", kind, levels, weight)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> SigmoidStaircase | None:
        """Build the function of an activation."""
        if self.compat == "official" and is_released_stem(layer):
            return None
        width = layer.activation_bits
        signed = is_signed(sample, width.bits)
        levels = SYMMETRIC.codes(width) if signed else range(width.count)
        kind = OfficialActivations if self.compat == "official" else SigmoidStaircase
        return self._function("activation", kind, levels, sample)

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Train what the phase of the epoch trains (Section 4.1)."""
        weights, activations = self._attached("weight"), self._attached("activation")
        lengths = self.phases if weights and activations else (0, 0, 1)
        phases = [phase_of(e, epochs, lengths) for e in range(1, epochs + 1)]
        for functions, own_phase, final in (
            (weights, 1, self.final_temperature),
            (activations, 2, self.final_activation_temperature),
        ):
            trained = [phase in (own_phase, 3) for phase in phases]
            rate = self.temperature_rate or final / sum(trained)
            for function in functions:
                function.train_for(sum(trained[:epoch]), rate)
        for function in weights if phases[epoch - 1] == 2 else ():
            function.fix()

    def _attached(self, tensor: Literal["weight", "activation"]) -> list[SigmoidStaircase]:
        found = self.layers if tensor == "weight" else self.places
        quantizers = (getattr(each, f"{tensor}_quantizer") for each in found)
        return [quantizer for quantizer in quantizers if quantizer is not None]

    def _function(
        self, tensor: str, kind: type[SigmoidStaircase], levels: Sequence[float], x: Tensor
    ) -> SigmoidStaircase:
        function, samples = kind(levels, self), [x]
        if self.share == "network":
            function, samples = self._shared.setdefault((tensor, *levels), (function, []))
            samples.append(_sample(x))
        function.initialise(torch.cat(samples), around_zero=tensor == "weight")  # of all so far
        return function


class SigmoidStaircase(Quantizer):
    """The quantization function: Eq. 7 in training, Eq. 5 in evaluation.

    Args:
        levels: Levels Y, ascending.
        method: The method, for its options.
    """

    scales: Tensor
    temperature: Tensor

    def __init__(self, levels: Sequence[float], method: QuantizationNetworks) -> None:
        super().__init__()
        self.levels = tuple(map(float, levels))
        self.offset = -self.levels[0]
        self.uniform, self.learn_biases = method.biases == "uniform", method.learn_biases
        self.least_squares = method.alpha == "least_squares"
        self.by_step = method.temperature_by == "step"
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.ones(()))
        self.biases = nn.Parameter(torch.zeros(len(levels) - 1), requires_grad=self.learn_biases)
        self.register_buffer("scales", torch.tensor(self.levels).diff())
        self.rate = method.temperature_rate or FIRST_TEMPERATURE  # until an epoch starts
        self.register_buffer("temperature", torch.tensor(self.rate))
        self.epochs = 1  # in which the function has been trained, the present one included
        self.started = True  # read in forward: torch.compile would compile for each value of epochs
        self.fixed = False

    @torch.no_grad()
    def initialise(self, x: Tensor, *, around_zero: bool) -> None:
        """Set β, α and b from the tensor to be quantized, any shape (Section 4.1).

        Args:
            x: The tensor.
            around_zero: Whether the biases around zero are the paper's of weights, ∓0.05 or 0.
        """
        levels = torch.tensor(self.levels, dtype=torch.float64)
        p, q = float(levels.abs().max()), float(x.abs().max().clamp(min=1e-8))
        beta = 5 * p / (4 * q)
        centres = levels if self.uniform else kmeans_1d(x * beta, len(levels)).cpu()
        biases = (centres[1:] + centres[:-1]) / 2
        around_zero = around_zero and self.levels[0] < 0 < self.levels[-1]
        if around_zero and len(levels) == 2:
            biases = torch.zeros(1)
        elif around_zero and 0 in self.levels and not self.uniform:
            zero = self.levels.index(0)
            biases[zero - 1], biases[zero] = -ZERO_BIAS, ZERO_BIAS
        self.beta.fill_(beta)
        self.alpha.fill_(1 / beta)
        self.biases.copy_(biases)
        if self.least_squares:
            y = self.hard(x)
            factor = (x * y).sum() / y.square().sum()
            if factor > 0:  # not where all values are zero
                self.alpha.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        if not self.training:
            return self.hard(x)
        return self.soft(x) if self.started else x

    def soft(self, x: Tensor) -> Tensor:
        """Compute Eq. 7."""
        return staircase(
            x, self.alpha, self.beta, self.biases, self.scales, self.offset, self.temperature
        )

    def hard(self, x: Tensor) -> Tensor:
        """Compute Eq. 5."""
        return hard_staircase(x, self.alpha, self.beta, self.biases, self.scales, self.offset)

    def train_for(self, epochs: int, rate: float) -> None:
        """Start an epoch in which α, β and b are trained.

        Args:
            epochs: Number of epochs in which the function has been trained, this one included.
                At 0, training leaves the tensor as it is.
            rate: Increase of the temperature per epoch.
        """
        self.rate = rate
        self.set_extra_state(torch.tensor([epochs, False]))
        self.temperature.fill_(rate * max(1, epochs))

    def fix(self) -> None:
        """Fix α, β and b in the epoch that has started. The function is used even if untrained."""
        self.set_extra_state(torch.tensor([max(1, self.epochs), True]))

    def on_step_start(self, layer: Layer, step: int, steps: int) -> None:
        """Set T within an epoch, with ``temperature_by: step``."""
        if self.by_step and self.epochs and not self.fixed:
            self.temperature.fill_(self.rate * (self.epochs - 1 + step / steps))

    def get_extra_state(self) -> Tensor:
        """Return the part of a ``state_dict`` that is neither a parameter nor a buffer."""
        return torch.tensor([self.epochs, self.fixed])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        self.epochs, self.fixed = int(state[0]), bool(state[1])
        self.started = self.epochs > 0
        self.alpha.requires_grad_(not self.fixed)
        self.beta.requires_grad_(not self.fixed)
        self.biases.requires_grad_(self.learn_biases and not self.fixed)


class OfficialWeights(ReleasedWeights, SigmoidStaircase):
    """`SigmoidStaircase` of a weight, with the released code's departures."""


class OfficialActivations(ReleasedActivations, SigmoidStaircase):
    """`SigmoidStaircase` of an activation, with the released code's departures."""

    def initialise(self, x: Tensor, *, around_zero: bool) -> None:
        """Set β and α as ever, and the bias of two levels as released."""
        super().initialise(x, around_zero=around_zero)
        if len(self.levels) == 2 and not self.uniform:
            nn.init.constant_(self.biases, RELEASED_BIAS)


def phase_of(epoch: int, epochs: int, lengths: tuple[float, float, float]) -> int:
    """Return the phase of an epoch: 1, 2 or 3.

    Args:
        epoch: Number of the epoch, from 1.
        epochs: Number of epochs.
        lengths: Lengths of the phases, in proportion.
    """
    ends = [epochs * part / sum(lengths) for part in itertools.accumulate(lengths)]
    return 1 + sum(epoch > end + 1e-9 for end in ends[:2])


def _sample(x: Tensor, count: int = 2**16) -> Tensor:
    """Return some of a tensor's values, evenly spaced, with the least and the largest."""
    flat = x.flatten()
    return torch.cat([flat[:: -(-len(flat) // count)], torch.stack(flat.aminmax())])
