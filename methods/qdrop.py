"""QDrop: randomly dropped quantization (Wei et al., ICLR 2022, arXiv:2203.05740).

Post-training: as BRECQ, but weights are rounded while activations are quantized, at random. For the
output of one block after the other, V and the steps s of the activations in it are learned together
(Section 4)::

    W̃ = s · (clip(⌊W/s⌋ + h(V) + z, 0, 2^k − 1) − z),   h(V) = clip(1.2 σ(V) − 0.1, 0, 1)
    x̂ = s · (clip([x/s] + z, 0, 2^k − 1) − z) with probability p, else x
    min over V, s:  ‖f(W, x) − f(W̃, x̂)‖² + λ Σ (1 − |2 h(V) − 1|^β)

Each value is drawn by itself, in every iteration. The input of the block f is mixed likewise, from
the input that it has with all before it quantized and the one at full precision. p is ½. The first
term is summed over the channels of the output and averaged over images and positions. β falls
linearly from 20 to 2, after a fifth of the iterations without regularization. In the end
h = 1[V ≥ 0], and every activation is quantized.

V is learned by Adam, and s by another one along a cosine. The gradient of s is that of LSQ, with
the factor 1/√(N (2^k − 1)), N being the number of values of the batch. Activations are quantized
behind each ReLU.

s and z start at the range of least error, Σ |q(x) − x|^2.4, among 100 sizes and all zero points.
Values are those of the authors' code.

Departures. Batch normalization is not folded into the weights. A layer that is not in an
``nn.Sequential`` is reconstructed without the normalization behind it. Above 4 bits the zero point
is not searched but that of the whole range. In the code each block of a MobileNetV2 also has a
quantizer at its output without ReLU, here at the inputs of the layers that read it. The activations
behind a layer at full precision keep their first step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from qbench.functional import scale_gradient
from qbench.method import Field, Granularity, GranularityOption, Integers, Layer, Method, PerChannel
from qbench.quant.blocks import Block, find_blocks
from qbench.quant.hooks import bypassed

from .brecq import (
    POWER,
    AffineRounding,
    AffineStep,
    keep_positive,
    learned,
    output_error,
    roundings,
    step,
    steps,
    undecided,
)

_SIZES = 100  # of a range that are tried
_SEARCHED = 16  # most levels for which all zero points are tried
_SAMPLED = 2**18  # values of an activation that ranges are tried on


class QDrop(Method):
    """Weights rounded up or down with activations quantized at random, without training.

    Attributes:
        iterations: Number of iterations of Adam for each block.
        lr: Learning rate of V.
        regularization: Weight λ of the regularization.
        step_lr: Learning rate of the steps of activations.
        probability: Probability p with which a value is quantized.
        batch_size: Number of images in each iteration.
        granularity: Weights that share a step. Default: those of a filter.
    """

    name = "qdrop"
    title = "QDrop"
    paper = "Wei et al., ICLR 2022, arXiv:2203.05740"
    weights = Integers(signed=False, scales=2, offset=True, granularity=PerChannel(), required=True)
    activations = Integers(bits=range(2, 9), signed=False, scales=2, offset=True)
    trains = False
    elementwise = False
    placement = "after_activation"
    paper_layers = "first_last_8bit"
    iterations: Annotated[int, Field(ge=1)] = 20_000
    lr: Annotated[float, Field(gt=0)] = 1e-3
    regularization: Annotated[float, Field(ge=0)] = 0.01
    step_lr: Annotated[float, Field(gt=0)] = 4e-5
    probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    batch_size: Annotated[int, Field(ge=1)] = 32
    granularity: GranularityOption = PerChannel()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> AffineRounding:
        """Build W̃ with the initial V, over the range of least error."""
        n = 2**layer.weight_bits.bits
        return AffineRounding(weight, *best_grids(weight, n, self.granularity), n)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> DroppedStep:
        """Build the quantizer of least error."""
        n = 2**layer.activation_bits.bits
        values = sample.flatten()[None, :: -(-sample.numel() // _SAMPLED)]
        scale, zero_point = (each[0] for each in best_grid(values, n))
        return DroppedStep(scale, zero_point, n, self.probability)

    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Learn V and the steps of activations, block after block."""
        if not batches:
            raise ValueError("qdrop learns from calibration data: pass calibration=batches")
        for block in find_blocks(self, model, batches[0]):
            with bypassed([*self.layers, *self.places]):
                x, target = block.record(model, batches)
            seen, _ = block.record(model, batches)
            self.learn(block, seen, x, target)

    def learn(self, block: Block, seen: Tensor, x: Tensor, target: Tensor) -> None:
        """Learn from the inputs of a block, quantized and at full precision, and its outputs."""
        with learned(roundings(block), "v") as v, learned(steps(block), "step") as s:
            optimizers = [torch.optim.Adam(v, lr=self.lr)]
            if s:
                optimizers.append(torch.optim.Adam(s, lr=self.step_lr))
                cosine = CosineAnnealingLR(optimizers[1], self.iterations)
            for iteration in range(1, self.iterations + 1):
                chosen = torch.randint(len(seen), (self.batch_size,)).to(seen.device)
                mixed = drop(seen[chosen], x[chosen], self.probability)
                loss = output_error(block, block(mixed), target[chosen], 2)
                loss = loss + self.regularization * undecided(v, iteration / self.iterations)
                step(loss, *optimizers)
                if s:
                    keep_positive(s)
                    cosine.step()


class DroppedStep(AffineStep):
    """As `AffineStep`. While s is learned, values are quantized with a probability.

    Args:
        scale: s, a scalar.
        zero_point: z, a scalar.
        n: Number of levels 2^k.
        probability: The probability p.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, n: int, probability: float) -> None:
        super().__init__(scale, zero_point, n)
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        if not self.step.requires_grad:
            return super().forward(x)
        s = scale_gradient(self.step.to(x.dtype), (x.numel() * (self.n - 1)) ** -0.5)
        return drop(self.quantize(x, s), x, self.probability)


def drop(quantized: Tensor, x: Tensor, probability: float) -> Tensor:
    """Return values of one tensor with a probability, else of the other."""
    drawn = torch.rand(x.shape, dtype=x.dtype, device=x.device)  # alike in every memory format
    return torch.where(drawn < probability, quantized, x)


def best_grids(w: Tensor, n: int, granularity: Granularity) -> tuple[Tensor, Tensor]:
    """Return s and z of n levels of least error; both broadcast against ``w``.

    Args:
        w: Weight, (out, in, …).
        n: Number of levels.
        granularity: Weights that share a range.
    """
    zero_points: list[Tensor] = []

    def scales(rows: Tensor) -> Tensor:
        s, z = best_grid(rows, n)
        zero_points.append(z)
        return s

    s = granularity.map(w, scales)
    return s, granularity.map(w, lambda rows: zero_points.pop(0))


def best_grid(rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return s and z of n levels of least error for every row, (rows,) each.

    Args:
        rows: Values that share a range as the rows of a matrix.
        n: Number of levels.
    """
    low, high = (end(rows, 1, keepdim=True) for end in (torch.amin, torch.amax))
    low, high = low.clamp(max=0), high.clamp(min=0)
    size = (high - low).clamp(min=torch.finfo(rows.dtype).tiny)
    whole = (-low / size * (n - 1)).round()
    one_sided = not bool((low < 0).any() and (high > 0).any())
    tried: Iterable[Tensor] = [whole]
    if n <= _SEARCHED and not one_sided:
        tried = [torch.full_like(whole, z) for z in range(n)]
    least = torch.full_like(size, torch.inf)
    best_s, best_z = size / (n - 1), whole
    for i in range(1, _SIZES + 1):
        s = (size * (i / _SIZES) / (n - 1)).clamp(min=torch.finfo(rows.dtype).tiny)
        for z in tried:
            found = s * (rows / s).round().clamp(-z, n - 1 - z)
            error = (found - rows).abs().pow(POWER).mean(1, keepdim=True)
            better = error < least
            least = torch.where(better, error, least)
            best_s, best_z = torch.where(better, s, best_s), torch.where(better, z, best_z)
    return best_s[:, 0], best_z[:, 0]
