"""Transcriptions of other implementations and of the papers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .probe import Function

Array = npt.NDArray[Any]

EDMIPS_BINARY = 1.596  # step of its 1-bit weights, in standard deviations
EDMIPS_STEPS = {1: 0.799, 2: 0.538, 3: 0.3217, 4: 0.185}


class _Rounded(torch.autograd.Function):
    """Rounding with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, away: bool) -> Tensor:
        return x.sign() * (x.abs() + 0.5).floor() if away else x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


class _Clipped(torch.autograd.Function):
    """Clipping with gradient 1 at the bounds, where torch's own depends on its version."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return g * inside, None, None


class _Chosen(torch.autograd.Function):
    """A given tensor in the forward pass, the identity in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, chosen: Tensor) -> Tensor:
        return chosen.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def rounded(x: Tensor, away: bool = False) -> Tensor:
    """Return [x] with a straight-through gradient; ties go to even or away from zero."""
    return _Rounded.apply(x, away)


def clipped(x: Tensor, low: float, high: float) -> Tensor:
    """Return clip(x, low, high) with gradient 1 where low ≤ x ≤ high."""
    return _Clipped.apply(x, low, high)


def chosen(x: Tensor, values: Tensor) -> Tensor:
    """Return ``values`` and pass the gradient to ``x`` unchanged."""
    return _Chosen.apply(x, values.detach())


def tensorpack_weight(bits: int, weight: Tensor) -> Function:
    """Return the DoReFa weights of tensorpack's example."""
    largest, n = weight.tanh().abs().max(), 2**bits - 1
    return lambda w: 2 * rounded((w.tanh() / largest * 0.5 + 0.5) * n) / n - 1


def distiller_weight(bits: int, weight: Tensor) -> Function:
    """Return the DoReFa weights of distiller, an unsigned linear quantizer of [0, 1]."""
    largest = weight.tanh().abs().max()
    scale, zero = (2**bits - 1) / 1.0, 0.0
    unit: Function = lambda w: w.tanh() / (2 * largest) + 0.5  # noqa: E731
    return lambda w: 2 * (rounded(scale * unit(w) - zero) + zero) / scale - 1


def micronet_weight(bits: int, weight: Tensor) -> Function:
    """Return the DoReFa weights of micronet, where ties go away from zero."""
    largest, step = weight.tanh().abs().max(), 1 / (2**bits - 1)
    unit: Function = lambda w: w.tanh() / 2 / largest + 0.5  # noqa: E731
    return lambda w: 2 * (rounded(unit(w) / step, away=True) * step) - 1


def kwanghoonan_weight(bits: int, weight: Tensor) -> Function:
    """Return the DoReFa weights of KwangHoonAn/PACT, whose gradient is the identity."""
    forward = tensorpack_weight(bits, weight)
    return lambda w: chosen(w, forward(w))


def mqbench_weight(bits: int, weight: Tensor, symmetric: bool) -> Function:
    """Return the DoReFa weights of MQBench: tanh-normalised, then on an integer grid.

    Args:
        bits: Bit-width.
        weight: The tensor from which the observer takes the range.
        symmetric: If True, codes are symmetric around zero; otherwise they start at zero and have a
            zero point.
    """
    largest = weight.tanh().abs().max() + 1e-5
    unit: Function = lambda w: w.tanh() / largest  # noqa: E731
    seen = unit(weight)
    low, high = seen.min().clamp(max=0), seen.max().clamp(min=0)
    if symmetric:
        first, last, zero = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, torch.tensor(0.0)
        step = torch.maximum(-low, high) / ((last - first) / 2)
    else:
        first, last = 0, 2**bits - 1
        step = (high - low) / (last - first)
        zero = (first - (low / step).round()).clamp(first, last)
    # The largest weight lies on a threshold. Dropping its last bits makes that so on every machine.
    fine: Function = lambda w: rounded(unit(w) / step * 2**16) / 2**16  # noqa: E731
    return lambda w: (clipped(rounded(fine(w)) + zero, first, last) - zero) * step


def tensorpack_input(bits: int) -> Function:
    """Return the DoReFa activations of tensorpack's example, which distiller shares."""
    n = 2**bits - 1
    return lambda x: rounded(clipped(x, 0, 1) * n) / n


def micronet_input(bits: int) -> Function:
    """Return the DoReFa activations of micronet: a tenth of the input, not scaled back."""
    step = 1 / (2**bits - 1)
    return lambda x: rounded(clipped(x * 0.1, 0, 1) / step, away=True) * step


def wrpn_paper(bits: int) -> Function:
    """Return the WRPN weights of the paper: a sign and k − 1 bits."""
    n = 2 ** (bits - 1) - 1
    return lambda w: rounded(clipped(w, -1, 1) * n) / n


def wrpn_distiller(bits: int) -> Function:
    """Return the WRPN weights of distiller: (2^k − 1) / 2 steps per side, codes not clipped."""
    n = (2**bits - 1) / 2
    return lambda w: rounded(n * clipped(w, -1, 1)) / n


def lsq_clipped(low: int, top: int, step: Tensor) -> Function:
    """Return LSQ's quantizer: clip, then round."""
    return lambda v: rounded(clipped(v / step, low, top)) * step


def lsq_mqbench(low: int, top: int, step: Tensor) -> Function:
    """Return MQBench's LSQ, torch's learnable fake quantization: round, then clip."""
    return lambda v: clipped(rounded(v / step), low, top) * step


def hwgq_caffe(centers: Sequence[float], clip: float) -> Function:
    """Return the HWGQ activations of the Caffe release.

    Args:
        centers: Levels above zero, in ascending order.
        clip: Input above which the gradient is 0.
    """
    bounds = [(a + b) / 2 for a, b in itertools.pairwise(centers)]

    def function(x: Tensor) -> Tensor:
        level = torch.full_like(x, centers[0])
        for bound, center in zip(bounds, centers[1:], strict=True):
            level = torch.where(x > bound, center, level)
        level = torch.where(x > 0, level, 0.0)
        passing = ((x > 0) & (x <= clip)).to(x.dtype)
        return chosen(x * passing.detach(), level)

    return function


def hwgq_edmips(bits: int) -> Function:
    """Return the HWGQ activations of EdMIPS: a rounded multiple of the step."""
    step = EDMIPS_STEPS[bits]
    return lambda x: rounded(clipped(x, 0, step * (2**bits - 1)) / step) * step


def mean_size(w: Tensor) -> Tensor:
    """Return mean |w| of each filter."""
    return w.abs().mean((1, 2, 3), keepdim=True)


def centred(w: Tensor) -> Tensor:
    """Subtract the mean over input channels and clip to [−1, 1]."""
    return (w - w.mean(1, keepdim=True)).clamp(-1, 1)


def binary_sign(w: Tensor) -> Tensor:
    """Return −1 below zero and +1 elsewhere."""
    return 1 - 2 * (w < 0).to(w.dtype)


def lua_factor(w: Tensor, optimiser: str) -> Tensor:
    """Return the factor by which the released Lua code multiplies a gradient.

    Args:
        w: Centred and clipped weights.
        optimiser: ``sgd`` or ``adam``.
    """
    n, inputs = w[0].numel(), w.shape[1]
    inside = (w.abs() < 1).to(w.dtype)
    factor = (mean_size(w) * inside + 1 / n) * (1 - 1 / inputs)
    return factor * n if optimiser == "sgd" else factor * 1e9


def exact_gradient(w: Tensor, g: Tensor) -> Tensor:
    """Return the gradient of α(w)·sign(w), with derivative 1 of the sign where |w| ≤ 1."""
    inside = (w.abs() <= 1).to(w.dtype)
    shared = (g * w.sign()).sum((1, 2, 3), keepdim=True)
    return mean_size(w) * inside * g + w.sign() * shared / w[0].numel()


def ternary(w: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the TWN weights, α·{−1, 0, 1}.

    Args:
        w: Weights.
        dims: Dimensions over which the threshold and α are computed.
    """
    threshold = 0.7 * w.abs().mean(dims, keepdim=True)
    codes = (w > threshold).to(w.dtype) - (w < -threshold).to(w.dtype)
    return codes * (codes * w).sum(dims, keepdim=True) / (codes**2).sum(dims, keepdim=True)


def pact_kwanghoonan(bits: int, alpha: float) -> Function:
    """Return the PACT activations of KwangHoonAn/PACT, with α fixed."""
    scale = (2**bits - 1) / alpha
    return lambda x: rounded(clipped(x, 0, alpha) * scale) / scale


def lq_nets_released(
    rows: Array, bits: int, fan_out: int | None, updates: int, debias: bool
) -> Array:
    """Return the values of the released code of LQ-Nets after some updates of the basis.

    Args:
        rows: Values that share a basis as the rows of a matrix.
        bits: Bit-width.
        fan_out: Kernel size times output channels of a weight; None for activations.
        updates: Number of updates on the same values.
        debias: Whether the moving average is corrected for its start, as TensorFlow's is.
    """
    weights = fan_out is not None
    codes = np.array(list(itertools.product((-1, 1) if weights else (0, 1), repeat=bits)), float)
    unit = 0.6745 * ((2 / fan_out) ** 0.5 / 2 ** (bits - 1) if fan_out else 2 / (2**bits - 1))
    ridge = 1e-4 if weights else 0.0
    found = np.empty_like(rows)
    for row, x in enumerate(rows):
        basis = unit * 2.0 ** np.arange(bits)
        for update in range(updates + 1):
            order = np.argsort(codes @ basis, kind="stable")
            levels, sorted_codes = (codes @ basis)[order], codes[order]
            index = np.searchsorted((levels[1:] + levels[:-1]) / 2, x, side="left")
            found[row] = levels[index]
            if update < updates:
                b = sorted_codes[index]
                gram = b.T @ b + ridge * np.eye(bits)
                solution = np.linalg.solve(gram, b.T @ x + ridge * basis)
                share = 0.1 / (1 - 0.9 ** (update + 1)) if debias else 0.1
                basis = basis + share * (solution - basis)
    return found


def qn_released(
    w: Tensor, levels: Sequence[int], biases: Sequence[float], temperature: float | None
) -> Tensor:
    """Return the weights of the released code of Quantization Networks.

    Args:
        w: Weights.
        levels: Levels, ascending.
        biases: Bias of each step.
        temperature: T; None for the unit step.
    """
    beta = levels[-1] * 5 / 4.0 / w.abs().max()
    x, y = w * beta, torch.zeros_like(w)
    for low, high, bias in zip(levels, levels[1:], biases, strict=False):
        if temperature is None:
            y += (high - low) * (x - bias > 0)
        else:
            y += (high - low) * _released_sigmoid(x, bias, temperature)
    return (y - (levels[-1] - levels[0]) / 2) / beta


def qn_gradient(
    w: Tensor, levels: Sequence[int], biases: Sequence[float], temperature: float, inside: float
) -> Tensor:
    """Return ∂q/∂w of the released code, with a temperature of its own inside the sigmoid."""
    beta = levels[-1] * 5 / 4.0 / w.abs().max()
    x, slope = w * beta, torch.zeros_like(w)
    for low, high, bias in zip(levels, levels[1:], biases, strict=False):
        y = (high - low) * _released_sigmoid(x, bias, inside)
        slope += y * (high - low - y) / (high - low)
    return slope * temperature


def _released_sigmoid(x: Tensor, bias: float, temperature: float) -> Tensor:
    return 1 / (1 + (-temperature * (x - bias)).clamp(-10, 10).exp())


def admm_single(w: Tensor, codes: Sequence[int]) -> Tensor:
    """Return the projection on α·codes by alternation from α = mean|w|."""
    values, alpha = torch.tensor(codes).double(), w.double().abs().mean()
    while True:
        q = _nearest_codes(w, values, alpha)
        following = (w * q).sum() / (q * q).sum()
        if torch.equal(following, alpha):
            return (alpha * q).to(w.dtype)
        alpha = following


def admm_nearest(w: Tensor, codes: Sequence[int]) -> Tensor:
    """Return the projection on α·codes by a dense search of α, and the best α of its codes."""
    values = torch.tensor(codes).double()
    ordered = w.double().flatten().sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    best, found = torch.tensor(torch.inf), ordered[0]
    for alpha in torch.linspace(0.0, 1.0, 2_001, dtype=torch.float64)[1:] * w.abs().max():
        ends = torch.searchsorted(ordered, alpha * (values[1:] + values[:-1]) / 2)
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_tensor([len(ordered)])])
        product = (values * sums[ends].diff()).sum()
        square = (values.square() * ends.diff()).sum()
        if square > 0 and (error := -product.square() / square) < best:
            best, found = error, product / square
    return (found * _nearest_codes(w, values, found)).to(w.dtype)


def _nearest_codes(w: Tensor, values: Tensor, alpha: Tensor) -> Tensor:
    """Return the code nearest to each weight over α."""
    return values[torch.bucketize(w.double() / alpha, (values[1:] + values[:-1]) / 2)]
