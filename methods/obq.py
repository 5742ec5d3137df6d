"""OBQ: optimal brain quantizer (Frantar, Singh, Alistarh, NeurIPS 2022, arXiv:2208.11580).

Post-training: weights are rounded one by one, and those that are left make up for the error. H is
twice the mean over images of x xᵀ, where x are the inputs of an output (patches, for a
convolution) at full precision. For each row w of the weight, until all are rounded (Section 5)::

    p = argmin_p (q(w_p) − w_p)² / [H⁻¹]_pp
    w ← w − H⁻¹_:,p · (w_p − q(w_p)) / [H⁻¹]_pp
    H⁻¹ ← H⁻¹ − H⁻¹_:,p H⁻¹_p,: / [H⁻¹]_pp

A weight that has moved by more than half a step from its nearest level, because it left the range,
is rounded at once: the one with the largest error comes first. Each layer is computed for itself.

q has the codes −2^(k−1) … 2^(k−1) − 1, and the step of least error Σ |q(w) − w|^2.4 of each filter.
Weights whose input is always 0 become 0. Where H is singular in float32, 1 is added to its
diagonal. Activations are those of post-training quantization of least error. All of this is as in
the authors' code.

Departures. Filters of more than ``greedy_columns`` weights are rounded in the order of their
columns, as by ``gptq``: the time of the greedy order grows with the cube of their number, and takes
a CPU about a minute for 128 filters of 576. H comes from the calibration images once; the authors'
code adds ten rounds of augmented images. Sums are in float64 in place of float32, and factors near
the best one are tried too, as in ``ptq_mse``. A row without negative weights has the codes of the
others; in the code its step is half as long. Statistics of batch normalization are not corrected
afterwards, which is a step of its own in the paper. Layers that share a weight have the H of the
first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from qbench.functional import integer_range
from qbench.method import Field, Granularity, GranularityOption, Integers, Layer, Method, PerChannel
from qbench.quant.hooks import bypassed, observed

from .ptq_minmax import FixedActivation
from .ptq_mse import PTQMSE, best_factor

POWER = 2.4
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_AT_ONCE = 2**24  # elements of the inverse matrices of the rows that are computed together


class OBQ(Method):
    """Weights rounded greedily, with the others making up for each error, without training.

    Attributes:
        damping: Share of the mean of the diagonal of H that is added to it.
        greedy_columns: Most weights of a filter for which the order is greedy.
        granularity: Weights that share a step. Default: those of a filter.
    """

    title = "OBQ"
    paper = "Frantar et al., NeurIPS 2022, arXiv:2208.11580"
    weights = Integers(granularity=PerChannel(), required=True)
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    trains = False
    elementwise = False
    damping: Annotated[float, Field(ge=0)] = 0.0
    greedy_columns: Annotated[int, Field(ge=0)] = 576
    granularity: GranularityOption = PerChannel()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> RoundedWeight:
        """Build the quantizer that rounds to the nearest level until `calibrate` has run."""
        quant_min, quant_max = integer_range(layer.weight_bits.bits)
        step = symmetric_step(weight, quant_min, quant_max, self.granularity)
        return RoundedWeight(weight, step, torch.zeros_like(step), quant_min, quant_max)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> FixedActivation:
        """Build the quantizer of least error."""
        return PTQMSE().activation_quantizer(layer, sample)

    @torch.no_grad()
    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Round the weights of each layer, for its inputs at full precision."""
        hessians = [Hessian(layer) for layer in distinct(self, batches)]
        with bypassed([*self.layers, *self.places]), ExitStack() as stack:
            for hessian in hessians:
                stack.enter_context(hessian.observed())
            for batch in batches:
                model(batch)
        for hessian in hessians:
            hessian.round(self.rounded)

    def rounded(self, grid: Grid, w: Tensor, h: Tensor) -> Tensor:
        """Return the codes of the weights of a group; see `Rounding`."""
        one = torch.eye(len(h), dtype=h.dtype, device=h.device)
        h = h + self.damping * h.diagonal().mean() * one
        if torch.linalg.cholesky_ex(h.float()).info > 0:
            h = h + one
        order = greedy if w.shape[1] <= self.greedy_columns else in_order
        return order(grid, w, h)


def distinct(method: Method, batches: list[Any]) -> list[Layer]:
    """Return layers with a quantized weight, the first of those that share one.

    Args:
        method: An attached method.
        batches: Calibration data.

    Raises:
        ValueError: There are no calibration data.
    """
    if not batches:
        raise ValueError(f"{method.name} learns from calibration data: pass calibration=batches")
    first: dict[nn.Module, Layer] = {}
    for layer in method.layers:
        if layer.weight_quantizer is not None:
            first.setdefault(layer.weight_quantizer, layer)
    return list(first.values())


def symmetric_step(w: Tensor, quant_min: int, quant_max: int, granularity: Granularity) -> Tensor:
    """Return the step of least error of every group; it broadcasts against ``w``.

    The range of a factor of 1 is max|w| on both sides, so that a step is 2 max|w| / (2^k − 1).

    Args:
        w: Weight, (out, in, …).
        quant_min: Smallest code.
        quant_max: Largest code.
        granularity: Weights that share a step.
    """

    def best_step(rows: Tensor) -> Tensor:
        whole = 2 * rows.abs().amax(1, keepdim=True) / (quant_max - quant_min)
        whole = whole.clamp(min=torch.finfo(rows.dtype).tiny)

        def nearest(factor: Tensor) -> Tensor:
            s = (factor * whole).clamp(min=torch.finfo(rows.dtype).tiny)
            return s * (rows / s).round().clamp(quant_min, quant_max)

        return best_factor(rows, nearest, POWER) * whole[:, 0]

    return granularity.map(w, best_step).clamp(min=torch.finfo(w.dtype).tiny)


class RoundedWeight(nn.Module):
    """s · (code − z), with codes that are given.

    Args:
        weight: Weight, (out, in, …), whose nearest codes are the first.
        step: s; it broadcasts against the weight.
        zero_point: z; likewise.
        quant_min: Smallest code.
        quant_max: Largest code.
    """

    step: Tensor
    zero_point: Tensor
    codes: Tensor

    def __init__(
        self, weight: Tensor, step: Tensor, zero_point: Tensor, quant_min: int, quant_max: int
    ) -> None:
        super().__init__()
        self.quant_min, self.quant_max = quant_min, quant_max
        self.register_buffer("step", step)
        self.register_buffer("zero_point", zero_point)
        nearest = ((weight / step).round() + zero_point).clamp(quant_min, quant_max)
        self.register_buffer("codes", nearest.to(torch.int16))

    def forward(self, w: Tensor) -> Tensor:
        """Return the rounded weight, in the dtype of ``w``, on whose values it does not depend."""
        return self.step.to(w.dtype) * (self.codes.to(w.dtype) - self.zero_point.to(w.dtype))

    def grid(self, rows: slice) -> Grid:
        """Return the levels of the weights of some rows, in float64."""
        step, zero_point = (
            x.double().expand(self.codes.shape)[rows].flatten(1)
            for x in (self.step, self.zero_point)
        )
        return Grid(step, zero_point, self.quant_min, self.quant_max)


@dataclass(frozen=True)
class Grid:
    """Levels of the weights of some rows.

    Attributes:
        step: s of each weight, (rows, columns).
        zero_point: z of each weight.
        quant_min: Smallest code.
        quant_max: Largest code.
    """

    step: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int

    def __getitem__(self, index: Any) -> Grid:
        """Return the levels of a part of the weights."""
        step, zero_point = self.step[index], self.zero_point[index]
        return Grid(step, zero_point, self.quant_min, self.quant_max)

    def codes(self, w: Tensor) -> Tensor:
        """Return the nearest codes of ``w``."""
        return ((w / self.step).round() + self.zero_point).clamp(self.quant_min, self.quant_max)

    def values(self, codes: Tensor) -> Tensor:
        """Return s · (code − z)."""
        return self.step * (codes - self.zero_point)


Rounding = Callable[[Grid, Tensor, Tensor], Tensor]
"""Function from levels, the weights of a group, (rows, columns), and its H to their codes."""


class Hessian:
    """2/N Σ x xᵀ of a layer over N images, for each group of its channels.

    Args:
        layer: The layer: a convolution or a linear layer.

    Raises:
        ValueError: The layer is a transposed convolution.
    """

    def __init__(self, layer: Layer) -> None:
        module: Any = layer.module
        if not isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            kind = type(module).__name__
            raise ValueError(f"'{layer.name}' is a {kind}, whose outputs read no patch each")
        assert isinstance(layer.weight_quantizer, RoundedWeight)  # noqa: S101
        self.layer, self.quantizer, self.images = layer, layer.weight_quantizer, 0
        self.groups = getattr(module, "groups", 1)
        weight = layer.latent_weight
        columns = weight[0].numel()
        self.sum = weight.new_zeros(self.groups, columns, columns, dtype=torch.float64)

    def observed(self) -> AbstractContextManager[None]:
        """Context manager that adds the inputs that the layer has when a model is run."""
        return observed({self.layer.name: self.layer.module}, lambda name, x, y: self.add(x))

    def add(self, x: Tensor) -> None:
        """Add inputs of the layer, (images, …)."""
        self.images += len(x)
        values = x[0].numel() * math.prod(getattr(self.layer.module, "kernel_size", (1,)))
        for part in x.split(max(1, _AT_ONCE // max(1, values))):
            patches = self._patches(part).double()
            self.sum += patches @ patches.transpose(1, 2)

    def round(self, rounding: Rounding) -> None:
        """Set the codes of the layer's quantizer."""
        weight = self.layer.latent_weight.detach()
        size = len(weight) // self.groups
        for group, total in enumerate(self.sum):
            rows = slice(group * size, (group + 1) * size)
            w, h = weight[rows].flatten(1).double(), total * (2 / max(1, self.images))
            dead = h.diagonal() == 0
            h.diagonal()[dead] = 1
            w = w.masked_fill(dead, 0)
            found = rounding(self.quantizer.grid(rows), w, h).view(weight[rows].shape)
            self.quantizer.codes[rows] = found.to(torch.int16)

    def _patches(self, x: Tensor) -> Tensor:
        """Return the inputs of each output as a column, (groups, columns, outputs)."""
        module: Any = self.layer.module
        if isinstance(module, nn.Linear):
            return x.reshape(-1, x.shape[-1]).t()[None]
        # A convolution with one output channel for each weight of a filter collects the patches.
        one = torch.eye(self.sum.shape[-1], dtype=x.dtype, device=x.device)
        one = one.view(-1, *self.layer.latent_weight.shape[1:])
        y: Tensor = module._conv_forward(x, torch.cat([one] * self.groups), None)
        return y.flatten(2).transpose(0, 1).flatten(1).unflatten(0, (self.groups, -1))


def greedy(grid: Grid, w: Tensor, h: Tensor) -> Tensor:
    """Return the codes of weights, rounded in the order of their errors.

    Args:
        grid: Their levels.
        w: The weights, (rows, columns).
        h: H, (columns, columns).
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    at_once = max(1, _AT_ONCE // inverse.numel())
    starts = range(0, len(w), at_once)
    parts = [slice(start, start + at_once) for start in starts]
    return torch.cat([_greedy(grid[part], w[part].clone(), inverse) for part in parts])


def _greedy(grid: Grid, w: Tensor, inverse: Tensor) -> Tensor:
    codes = torch.zeros_like(w)
    every = torch.arange(len(w), device=w.device)
    left = torch.ones_like(w, dtype=torch.bool)
    diagonal = inverse.diagonal().repeat(len(w), 1)
    # H⁻¹ of a row is `inverse` − Σ u uᵀ. The u are kept, and a row of it computed when it is used.
    taken = w.new_empty(*w.shape, w.shape[1])
    for i in range(w.shape[1]):
        nearest = grid.codes(w)
        difference = w - grid.values(nearest)
        error = difference.square().masked_fill(~left, 0)
        p = (error / diagonal).masked_fill(~left, math.inf).argmin(1)
        outside = (error > grid.step.square() / 4).any(1)
        p = torch.where(outside, error.argmax(1), p)
        earlier = taken[:, :i]
        u = inverse[p] - torch.bmm(earlier[every, :, p][:, None], earlier)[:, 0]
        u = u / diagonal[every, p].sqrt()[:, None]
        codes[every, p] = nearest[every, p]
        w -= u * (difference[every, p] / u[every, p])[:, None]
        left[every, p] = False
        diagonal -= u.square()
        taken[:, i] = u
    return codes


def in_order(grid: Grid, w: Tensor, h: Tensor) -> Tensor:
    """Return the codes of weights, rounded column by column.

    Args:
        grid: Their levels.
        w: The weights, (rows, columns).
        h: H, (columns, columns).
    """
    factor = torch.linalg.cholesky(h.flip(0, 1)).flip(0, 1)  # upper, H = factor · factorᵀ
    one = torch.eye(len(h), dtype=h.dtype, device=h.device)
    upper = torch.linalg.solve_triangular(factor, one, upper=True)
    w, codes = w.clone(), torch.zeros_like(w)
    for i in range(w.shape[1]):
        column = grid[:, i]
        codes[:, i] = column.codes(w[:, i])
        error = (w[:, i] - column.values(codes[:, i])) / upper[i, i]
        w[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    return codes
