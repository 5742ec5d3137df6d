"""Hard activation quantizers as exact step functions of one float32 number.

A hard quantizer maps each value of a tensor to one of few levels. Its thresholds are found by
bisection over the float32 numbers in their order, so the table is the function itself and no second
implementation of it. A quantizer that is not a function of one number is refused, with the reason.

Zero has one sign here: levels are never −0, which changes no value. What a quantizer returns for
NaN is not kept. Two steps that lead back to the same level are found if they are further apart than
about 1/256 of where they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from qbench.errors import QbenchError

MOST_STEPS = 4096
"""Largest number of steps of a table. Quantizers of 8 bits have 255."""

_LARGEST = 3.0e38
_GRID = 2**17
_PROBED = 2**16
_ULPS = 3  # on both sides of a threshold, where a table is verified


class NoStepFunctionError(QbenchError):
    """Raised for a quantizer that is no step function of one number. The message says why."""


class DependsOnOthersError(NoStepFunctionError):
    """Raised for a quantizer whose level of a value depends on other values."""


@dataclass(frozen=True, eq=False)
class StepTable:
    """A step function of float32 numbers, or one for each channel.

    Attributes:
        thresholds: Where steps are, ascending, (rows, steps), float32. A step is at the smallest
            number that has the next level. Short rows end with infinity.
        levels: Values before the first step and from each step on, (rows, steps + 1), float32. Any
            order; short rows end with their last level.
        axis: Dimension of a batch whose channels have a row each: 1 or −1. None for one row.
        above: Empty: thresholds are numbers, not multiples of a mean size.

    Example:
        >>> table = StepTable(torch.tensor([[0.5]]), torch.tensor([[0.0, 1.0]]))
        >>> table(torch.tensor([0.4, 0.5])).tolist()
        [0.0, 1.0]
    """

    thresholds: Tensor
    levels: Tensor
    axis: Literal[1, -1] | None = None
    above: ClassVar[tuple[bool, ...]] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the levels of a batch.

        Args:
            x: Values, (N, …), float32.

        Returns:
            Their levels, shape and memory format of ``x``.
        """
        if self.axis is None:
            found = torch.bucketize(x.contiguous(), self.thresholds[0], right=True)
            y = self.levels[0][found]
        else:
            rows = x.movedim(self.axis, 0)
            flat = rows.reshape(len(rows), -1).contiguous()
            found = torch.searchsorted(self.thresholds, flat, right=True)
            y = self.levels.gather(1, found).reshape(rows.shape).movedim(0, self.axis)
        return torch.empty_like(x).copy_(y)

    def probed(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return the probes of the table as a batch, and their levels.

        Args:
            rank: Number of dimensions of the batch.

        Returns:
            The batch, with one value for each channel of each image, and the levels, of its shape.
        """
        values = probes(self)
        channels = len(self.thresholds)
        x = values[:, None].expand(-1, channels).contiguous()
        ones = [1] * (rank - 2)
        shape = [channels, *ones] if self.axis != -1 else [*ones, channels]
        x = x.reshape(len(values), *shape)
        return x, self(x)

    def agrees(self, x: Tensor, y: Tensor) -> Tensor:
        """Return which levels are those of a batch.

        Args:
            x: Values, (N, …), float32.
            y: Levels, shape of ``x``.
        """
        return self(x) == y


@torch.no_grad()
def step_table(quantizer: nn.Module, shape: Sequence[int]) -> StepTable:
    """Derive the step table of a hard quantizer.

    Args:
        quantizer: Quantizer in evaluation mode, on any device.
        shape: Shape of its input for one image, without the batch.

    Returns:
        The table. It equals the quantizer at 65,536 random values, and at three floats on both
        sides of each threshold.

    Raises:
        NoStepFunctionError: The quantizer is no step function of one number.

    Example:
        >>> class Rounded(nn.Module):
        ...     def forward(self, x):
        ...         return x.clamp(0, 1).round()
        >>> step_table(Rounded(), (1, 2, 2)).levels.tolist()
        [[0.0, 1.0]]
    """
    reason = NoStepFunctionError("the level of a value depends on its position in the tensor")
    for axis in _axes(quantizer, tuple(shape)):
        try:
            return _found(RowFunction(quantizer, tuple(shape), axis))
        except NoStepFunctionError as error:
            reason = error
    raise reason


def _found(function: RowFunction) -> StepTable:
    """Find and verify the table of a function."""
    low, high = (float(ordered(torch.tensor(end))) for end in (-_LARGEST, _LARGEST))
    size = max(_GRID // function.rows, 2**12)
    grid = torch.linspace(low, high, size, dtype=torch.float64).long()
    found = bisect(function, grid)
    finite = found.thresholds[found.thresholds.isfinite()]
    if len(finite):  # again where steps are, with an even spacing
        span = 1.5 * float(finite.abs().max()) + 1e-30
        even = ordered(torch.linspace(-span, span, len(grid) // 2))
        found = bisect(function, torch.cat([grid, even]).unique())
    _verify(function, found)
    return found


def ordered_neighbours(thresholds: Tensor, ulps: int) -> Tensor:
    """Return the float32 numbers around thresholds.

    Args:
        thresholds: The thresholds, any shape. Infinite ones are left out.
        ulps: How many numbers on both sides.

    Returns:
        The numbers, ascending, each once, (n,).
    """
    at = ordered(thresholds[thresholds.isfinite()].flatten())
    around = at[:, None] + torch.arange(-ulps, ulps + 1)
    return floats(around.flatten().unique()).unique()


def probes(table: StepTable, seed: int = 1) -> Tensor:
    """Return values at which two implementations of a table are to be compared, (n,).

    These are random values of the size of the thresholds and of all sizes, and the numbers around
    each threshold.

    Args:
        table: The table.
        seed: Seed of the random values.
    """
    random = torch.Generator().manual_seed(seed)
    finite = table.thresholds[table.thresholds.isfinite()]
    scale = float(finite.abs().max()) if len(finite) else 1.0
    some = torch.randn(_PROBED // 2, generator=random) * max(scale, 1e-30) / 2
    low, high = (int(ordered(torch.tensor(end))) for end in (-_LARGEST, _LARGEST))
    every = floats(torch.randint(low, high, (_PROBED // 2,), generator=random))
    zeros = torch.tensor([-0.0, 0.0])
    return torch.cat([some, every, zeros, ordered_neighbours(table.thresholds, _ULPS)])


class RowFunction:
    """A quantizer as a function of numbers, or as one for each channel.

    Args:
        quantizer: The quantizer.
        shape: Shape of its input for one image.
        axis: Dimension of a batch whose channels have functions of their own. None: one function.
    """

    def __init__(
        self, quantizer: nn.Module, shape: tuple[int, ...], axis: Literal[1, -1] | None
    ) -> None:
        self.quantizer, self.shape, self.axis = quantizer, shape, axis
        self.rows = 1 if axis is None else shape[axis - 1 if axis > 0 else axis]

    def __call__(self, values: Tensor) -> Tensor:
        """Return the levels of numbers, (rows, n) to (rows, n)."""
        width = values.shape[1]
        places = math.prod(self.shape) // self.rows  # of a row in one image
        images = max(1, -(-width // places))
        padded = torch.zeros(self.rows, images * places)
        padded[:, :width] = values
        if self.axis is None:
            x = padded.view(images, *self.shape)
        else:
            others = list(self.shape)
            del others[self.axis - 1 if self.axis > 0 else self.axis]
            x = padded.view(self.rows, images, *others).movedim(0, self.axis).contiguous()
        y = quantized(self.quantizer, x)
        rows = y if self.axis is None else y.movedim(self.axis, 0)
        return rows.reshape(self.rows, -1)[:, :width]

    def pairs(self, rows: Tensor, values: Tensor) -> Tensor:
        """Return the levels of numbers in given rows, (n,) to (n,)."""
        order = torch.argsort(rows, stable=True)
        counts = torch.bincount(rows, minlength=self.rows)
        starts = counts.cumsum(0) - counts
        column = torch.empty_like(rows)
        column[order] = torch.arange(len(rows)) - starts[rows[order]]
        table = torch.zeros(self.rows, max(1, int(counts.max())))
        table[rows, column] = values
        return self(table)[rows, column]


def quantized(quantizer: nn.Module, x: Tensor) -> Tensor:
    """Return the levels of a batch, float32, on the CPU.

    Args:
        quantizer: Quantizer in evaluation mode, on any device.
        x: Values on the CPU, (N, …), float32.

    Raises:
        NoStepFunctionError: A level is NaN.
    """
    tensors = (*quantizer.parameters(), *quantizer.buffers())
    y: Tensor = quantizer(x.to(next((each.device for each in tensors), torch.device("cpu"))))
    if y.isnan().any():
        raise NoStepFunctionError("it returns NaN for finite numbers")
    return y.to("cpu", torch.float32) + 0.0  # −0 becomes 0


def _axes(quantizer: nn.Module, shape: tuple[int, ...]) -> Iterator[Literal[1, -1] | None]:
    """Yield the dimensions whose channels may be quantized differently, None first: no dimension.

    Raises:
        NoStepFunctionError: A value's level depends on other values.
    """
    random = torch.Generator().manual_seed(0)
    levels = partial(quantized, quantizer)
    x = drawn(shape, random)
    y = levels(x)
    for others, whose in _others(x.shape, random):
        if not torch.equal(
            levels(torch.where(others, 5 * drawn(shape, random), x))[~others], y[~others]
        ):
            raise DependsOnOthersError(
                f"the level of a value depends on other values of {whose}: it is no function of "
                "one number"
            )
    axes: tuple[Literal[1, -1] | None, ...] = (None, 1, -1)
    for axis in axes:
        if (axis != -1 or x.dim() > 2) and _ignores_order(levels, x, axis, random):
            yield axis


def drawn(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Return a batch of random values of all sizes, (N, …), at least 4 images of a shape."""
    batch = max(4, -(-_PROBED // 4 // math.prod(shape)))
    sizes = torch.exp(2 * torch.randn(batch, *shape, generator=random))
    return sizes * torch.randn(batch, *shape, generator=random)


def _others(shape: torch.Size, random: torch.Generator) -> list[tuple[Tensor, str]]:
    """Return masks of values to change, each with the name of what they share with the rest."""
    images = torch.zeros(shape, dtype=torch.bool)
    images[len(images) // 2 :] = True
    return [(images, "the batch"), (torch.rand(shape, generator=random) < 0.5, "the image")]


def _ignores_order(
    levels: Callable[[Tensor], Tensor], x: Tensor, axis: int | None, random: torch.Generator
) -> bool:
    """Return whether values may change places, within channels if an axis is given."""
    rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)
    order = torch.randperm(rows.shape[1], generator=random)

    def back(y: Tensor) -> Tensor:
        if axis is None:
            return y.reshape(x.shape)
        return y.reshape(x.movedim(axis, 0).shape).movedim(0, axis).contiguous()

    def forth(y: Tensor) -> Tensor:
        return y.reshape(1, -1) if axis is None else y.movedim(axis, 0).reshape(rows.shape)

    return torch.equal(forth(levels(back(rows[:, order]))), forth(levels(x))[:, order])


def bisect(function: RowFunction, grid: Tensor) -> StepTable:
    """Find the steps between numbers, and return them as a table.

    Args:
        function: The function.
        grid: The numbers as `ordered` gives them, ascending. A step is found if the levels of the
            numbers on both sides of it differ.
    """
    values = function(floats(grid).expand(function.rows, -1))
    rows, at = (values[:, 1:] != values[:, :-1]).nonzero(as_tuple=True)
    low, high = grid[at], grid[at + 1]
    before, after = values[rows, at], values[rows, at + 1]
    done = [(rows[:0], high[:0], after[:0])]
    while len(rows):
        if len(rows) > MOST_STEPS * function.rows:
            raise NoStepFunctionError(f"it has more than {MOST_STEPS} steps")
        adjacent = high - low == 1
        done.append((rows[adjacent], high[adjacent], after[adjacent]))
        rows, low, high, before, after = (
            each[~adjacent] for each in (rows, low, high, before, after)
        )
        middle = torch.div(low + high, 2, rounding_mode="floor")
        found = function.pairs(rows, floats(middle))
        left, right = found != before, found != after
        rows, low, high, before, after = (
            torch.cat([a[left], b[right]])
            for a, b in (
                (rows, rows), (low, middle), (middle, high), (before, found), (found, after),
            )
        )  # fmt: skip
    return _table(function, values[:, 0], done)


def _table(
    function: RowFunction, first: Tensor, steps: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> StepTable:
    """Return the table of the steps that were found, in rows of the same length."""
    rows, at, levels = (torch.cat(each) for each in zip(*steps, strict=True))
    order = torch.argsort(at, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    rows, at, levels = rows[order], at[order], levels[order]
    counts = torch.bincount(rows, minlength=function.rows)
    width = int(counts.max()) if len(rows) else 0
    column = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    thresholds = torch.full((function.rows, width), math.inf)
    thresholds[rows, column] = floats(at) + 0.0
    filled = first[:, None].repeat(1, width + 1)
    for row in range(function.rows):
        count = int(counts[row])
        if count:
            of_row = levels[rows == row].to(torch.float32)
            filled[row, 1 : count + 1] = of_row
            filled[row, count + 1 :] = of_row[-1]
    return StepTable(thresholds, filled, function.axis)


def _verify(function: RowFunction, table: StepTable) -> None:
    """Raise NoStepFunctionError if a table differs from its function at the probes."""
    values = probes(table).expand(function.rows, -1).contiguous()
    expected = table.levels.gather(1, torch.searchsorted(table.thresholds, values, right=True))
    got = function(values)
    if not torch.equal(got, expected):
        at = tuple((got != expected).nonzero()[0].tolist())
        raise NoStepFunctionError(
            f"its table gives {expected[at]:.9g} at {values[at]:.9g} and the quantizer "
            f"{got[at]:.9g}: it has steps too narrow to be found"
        )


def ordered(x: Tensor) -> Tensor:
    """Return float32 numbers as integers in the same order; −0 comes just before 0."""
    bits = x.to(torch.float32).contiguous().view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()


def floats(ordered: Tensor) -> Tensor:
    """Return the float32 numbers that `ordered` numbers."""
    bits = ordered.int()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)
