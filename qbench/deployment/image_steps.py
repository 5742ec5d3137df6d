"""Hard quantizers whose thresholds are multiples of the mean size of each image.

The level of a value then depends on the other values of its image, so that no table of numbers is
the quantizer (`qbench.deployment.steps`). But it is a step function of x and mean|x|. The steps are
found by bisection, as those of a table are, in images of two values that are not zero, whose sum is
the same in any order. The factor of a threshold is the float32 number with which all of them come
out to the bit. The result is verified on other images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from qbench.deployment.steps import (
    NoStepFunctionError,
    RowFunction,
    bisect,
    drawn,
    floats,
    ordered,
    ordered_neighbours,
    quantized,
)

_MOST = 16  # steps
_PAIRS, _VALUES = 12, 2**18  # images in which steps are bisected together, and their values
# Bands of their other value, so that mean sizes have all mantissas, and the width of a band.
_BANDS, _SPREAD = (1.0, 1.15, 1.32, 1.52, 1.74), 1.05
_PROBED = 128  # images with a value beside a threshold
_MARGIN = 1e-3  # around where random values show a step, relative
_ULPS = 8  # how far from its estimate a factor is searched
_NEAR = 6  # numbers on both sides of a step, where a function is verified
_UNIT = 2.0**-24  # of rounding in float32


@dataclass(frozen=True, eq=False)
class ImageSteps:
    """A step function of float32 numbers whose thresholds are factors times mean|x| of the image.

    Attributes:
        thresholds: The factors, ascending, (1, steps), float32.
        levels: Values before the first step and from each step on, (1, steps + 1), float32.
        above: For each step, whether it is above its threshold. Otherwise it is at the threshold.
        axis: None: all channels have the same factors.

    Example:
        >>> steps = ImageSteps(torch.tensor([[0.5]]), torch.tensor([[0.0, 1.0]]), (True,))
        >>> steps(torch.tensor([[1.0, 3.0], [2.0, 2.0]])).tolist()
        [[0.0, 1.0], [1.0, 1.0]]
    """

    thresholds: Tensor
    levels: Tensor
    above: tuple[bool, ...]
    axis: ClassVar[None] = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the levels of a batch.

        Args:
            x: Values, (N, …), float32.

        Returns:
            Their levels, shape and memory format of ``x``.
        """
        return self._at(x, mean_size(x))

    def _at(self, x: Tensor, size: Tensor) -> Tensor:
        """Return the levels of images of given mean sizes, (N, 1, …)."""
        y = torch.empty_like(x).copy_(self.levels[0, 0])
        steps = zip(self.thresholds[0], self.levels[0, 1:], self.above, strict=True)
        for factor, level, above in steps:
            threshold = factor * size
            y = torch.where(x > threshold if above else x >= threshold, level, y)
        return y

    def probed(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return a batch at which two implementations are to be compared, and its levels.

        Sums of its images are the same in any order: an image has two values that are not zero,
        one of them beside a threshold, or small multiples of 1/4.

        Args:
            rank: Number of dimensions of the batch.
        """
        x = torch.cat(list(_probes(self, 12)))
        x = x.reshape(*x.shape, *[1] * (rank - 2))
        return x, self(x)

    def agrees(self, x: Tensor, y: Tensor) -> Tensor:
        """Return which levels are those of a batch, up to rounding of the mean sizes.

        Args:
            x: Values, (N, …), float32.
            y: Levels, shape of ``x``.
        """
        size, error = mean_size(x), (x[0].numel() + 2) * _UNIT
        low, same, high = (self._at(x, size * factor) == y for factor in (1 - error, 1, 1 + error))
        return low | same | high


def mean_size(x: Tensor) -> Tensor:
    """Return mean|x| of each image of a batch, (N, 1, …)."""
    return x.abs().mean(tuple(range(1, x.dim())), keepdim=True)


@torch.no_grad()
def image_steps(quantizer: nn.Module, shape: Sequence[int]) -> ImageSteps:
    """Derive the factors of a hard quantizer.

    Args:
        quantizer: Quantizer in evaluation mode, on the CPU.
        shape: Shape of its input for one image, without the batch.

    Returns:
        The function. It equals the quantizer on random images, and at six floats on both sides of
        each threshold, in 128 images.

    Raises:
        NoStepFunctionError: The quantizer is no such function.

    Example:
        >>> class Large(nn.Module):
        ...     def forward(self, x):
        ...         return torch.where(x > 2 * x.abs().mean((1, 2, 3), keepdim=True), 1.0, 0.0)
        >>> steps = image_steps(Large(), (2, 3, 3))
        >>> steps.thresholds.tolist(), steps.levels.tolist(), steps.above
        ([[2.0]], [[0.0, 1.0]], (True,))
    """
    random, shape = torch.Generator().manual_seed(0), tuple(shape)
    ends = _ends(quantizer, shape, random)
    steps, images = [], []
    rows = max(3, min(_PAIRS, _VALUES // math.prod(shape)))
    for band in _BANDS:
        others = band * (1 + (_SPREAD - 1) * torch.rand(rows, generator=random))
        pairs = _Pairs(quantizer, shape, others)
        table = bisect(pairs, ordered(band * ends).unique())
        if table.thresholds.shape[1] != len(ends) // 2 or table.thresholds.isinf().any():
            raise NoStepFunctionError("images have different numbers of steps")
        images.append(pairs)
        steps.append(table)
    levels = steps[0].levels[:1]
    # All thresholds of an image of zeros are 0, so that its level is behind the last step at one.
    zero = quantized(quantizer, torch.zeros(1, *shape)).flatten()[0]
    at = max((index for index, level in enumerate(levels[0]) if level == zero), default=0)
    thresholds = zip(*(each.thresholds.T for each in steps), strict=True)
    found = [_factor(images, each, step >= at) for step, each in enumerate(thresholds)]
    factors, above = zip(*found, strict=True)
    function = ImageSteps(torch.stack(factors)[None], levels, above)
    for x in (drawn(shape, random), *_probes(function, math.prod(shape))):
        x = x.view(-1, *shape)
        if not torch.equal(quantized(quantizer, x), function(x)):
            raise NoStepFunctionError("its thresholds are no multiples of the mean size of images")
    return function


class _Pairs(RowFunction):
    """A quantizer as a function of the first value of images whose other values are fixed.

    Args:
        quantizer: The quantizer.
        shape: Shape of its input for one image.
        others: The second value of each image, (images,). All other values are zero.
    """

    def __init__(self, quantizer: nn.Module, shape: tuple[int, ...], others: Tensor) -> None:
        super().__init__(quantizer, shape, None)
        self.others, self.rows = others, len(others)

    def images(self, values: Tensor) -> Tensor:
        """Return the images with given first values, (rows, n) to (rows · n, values)."""
        x = torch.zeros(*values.shape, math.prod(self.shape))
        x[..., 1] = self.others[:, None]
        x[..., 0] = values
        return x.flatten(0, 1)

    def __call__(self, values: Tensor) -> Tensor:
        """Return the levels of numbers, (rows, n) to (rows, n)."""
        y = quantized(self.quantizer, self.images(values).view(-1, *self.shape))
        return y.flatten(1)[:, 0].view(values.shape)


def _ends(quantizer: nn.Module, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Return numbers before and behind each step of pairs whose other value is in the first band.

    Random images show how large a value over the mean size is where its level changes.

    Raises:
        NoStepFunctionError: Levels change more often than those of a step function.
    """
    x = drawn(shape, random)
    ratios = (x / mean_size(x)).double().flatten()
    order = ratios.argsort()
    ratios, levels = ratios[order], quantized(quantizer, x).flatten()[order]
    steps = (levels[1:] != levels[:-1]).nonzero()[:, 0]
    if not 0 < len(steps) <= _MOST:
        raise NoStepFunctionError(f"levels change at {len(steps)} multiples of the mean size")
    ends = []
    for step in steps.tolist():
        for ratio, outwards in ((float(ratios[step]), -1), (float(ratios[step + 1]), 1)):
            away = outwards * ratio > 0  # from zero
            further = ratio * (1 + _MARGIN if away else 1 - _MARGIN)
            ends.append(further * (_SPREAD if away else 1) / (math.prod(shape) - abs(further)))
    return torch.tensor(ends)


def _factor(
    images: Sequence[_Pairs], steps: Sequence[Tensor], rather_above: bool
) -> tuple[Tensor, bool]:
    """Return the factor of a threshold, and whether the step is above it.

    Args:
        images: The images, in parts.
        steps: The first number with the next level in each image, (rows,), for each part.
        rather_above: Whether the step is rather above the threshold, if it may be both.

    Raises:
        NoStepFunctionError: No factor gives these numbers.
    """
    at, sizes = torch.cat(list(steps)), []
    below = torch.nextafter(at, torch.tensor(-math.inf))
    for values in (at, below):
        parts = zip(images, values.split(len(steps[0])), strict=True)
        sizes.append(torch.cat([mean_size(part.images(x[:, None]))[:, 0] for part, x in parts]))
    for above in (rather_above, not rather_above):
        for factor in ordered_neighbours((at / sizes[0])[:1], _ULPS):
            reached, too_early = (
                x > factor * size if above else x >= factor * size
                for x, size in zip((at, below), sizes, strict=True)
            )
            if reached.all() and not too_early.any():
                return factor, above
    raise NoStepFunctionError("no factor gives all thresholds to the bit")


def _probes(steps: ImageSteps, count: int) -> Iterator[Tensor]:
    """Yield images of a number of values, many with a value beside a threshold, (N, count)."""
    random = torch.Generator().manual_seed(1)
    yield torch.randint(-99, 100, (_PROBED, count), generator=random) / 4
    yield torch.zeros(1, count)
    others = torch.exp(2 * torch.randn(_PROBED, generator=random))
    offsets = torch.arange(_PROBED) % (2 * _NEAR + 1) - _NEAR
    for factor in steps.thresholds[0].tolist():
        x = torch.zeros(_PROBED, count)
        x[:, 0] = floats(ordered(factor * others / (count - abs(factor))) + offsets)
        x[:, 1] = others
        yield x
