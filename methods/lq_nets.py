"""LQ-Nets: learned quantization levels (Zhang et al., ECCV 2018, arXiv:1807.10029).

A quantizer of K bits has a basis v ∈ ℝᴷ; its levels are vᵀe_l for all 2ᴷ codes e_l (Eq. 4–5)::

    weights:      e ∈ {−1, +1}ᴷ,  one basis for each filter
    activations:  e ∈ {0, 1}ᴷ,    one basis for the layer

A value goes to the nearest level. Thresholds are midpoints of neighbouring levels; a value on a
threshold goes to the lower one.

The basis is learned by quantization error minimisation (QEM, Algorithm 1), one iteration in each
training step. With B the codes of x under the present basis::

    v* = (B Bᵀ)⁻¹ B x,   v ← 0.9 v + 0.1 v*

v gets no gradient. Gradients of the input: ∂w_q/∂w = 1; ∂x_q/∂x = 1 up to the top level, 0 above.

Initial basis (released code): v_j = 2ʲ u with u = 0.6745 √(2/f) / 2^(K−1) for weights, f = fan-out,
and u = 0.6745 · 2 / (2ᴷ − 1) for activations.

Departures. 1e-4 is added to the diagonal of B Bᵀ and 1e-4 v to the right-hand side, as in the
released code for weights; here also for activations, where a code bit that no value uses would make
the matrix singular. ``debias: true`` corrects the moving average for its start, as TensorFlow's
average does by default in the released code: v ← v* after the first step.

The released code quantizes the activations of a pre-activation ResNet-18 (``--mode preact``), and
weights alone in the usual one (``--mode resnet``).
"""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from torch import Tensor

from qbench.functional import cell_sums, to_levels
from qbench.method import BitWidths, Field, Layer, Learned, Method, PerChannel, Quantizer, Recipe

RIDGE = 1e-4


class LQNets(Method):
    """Learned levels for weights (each filter) and activations (each layer).

    Attributes:
        momentum: Weight of the past in the moving average of the basis.
        debias: Whether to correct the average for its start, as the released code does.
    """

    name = "lq_nets"
    title = "LQ-Nets"
    paper = "Zhang et al., ECCV 2018, arXiv:1807.10029"
    revision = 2
    weights = Learned(basis=True, granularity=PerChannel())
    activations = Learned(basis=True)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, nesterov=True, schedule="step", milestones=(30, 60, 85, 95, 105),
        epochs=110, batch_size=256, weight_decay=5e-5, weight_decay_on="weights",
    )  # fmt: skip
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    debias: bool = False

    def network_for(self, model: str, bits: BitWidths) -> str:
        """Return the pre-activation ResNet-18 for the usual one, if activations are quantized."""
        preact = model == "resnet18" and not bits.activations.is_float
        return "preact_resnet18" if preact else model

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LearnedLevels:
        """Build levels of codes {−1, +1}ᴷ with a basis for each filter."""
        bits, fan_out = layer.weight_bits.bits, weight[:, 0].numel()
        unit = 0.6745 * (2 / fan_out) ** 0.5 / 2 ** (bits - 1)
        return LearnedLevels((-1, 1), bits, unit, len(weight), self)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedLevels:
        """Build levels of codes {0, 1}ᴷ with one basis."""
        bits = layer.activation_bits.bits
        return LearnedLevels((0, 1), bits, 0.6745 * 2 / (2**bits - 1), 1, self)


class LearnedLevels(Quantizer):
    """Nearest of the levels vᵀe; v is learned by QEM.

    Args:
        digits: The two values of a code bit.
        bits: Bit-width K.
        unit: Factor of the initial basis (1, 2, 4, …).
        groups: Number of bases. The first dimension of the input is split into as many.
        method: The method, for its options.
    """

    codes: Tensor
    basis: Tensor
    updates: Tensor

    def __init__(
        self, digits: tuple[int, int], bits: int, unit: float, groups: int, method: LQNets
    ) -> None:
        super().__init__()
        self.clips = digits[0] == 0
        self.momentum, self.debias = method.momentum, method.debias
        codes = torch.tensor(list(itertools.product(digits, repeat=bits)), dtype=torch.float32)
        self.register_buffer("codes", codes)  # (2ᴷ, K)
        self.register_buffer("basis", (unit * 2.0 ** torch.arange(bits)).repeat(groups, 1))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``: (groups, …), or any shape if there is one basis."""
        levels, _ = self._levels()
        if len(levels) == 1:
            levels = levels[0]
        top = levels.amax() if self.clips else None
        values = x.to(levels.dtype)
        return to_levels(values, midpoints(levels), levels, high=top).to(x.dtype)

    def observe(self, x: Tensor) -> None:
        """Move the basis by one QEM iteration on ``x``."""
        levels, order = self._levels()
        # B Bᵀ and B x follow from the number and the sum of the values of each code. Autocast would
        # round a matmul.
        codes, found = self.codes.double(), cell_sums(x.to(levels.dtype), midpoints(levels))
        count, total = (torch.zeros_like(each).scatter(1, order, each) for each in found)
        products = codes.unsqueeze(2) * codes.unsqueeze(1)  # (2ᴷ, K, K)
        gram = (count[..., None, None] * products).sum(1)  # (groups, K, K)
        moment = (total.unsqueeze(-1) * codes).sum(1)  # (groups, K)
        ridge = RIDGE * torch.eye(codes.shape[1], dtype=codes.dtype, device=x.device)
        solution = torch.linalg.solve(gram + ridge, moment + RIDGE * self.basis)  # v*
        self.updates += 1
        start = self.momentum ** int(self.updates) if self.debias else 0.0
        self.basis.lerp_(solution.to(self.basis.dtype), (1 - self.momentum) / (1 - start))

    def _levels(self) -> tuple[Tensor, Tensor]:
        """Return the levels in ascending order, (groups, 2ᴷ), and the index of each one's code."""
        return torch.sort((self.basis.unsqueeze(1) * self.codes).sum(-1), dim=1)


def midpoints(levels: Tensor) -> Tensor:
    """Return the midpoints of neighbouring levels, (…, levels)."""
    return (levels[..., 1:] + levels[..., :-1]) / 2
