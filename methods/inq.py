"""Incremental Network Quantization (Zhou et al., ICLR 2017, arXiv:1702.03044).

Weights, b bits, for each layer: zero and powers of two, P = {0, ±2^n2, …, ±2^n1}, one bit spelling
zero (Eq. 2–3), with n1 and n2 from the pretrained weights::

    s = max|w|,   n1 = ⌊log2(4s/3)⌋,   n2 = n1 + 1 − 2^(b−1)/2

so 3 levels at 2 bits, 5 at 3, 9 at 4, 17 at 5. A weight goes to the nearest of them (Eq. 4)::

    Q(w) = β · sign(w) where (α + β)/2 ≤ |w| < 3β/2, α and β neighbours in P

Training (Algorithm 1): a growing share of the weights, the largest first, is quantized and frozen;
the others are trained on at full precision by plain gradient descent (Eq. 8)::

    w ← w − lr · ∂E/∂w · T,   T = 0 for frozen weights, 1 for others

The shares are ``portions``, each trained for equally many epochs; the last, 1, needs none. Fewer
bits have more of them (Sections 3.1 and 3.3)::

    5 bits and more: 0.5, 0.75, 0.875, 1        4 bits: 0.3, 0.5, 0.8, 0.9, 0.95, 1
    3 bits: 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1
    2 bits: 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1

There is no straight-through gradient anywhere.

Departures. The exponents are taken once, as in the paper, where the released code takes them again
at every portion. What is frozen stays so, where ports choose the partition anew. The paper starts
the learning rate again at every portion; the ``paper`` recipe does so, an aligned one does not. The
paper quantizes the first and the last layer too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import nearest_level
from qbench.method import BitWidth, Layer, Method, PowersOfTwo, Recipe

PORTIONS = {
    5: (0.5, 0.75, 0.875, 1.0),
    4: (0.3, 0.5, 0.8, 0.9, 0.95, 1.0),
    3: (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
    2: (0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1.0),
}


class INQ(Method):
    """Powers of two, frozen little by little.

    Options:
        portions: shares of the weights that are quantized, one after another; ascending, the last
            is 1. None: the paper's, by bits.
    """

    title = "INQ"
    paper = "Zhou et al., ICLR 2017, arXiv:1702.03044"
    weights = PowersOfTwo()
    soft = True
    elementwise = False
    paper_recipe = Recipe(
        optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        schedule="cosine_restarts",
        milestones=(8, 16),
        epochs=24,
        batch_size=80,
        weight_decay=5e-4,
        initialization="pretrained",
    )
    paper_layers = "all"
    portions: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the portions."""
        if self.portions is None:
            return
        ascending = list(self.portions) == sorted(set(self.portions))
        if not ascending or self.portions[:1] <= (0.0,) or self.portions[-1:] != (1.0,):
            raise ValueError(
                f"portions: {list(self.portions)}; write shares above 0, ascending, the last 1"
            )

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> IncrementalWeight:
        """P, none frozen yet."""
        return IncrementalWeight(layer.weight_bits, weight)

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Freeze what this epoch's portion asks for."""
        with torch.no_grad():
            for layer in self.layers:
                portions = self.portions or PORTIONS[min(layer.weight_bits.bits, 5)]
                trained = portions[:-1] or portions
                portion = trained[(epoch - 1) * len(trained) // epochs]
                quantizer = layer.weight_quantizer
                assert isinstance(quantizer, IncrementalWeight)  # noqa: S101
                quantizer.freeze(layer.latent_weight, portion)

    def after_optimizer_step(self) -> None:
        """Put frozen weights back where momentum and weight decay have moved them: · T."""
        for layer in self.layers:
            quantizer = layer.weight_quantizer
            assert isinstance(quantizer, IncrementalWeight)  # noqa: S101
            quantizer.restore(layer.latent_weight)


class IncrementalWeight(nn.Module):
    """The latent weight with its frozen part quantized; in evaluation, all of it.

    Args:
        width: b.
        weight: the pretrained weight, from which the exponents are taken.
    """

    magnitudes: Tensor
    frozen: Tensor
    values: Tensor

    def __init__(self, width: BitWidth, weight: Tensor) -> None:
        super().__init__()
        size = float(weight.abs().max()) or 1.0
        n1 = torch.tensor(4 * size / 3, dtype=torch.float64).log2().floor()
        n2 = n1 + 1 - 2 ** (width.bits - 2)
        powers = 2.0 ** torch.arange(int(n2), int(n1) + 1, dtype=torch.float64)
        zero = powers.new_zeros(1)
        self.register_buffer("magnitudes", torch.cat([zero, powers]).to(weight.dtype))
        self.register_buffer("frozen", torch.zeros_like(weight, dtype=torch.bool))  # 1 − T
        self.register_buffer("values", torch.zeros_like(weight))

    def forward(self, w: Tensor) -> Tensor:
        """Return ``w`` as the network sees it, shape of the layer's weight."""
        if self.training:
            return torch.where(self.frozen, self.values.to(w.dtype), w)
        return torch.where(self.frozen, self.values.to(w.dtype), self._project(w))

    def freeze(self, w: Tensor, portion: float) -> None:
        """Quantize the largest weights that are left, until ``portion`` of all are frozen."""
        missing = round(portion * w.numel()) - int(self.frozen.sum())
        if missing > 0:
            sizes = w.abs().masked_fill(self.frozen, -1.0).flatten()
            chosen = torch.zeros_like(sizes, dtype=torch.bool)
            chosen[sizes.topk(missing).indices] = True
            chosen = chosen.view(w.shape)
            self.values.copy_(torch.where(chosen, self._project(w).to(self.values), self.values))
            self.frozen |= chosen
        self.restore(w)

    def restore(self, w: Tensor) -> None:
        """Set the frozen part of the latent weight to its levels."""
        w.copy_(torch.where(self.frozen, self.values.to(w.dtype), w))

    def _project(self, w: Tensor) -> Tensor:
        sizes = nearest_level(w.abs(), self.magnitudes)
        return torch.where(w < 0, -sizes, sizes)
