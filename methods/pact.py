"""PACT: parameterized clipping activation (Choi et al., 2018, arXiv:1805.06085).

Activations, k bits, α learned for each layer (Eq. 1–2)::

    y = ½ (|x| − |x − α| + α) = clip(x, 0, α)
    x_q = [y · (2^k − 1)/α] · α/(2^k − 1)

Gradient (Eq. 3)::

    ∂x_q/∂x = 1[0 ≤ x < α],   ∂x_q/∂α = 1[x ≥ α]

so α learns nothing from what is not clipped; L2 decay pulls it down.

Weights, ``weights: dorefa``, as in the paper: DoReFa's. ``weights: sawb``, as in the authors'
sequel (Choi et al., 2018, arXiv:1807.06964), the statistics-aware scale of each layer::

    w_q = α_w (2 q_k( clip(w, −α_w, α_w)/(2 α_w) + ½ ) − 1),   α_w = c1 √mean(w²) + c2 mean|w|

with c1, c2 fitted for each width (values as in IBM's model optimizer).

Departures. α starts at the largest calibration input, where the paper starts at a large constant,
10 in its figure: ``initial: 10``. α's decay is an option of its own, where the paper uses that of
the weights. A layer in which SAWB's α_w is not positive, as of weights all of one size, is scaled
to its maximum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from qbench.functional import quantize_unit, straight_through
from qbench.method import Binary, Field, Integers, Layer, Levels, Method, Recipe, Uniform

from .dorefa import LayerBinaryWeight, TanhWeight

SAWB = {
    2: (3.12, -2.064),
    3: (7.509, -6.892),
    4: (12.68, -12.80),
    5: (17.74, -18.64),
    8: (31.76, -35.04),
}


class PACT(Method):
    """Activations clipped at a learned α.

    Options:
        weights: DoReFa's, or SAWB's.
        initial: where α starts; 0: at the largest calibration input.
        decay: L2 decay of α.
    """

    name = "pact"
    title = "PACT"
    paper = "Choi et al., 2018, arXiv:1805.06085"
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        schedule="step",
        milestones=(30, 60, 85, 95),
        gamma=0.1,
        epochs=110,
        batch_size=256,
        weight_decay=1e-4,
        initialization="scratch",
    )
    activations = Integers(bits=range(1, 9), signed=False)
    weight_scheme: Literal["dorefa", "sawb"] = Field(default="dorefa", alias="weights")
    initial: Annotated[float, Field(ge=0)] = 0.0
    decay: Annotated[float, Field(ge=0)] = 1e-4

    @property
    def weights(self) -> Levels:
        """DoReFa's levels, or SAWB's at the widths whose coefficients are published."""
        if self.weight_scheme == "sawb":
            return Uniform(bits=tuple(SAWB), scales=1)
        return Binary() | Uniform(bits=range(2, 9), scales=0)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        """As the option says."""
        bits = layer.weight_bits.bits
        if self.weight_scheme == "sawb":
            return StatisticsAwareWeight(bits)
        return LayerBinaryWeight() if bits == 1 else TanhWeight(bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedClipInput:
        """Eq. 1–3."""
        alpha = self.initial or float(sample.max())
        return LearnedClipInput(layer.activation_bits.bits, max(alpha, 1e-3))

    def parameter_groups(
        self, parameters: list[nn.Parameter], lr: float
    ) -> Iterable[dict[str, Any]]:
        """α, with its decay."""
        return [{"params": parameters, "weight_decay": self.decay}]


class LearnedClipInput(nn.Module):
    """x_q over [0, α].

    Args:
        bits: k.
        alpha: α at the start.
    """

    def __init__(self, bits: int, alpha: float) -> None:
        super().__init__()
        self.steps = 2**bits - 1
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        alpha = self.alpha.to(x.dtype)
        y = torch.where(x < alpha, x.relu(), alpha)
        step = alpha.detach() / self.steps
        return straight_through(y, (y.detach() / step).round() * step)


class StatisticsAwareWeight(nn.Module):
    """w_q = α_w (2 q_k(·) − 1), α_w from the weights' first two moments.

    Args:
        bits: k, of `SAWB`.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        fixed = w.detach()
        c1, c2 = SAWB[self.bits]
        alpha = c1 * fixed.square().mean().sqrt() + c2 * fixed.abs().mean()
        alpha = torch.where(alpha > 0, alpha, fixed.abs().max())
        alpha = alpha.clamp(min=torch.finfo(w.dtype).tiny)
        unit = torch.clamp(w, -alpha, alpha) / (2 * alpha) + 0.5
        return alpha * (2 * quantize_unit(unit, self.bits) - 1)
