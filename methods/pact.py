"""PACT: parameterized clipping activation (Choi et al., 2018, arXiv:1805.06085).

Activations, k bits, α learned for each layer (Eq. 1–2)::

    y = ½ (|x| − |x − α| + α) = clip(x, 0, α)
    x_q = [y · (2^k − 1)/α] · α/(2^k − 1)

Gradient (Eq. 3)::

    ∂x_q/∂x = 1[0 ≤ x < α],   ∂x_q/∂α = 1[x ≥ α]

So values that are not clipped teach α nothing. L2 decay pulls it down.

Weights, ``weights: dorefa``, as in the paper: those of DoReFa-Net. ``weights: sawb``, as in the
authors' sequel (Choi et al., 2018, arXiv:1807.06964), the statistics-aware scale of each layer::

    w_q = α_w (2 q_k( clip(w, −α_w, α_w)/(2 α_w) + ½ ) − 1),   α_w = c1 √mean(w²) + c2 mean|w|

with c1, c2 fitted for each bit-width (values as in IBM's model optimizer).

Departures. α starts at the largest calibration input. The paper starts it at a large constant, 10
in its figure: ``initial: 10``. The decay of α is an option of its own, where the paper uses that of
the weights. A layer in which SAWB's α_w is not positive, as of weights that all have one size, is
scaled to its maximum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from qbench.functional import clip, clip_quantize, quantize_unit
from qbench.method import Field, Integers, Layer, Levels, Method, Recipe, Uniform

from .dorefa import DoReFa

SAWB = {  # c1 and c2 by bit-width
    2: (3.12, -2.064),
    3: (7.509, -6.892),
    4: (12.68, -12.80),
    5: (17.74, -18.64),
    8: (31.76, -35.04),
}


class PACT(Method):
    """Activations clipped at a learned α.

    Attributes:
        weights: Quantizer of weights: that of ``dorefa``, or ``sawb``.
        initial: Initial value of α. With 0 it starts at the largest calibration input.
        decay: L2 decay of α.
    """

    paper = "Choi et al., 2018, arXiv:1805.06085"
    revision = 2
    activations = Integers(bits=range(1, 9), signed=False)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.1, schedule="step", milestones=(30, 60, 85, 95), epochs=110,
        batch_size=256, weight_decay=1e-4,
    )  # fmt: skip
    weight_scheme: Literal["dorefa", "sawb"] = Field(default="dorefa", alias="weights")
    initial: Annotated[float, Field(ge=0)] = 0.0
    decay: Annotated[float, Field(ge=0)] = 1e-4

    @property
    def weights(self) -> Levels:
        """Levels of DoReFa-Net, or of SAWB at the widths whose coefficients are published."""
        return DoReFa.weights if self.weight_scheme == "dorefa" else Uniform(bits=[*SAWB], scales=1)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        """Build the quantizer that the option names."""
        if self.weight_scheme == "dorefa":
            return DoReFa().weight_quantizer(layer, weight)
        return StatisticsAwareWeight(layer.weight_bits.bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedClip:
        """Build the quantizer of Eq. 1–3."""
        return LearnedClip(layer.activation_bits.bits, self.initial or float(sample.max()))

    def parameter_groups(
        self, parameters: list[nn.Parameter], lr: float
    ) -> Iterable[dict[str, Any]]:
        """Give α a decay of its own."""
        return [{"params": parameters, "weight_decay": self.decay}]


class LearnedClip(nn.Module):
    """x_q over [0, α].

    Args:
        bits: Bit-width k.
        alpha: Initial value of α; at least 1e-3 is used.
    """

    def __init__(self, bits: int, alpha: float) -> None:
        super().__init__()
        self.steps = 2**bits - 1
        self.alpha = nn.Parameter(torch.tensor(max(alpha, 1e-3)))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        alpha = self.alpha.to(x.dtype)
        return clip_quantize(x, 0, alpha, alpha.detach() / self.steps, closed="left")


class StatisticsAwareWeight(nn.Module):
    """w_q = α_w (2 q_k(·) − 1), α_w from the first two moments of the weights.

    Args:
        bits: Bit-width k, one of `SAWB`.
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
        unit = clip(w, -alpha, alpha) / (2 * alpha) + 0.5
        return alpha * (2 * quantize_unit(unit, self.bits) - 1)
