"""BRECQ: block reconstruction (Li et al., ICLR 2021, arXiv:2102.05426).

Post-training: as AdaRound, but for the output of a block in place of a layer: a residual block, a
block of a transformer, or a layer with the normalization and the activation function behind it.
Weights come first, with z the zero point of a filter::

    W̃ = s · (clip(⌊W/s⌋ + h(V) + z, 0, 2^k − 1) − z),   h(V) = clip(1.2 σ(V) − 0.1, 0, 1)
    min over V:  ‖f(W, x) − f(W̃, x̂)‖² + λ Σ (1 − |2 h(V) − 1|^β)

block after block, where x̂ is the input of the block f with all weights before it quantized. V
starts where W̃ = W. The first term is summed over the channels of the output and averaged over
images and positions. β falls linearly from 20 to 2, after a fifth of the iterations without
regularization. In the end h = 1[V ≥ 0]. V is learned by Adam.

Then, with the weights quantized, the step s of each activation quantizer is learned, by Adam and
along a cosine, for the output of its block on inputs at full precision, in the norm of 2.4::

    x̂ = s · (clip([x/s] + z, 0, 2^k − 1) − z)
    ∂x̂/∂s = [x/s] − x/s inside,   −z below,   2^k − 1 − z above

Steps and zero points start at the range of least error, Σ |q(x) − x|^2.4, of each filter or
activation. Activations are quantized behind each ReLU. Values are those of the authors' code.

Departures. The paper weighs squared errors by squared gradients of the loss; the command of the
released code does not, and neither does this. Batch normalization is not folded into the weights,
so that filters are rounded as trained. A layer that is not in an ``nn.Sequential`` is reconstructed
without the normalization behind it. In the code each block of a MobileNetV2 also has a quantizer at
its output without ReLU, here at the inputs of the layers that read it. The activations behind a
layer at full precision keep their first step. Ranges contain 0, and factors around the best one are
tried too, as in ``ptq_mse``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from qbench.functional import clip, round_ste
from qbench.method import Field, Granularity, GranularityOption, Integers, Layer, Method, PerChannel
from qbench.quant.blocks import Block, find_blocks
from qbench.quant.hooks import bypassed

from .adaround import BETA, WARM_UP, AdaptiveRounding
from .jacob import affine_scale
from .ptq_minmax import FixedActivation
from .ptq_mse import PTQMSE, best_factor

POWER = 2.4


class BRECQ(Method):
    """Weights rounded up or down as the output of their block needs it, without training.

    Attributes:
        iterations: Number of iterations of Adam for the weights of each block.
        lr: Learning rate of V.
        regularization: Weight λ of the regularization.
        step_iterations: Number of iterations for the activations of each block.
        step_lr: Learning rate of the steps of activations.
        batch_size: Number of images in each iteration.
        granularity: Weights that share a step. Default: those of a filter.
    """

    title = "BRECQ"
    paper = "Li et al., ICLR 2021, arXiv:2102.05426"
    weights = Integers(signed=False, scales=2, offset=True, granularity=PerChannel(), required=True)
    activations = Integers(bits=range(2, 9), signed=False, scales=2, offset=True)
    trains = False
    elementwise = False
    placement = "after_activation"
    paper_layers = "first_last_8bit"
    iterations: Annotated[int, Field(ge=1)] = 20_000
    lr: Annotated[float, Field(gt=0)] = 1e-3
    regularization: Annotated[float, Field(ge=0)] = 0.01
    step_iterations: Annotated[int, Field(ge=0)] = 5_000
    step_lr: Annotated[float, Field(gt=0)] = 4e-4
    batch_size: Annotated[int, Field(ge=1)] = 32
    granularity: GranularityOption = PerChannel()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> AffineRounding:
        """Build W̃ with the initial V, over the range of least error."""
        n = 2**layer.weight_bits.bits
        return AffineRounding(weight, *least_error(weight, n, self.granularity), n)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> AffineStep:
        """Build the quantizer of least error."""
        n = 2**layer.activation_bits.bits
        low, high = PTQMSE().input_range(sample.flatten(), n)
        return AffineStep(*affine_scale(low, high, n), n)

    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Learn V, block after block, and then the steps of activations."""
        if not batches:
            raise ValueError("brecq learns from calibration data: pass calibration=batches")
        blocks = find_blocks(self, model, batches[0])
        everything = [*self.layers, *self.places]
        for block in blocks:
            with bypassed(everything):
                _, target = block.record(model, batches)
            with bypassed(everything, weights=False):
                seen, _ = block.record(model, batches)
                self.learn_rounding(block, seen, target)
        for block in blocks:
            if block.places:
                with bypassed(everything):
                    x, target = block.record(model, batches)
                self.learn_steps(block, x, target)

    def learn_rounding(self, block: Block, seen: Tensor, target: Tensor) -> None:
        """Learn the V of a block, from its inputs x̂ and its outputs at full precision."""
        with learned(roundings(block), "v") as v:
            optimizer = torch.optim.Adam(v, lr=self.lr)
            for iteration in range(1, self.iterations + 1):
                chosen = torch.randperm(len(seen))[: self.batch_size].to(seen.device)
                loss = output_error(block, block(seen[chosen]), target[chosen], 2)
                loss = loss + self.regularization * undecided(v, iteration / self.iterations)
                step(loss, optimizer)

    def learn_steps(self, block: Block, x: Tensor, target: Tensor) -> None:
        """Learn the steps of the activations of a block, from its inputs and outputs."""
        with learned(steps(block), "step") as s:
            optimizer = torch.optim.Adam(s, lr=self.step_lr)
            cosine = CosineAnnealingLR(optimizer, max(1, self.step_iterations))
            for _ in range(self.step_iterations):
                chosen = torch.randperm(len(x))[: self.batch_size].to(x.device)
                step(output_error(block, block(x[chosen]), target[chosen], POWER), optimizer)
                keep_positive(s)
                cosine.step()


class AffineRounding(nn.Module):
    """W̃ = s · (clip(⌊W/s⌋ + h + z, 0, 2^k − 1) − z).

    Args:
        weight: W.
        scale: s; it broadcasts against the weight.
        zero_point: z; likewise.
        n: Number of levels 2^k.
    """

    step: Tensor
    zero_point: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, zero_point: Tensor, n: int) -> None:
        super().__init__()
        self.n = n
        self.register_buffer("step", scale)
        self.register_buffer("zero_point", zero_point)
        unit = (weight / scale - (weight / scale).floor() + 0.1) / 1.2
        self.register_buffer("v", (unit / (1 - unit)).log())  # h(V) is the fraction

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, the shape it was built for. While V is learned, h is soft."""
        up = AdaptiveRounding.h(self.v) if self.v.requires_grad else self.v >= 0
        s, z = self.step.to(w.dtype), self.zero_point.to(w.dtype)
        return s * clip((w / s).floor() + up.to(w.dtype), -z, self.n - 1 - z)


class AffineStep(nn.Module):
    """x̂ = s · (clip([x/s] + z, 0, 2^k − 1) − z), whose s can be learned.

    Args:
        scale: s, a scalar.
        zero_point: z, a scalar.
        n: Number of levels 2^k.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, n: int) -> None:
        super().__init__()
        self.n = n
        self.register_buffer("step", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return self.quantize(x, self.step.to(x.dtype))

    def quantize(self, x: Tensor, s: Tensor) -> Tensor:
        """Quantize ``x`` with a step s."""
        z = self.zero_point.to(x.dtype)
        return s * clip(round_ste(x / s), -z, self.n - 1 - z)


def least_error(w: Tensor, n: int, granularity: Granularity) -> tuple[Tensor, Tensor]:
    """Return s and z of n levels over the range of least error; both broadcast against ``w``.

    Args:
        w: Weight, (out, in, …).
        n: Number of levels.
        granularity: Weights that share a range.
    """
    low, high = (granularity.reduce(w, end) for end in (torch.amin, torch.amax))

    def best(rows: Tensor) -> Tensor:
        a, b = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        return best_factor(rows, lambda c: FixedActivation(c * a, c * b, n)(rows), POWER)

    factor = granularity.map(w, best)
    return affine_scale(factor * low, factor * high, n)


def roundings(block: Block) -> list[AffineRounding]:
    """Return the weight quantizers of a block, each once."""
    quantizers = dict.fromkeys(layer.weight_quantizer for layer in block.layers)
    return [each for each in quantizers if isinstance(each, AffineRounding)]


def steps(block: Block) -> list[AffineStep]:
    """Return the activation quantizers of a block, each once."""
    quantizers = dict.fromkeys(place.activation_quantizer for place in block.places)
    return [each for each in quantizers if isinstance(each, AffineStep)]


@contextmanager
def learned(quantizers: Sequence[nn.Module], name: str) -> Iterator[list[Tensor]]:
    """Context manager in which a buffer of quantizers has a gradient.

    Args:
        quantizers: The quantizers.
        name: Name of the buffer.
    """
    buffers = [quantizer.get_buffer(name) for quantizer in quantizers]
    try:
        with torch.enable_grad():
            yield [buffer.requires_grad_() for buffer in buffers]
    finally:
        for buffer in buffers:
            buffer.requires_grad_(False).grad = None


def output_error(block: Block, y: Tensor, target: Tensor, power: float) -> Tensor:
    """Return |y − target|^p, summed over channels and averaged over images and positions."""
    return (y - target).abs().pow(power).sum(block.channel_dim).mean()


def undecided(v: Sequence[Tensor], progress: float) -> Tensor | float:
    """Return Σ (1 − |2 h(V) − 1|^β), and 0 in the first fifth of the iterations.

    Args:
        v: V of each weight.
        progress: Share of the iterations up to this one.
    """
    if progress < WARM_UP:
        return 0.0
    beta = BETA[1] + (BETA[0] - BETA[1]) * (1 - progress) / (1 - WARM_UP)
    parts = [(1 - (2 * AdaptiveRounding.h(each) - 1).abs().pow(beta)).sum() for each in v]
    return torch.stack(parts).sum()


def step(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
    """Take a step of optimizers, with gradients of their parameters alone."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward(inputs=[parameter for group in groups for parameter in group["params"]])
    for optimizer in optimizers:
        optimizer.step()


@torch.no_grad()
def keep_positive(steps: Sequence[Tensor]) -> None:
    """Replace steps by their absolute values, at least the ε of their type."""
    for s in steps:
        s.abs_().clamp_(min=torch.finfo(s.dtype).eps)
