"""Incremental Network Quantization (Zhou et al., ICLR 2017, arXiv:1702.03044).

Weights, b bits, for each layer: zero and powers of two, P = {0, ±2^n2, …, ±2^n1}, where one bit is
the code of zero (Eq. 2–3). n1 and n2 follow from the pretrained weights::

    s = max|w|,   n1 = ⌊log2(4s/3)⌋,   n2 = n1 + 1 − 2^(b−1)/2

so 3 levels at 2 bits, 5 at 3, 9 at 4, 17 at 5. A weight goes to the nearest of them (Eq. 4)::

    Q(w) = β · sign(w) where (α + β)/2 ≤ |w| < 3β/2, α and β neighbours in P

Training (Algorithm 1): a growing share of the weights, the largest first, is quantized and frozen.
The others are trained at full precision by plain gradient descent (Eq. 8)::

    w ← w − lr · ∂E/∂w · T,   T = 0 for frozen weights, 1 for others

The shares are ``portions``, each trained for equally many epochs; the last, 1, needs none. Fewer
bits have more of them (Sections 3.1 and 3.3)::

    5 bits and more: 0.5, 0.75, 0.875, 1        4 bits: 0.3, 0.5, 0.8, 0.9, 0.95, 1
    3 bits: 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1
    2 bits: 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1

There is no straight-through gradient.

Departures. The exponents are computed once, as in the paper; the released code computes them again
at every portion. Frozen weights stay frozen; ports choose the partition again.

The paper restarts the learning rate at every portion; so does the ``paper`` recipe at every
bit-width, but not an aligned one. Within a portion the rate is that of the released code: 0.003,
times 0.2 after each 15,000 of 63,000 steps, here at the start of the epoch in which that happens.
The paper quantizes the first and the last layer too.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from qbench.functional import nearest_level
from qbench.method import BitWidths, Layer, Method, PowersOfTwo, Quantizer, Recipe

PORTIONS = {
    5: (0.5, 0.75, 0.875, 1.0),
    4: (0.3, 0.5, 0.8, 0.9, 0.95, 1.0),
    3: (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
    2: (0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1.0),
}
# Epochs of all portions together: Sections 3.1 and 3.3 give those at 5 and at 2 bits.
EPOCHS = {5: 8, 4: 15, 3: 21, 2: 30}


class INQ(Method):
    """Powers of two, frozen portion by portion.

    Attributes:
        portions: Shares of the weights that are quantized, one after another: ascending, the last
            is 1. Default: those of the paper for the bit-width.
    """

    paper = "Zhou et al., ICLR 2017, arXiv:1702.03044"
    weights = PowersOfTwo()
    soft = True
    elementwise = False
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.003, epochs=8, batch_size=80, weight_decay=5e-4,
        initialization="pretrained",
    )  # fmt: skip
    paper_layers = "all"
    portions: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the portions."""
        given = (1.0,) if self.portions is None else self.portions
        if list(given) != sorted(set(given)) or given[:1] <= (0.0,) or given[-1] != 1:
            raise ValueError(
                f"portions: {list(given)}; write shares above 0, ascending, the last 1"
            )

    def paper_recipe_for(self, bits: BitWidths) -> Recipe:
        """Return the recipe, which starts again with every portion."""
        width = min(bits.weights.bits, 5)
        count = len(trained(self.portions or PORTIONS[width]))
        epochs = EPOCHS[width] if self.portions is None else 3 * count
        starts = [-(-i * epochs // count) for i in range(count + 1)]  # as in `on_epoch_start`
        steps = [
            epoch * 63 // (length * 15)
            for length in (end - start for start, end in itertools.pairwise(starts))
            for epoch in range(length)
        ]
        changes = tuple(e for e in range(1, epochs) if steps[e] != steps[e - 1])
        return self.paper_recipe.model_copy(
            update={
                "epochs": epochs,
                "schedule": "step",
                "milestones": changes,
                "milestone_lrs": tuple(self.paper_recipe.lr * 0.2 ** steps[e] for e in changes),
            }
        )

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> IncrementalWeight:
        """Build P, with no weight frozen yet."""
        bits = layer.weight_bits.bits
        return IncrementalWeight(weight, bits, self.portions or PORTIONS[min(bits, 5)])


def trained(portions: tuple[float, ...]) -> tuple[float, ...]:
    """Return the portions after which weights are left to train.

    Args:
        portions: Shares of the weights that are quantized, ascending, the last is 1.
    """
    return portions[:-1] or portions


class IncrementalWeight(Quantizer):
    """The latent weight with its frozen part quantized; in evaluation, all of it.

    Args:
        weight: The pretrained weight, from which the exponents are computed.
        bits: Bit-width b.
        portions: Shares of the weights that are quantized, ascending, the last is 1.
    """

    magnitudes: Tensor
    frozen: Tensor
    values: Tensor

    def __init__(self, weight: Tensor, bits: int, portions: tuple[float, ...]) -> None:
        super().__init__()
        self.trained_portions = trained(portions)
        size = float(weight.abs().max()) or 1.0
        n1 = math.floor(math.log2(4 * size / 3))
        n2 = n1 + 1 - 2 ** (bits - 2)
        magnitudes = [0.0, *(2.0**n for n in range(n2, n1 + 1))]
        self.register_buffer("magnitudes", torch.tensor(magnitudes, dtype=weight.dtype))
        self.register_buffer("frozen", torch.zeros_like(weight, dtype=torch.bool))  # 1 − T
        self.register_buffer("values", torch.zeros_like(weight))

    def forward(self, w: Tensor) -> Tensor:
        """Return ``w`` with its frozen part, or all of it, quantized."""
        return torch.where(self.frozen, self.values, w if self.training else self.project(w))

    def project(self, w: Tensor) -> Tensor:
        """Compute Q(w)."""
        sizes = nearest_level(w.abs(), self.magnitudes)
        return torch.where(w < 0, -sizes, sizes)

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Freeze the largest weights until the epoch's portion of all is frozen."""
        w, count = layer.latent_weight, len(self.trained_portions)
        portion = self.trained_portions[(epoch - 1) * count // epochs]
        missing = round(portion * w.numel()) - int(self.frozen.sum())
        if missing > 0:
            sizes = w.abs().masked_fill(self.frozen, -1.0).flatten()
            chosen = torch.zeros_like(sizes, dtype=torch.bool)
            chosen[sizes.topk(missing).indices] = True
            chosen = chosen.view(w.shape)
            self.values.copy_(torch.where(chosen, self.project(w), self.values))
            self.frozen |= chosen
        self.after_optimizer_step(layer)

    def after_optimizer_step(self, layer: Layer) -> None:
        """Restore the frozen weights, which momentum and weight decay have changed."""
        layer.latent_weight.copy_(torch.where(self.frozen, self.values, layer.latent_weight))
