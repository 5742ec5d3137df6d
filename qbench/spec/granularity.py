"""Granularity: which values of a tensor share a scale."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import AliasChoices, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from qbench.errors import nearest

if TYPE_CHECKING:
    from torch import Size, Tensor

    Reduction = Callable[..., Tensor]


@dataclass(frozen=True)
class PerTensor:
    """All values of a tensor share a scale."""

    def reduce(self, x: Tensor, function: Reduction) -> Tensor:
        """Reduce every group of a tensor to one value.

        Args:
            x: Weight of a layer, (out, in, …).
            function: Reduction as ``torch.mean``, ``torch.amax`` or ``torch.sum``: it takes the
                tensor, its dimensions and ``keepdim``.

        Returns:
            The values of the groups, of a shape that broadcasts against ``x``.

        Example:
            >>> import torch
            >>> PerTensor().reduce(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.amax).tolist()
            [[4.0]]
        """
        return function(x, tuple(range(x.dim())), keepdim=True)

    def map(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute one value for every group of a tensor, as `reduce` does.

        Args:
            x: Weight of a layer, (out, in, …).
            function: Function from the groups, (groups, values of a group), to (groups,).

        Returns:
            The values of the groups, of a shape that broadcasts against ``x``.
        """
        return function(x.reshape(1, -1)).reshape((1,) * x.dim())

    def apply(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to the groups of a tensor.

        Args:
            x: Weight of a layer, (out, in, …).
            function: Function from groups, (groups, values of a group), to the same shape. If the
                last groups are short, it is called for them separately.

        Returns:
            The results, shape of ``x``.

        Example:
            >>> import torch
            >>> rows = torch.tensor([[1.0, 2.0, 4.0], [8.0, 4.0, 5.0]])
            >>> PerGroup(2).apply(rows, lambda rows: rows / rows.amax(1, keepdim=True)).tolist()
            [[0.5, 1.0, 1.0], [1.0, 0.5, 1.0]]
        """
        return function(x.reshape(1, -1)).reshape(x.shape)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return the groups of a tensor as the rows of matrices.

        Args:
            x: Weight of a layer, (out, in, …).

        Returns:
            Matrices of shape (groups, values of a group): one, or two if the last groups are short.
        """
        return [x.reshape(1, -1)]

    def groups(self, shape: Size | tuple[int, ...]) -> int:
        """Return the number of groups of a tensor of a shape."""
        return 1

    def __str__(self) -> str:
        return "per_tensor"


@dataclass(frozen=True)
class PerChannel:
    """Each channel of a tensor has a scale of its own.

    Attributes:
        axis: Dimension of the channels. Default: 0, the output channels (filters) of a weight.
    """

    axis: int = 0

    def reduce(self, x: Tensor, function: Reduction) -> Tensor:
        """Reduce every channel to one value; see `PerTensor.reduce`.

        Example:
            >>> import torch
            >>> PerChannel().reduce(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.amax).tolist()
            [[2.0], [4.0]]
        """
        return function(x, tuple(d for d in range(x.dim()) if d != self.axis), keepdim=True)

    def map(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute one value for every channel; see `PerTensor.map`."""
        shape = [length if d == self.axis else 1 for d, length in enumerate(x.shape)]
        return function(self.split(x)[0]).reshape(shape)

    def apply(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to the channels; see `PerTensor.apply`."""
        channels = x.transpose(0, self.axis)
        return function(channels.flatten(1)).reshape(channels.shape).transpose(0, self.axis)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return the channels as the rows of a matrix; see `PerTensor.split`."""
        return [x.transpose(0, self.axis).flatten(1)]

    def groups(self, shape: Size | tuple[int, ...]) -> int:
        """Return the number of channels of a tensor of a shape."""
        return shape[self.axis]

    def __str__(self) -> str:
        return "per_channel" if self.axis == 0 else f"per_channel({self.axis})"


@dataclass(frozen=True)
class PerGroup:
    """Each group of consecutive weights of an output channel has a scale of its own.

    Attributes:
        size: Number of weights of a group, at least 1. The last group of a channel has what is
            left.

    Raises:
        ValueError: The size is below 1.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a group has at least 1 weight, not {self.size}")

    def reduce(self, x: Tensor, function: Reduction) -> Tensor:
        """Reduce every group to one value, repeated over the group; see `PerTensor.reduce`.

        Example:
            >>> import torch
            >>> PerGroup(2).reduce(torch.tensor([[1.0, 2.0, 3.0]]), torch.amax).tolist()
            [[2.0, 2.0, 3.0]]
        """
        return self.map(x, lambda rows: function(rows, (1,)))

    def map(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute one value for every group, repeated over it; see `PerTensor.map`."""
        return self.apply(x, lambda rows: function(rows)[:, None].expand_as(rows))

    def apply(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to the rows of `split`; see `PerTensor.apply`."""
        import torch

        parts = [function(rows).reshape(len(x), -1) for rows in self.split(x)]
        return torch.cat(parts, 1).reshape(x.shape)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return the groups as the rows of two matrices; see `PerTensor.split`."""
        rows = x.flatten(1)
        whole = rows.shape[1] // self.size * self.size
        parts = rows[:, :whole].reshape(-1, self.size), rows[:, whole:]
        return [part for part in parts if part.numel()]

    def groups(self, shape: Size | tuple[int, ...]) -> int:
        """Return the number of groups of a tensor of a shape, short ones included."""
        return shape[0] * -(-math.prod(shape[1:]) // self.size)

    def __str__(self) -> str:
        return f"per_group({self.size})"


Granularity = PerTensor | PerChannel | PerGroup
_TEXT = re.compile(r"per_(?P<kind>channel|group)\((?P<number>\d+)\)", re.ASCII)


def parse_granularity(text: object) -> Granularity:
    """Parse a granularity as a suite gives it.

    Args:
        text: ``per_tensor``, ``per_channel``, ``per_channel(1)`` or ``per_group(64)``; ``layer``
            and ``filter`` stand for the first two. A granularity is returned as it is.

    Raises:
        ValueError: The text is no granularity.

    Example:
        >>> parse_granularity("per_group(64)")
        PerGroup(size=64)
    """
    if isinstance(text, PerTensor | PerChannel | PerGroup):
        return text
    if text in ("per_tensor", "layer"):
        return PerTensor()
    if text in ("per_channel", "filter"):
        return PerChannel()
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        hint = nearest(str(text), ("per_tensor", "per_channel", "layer", "filter"))
        raise ValueError(
            f"{text!r} is no granularity{hint}; write per_tensor, per_channel or per_group(64)"
        )
    number = int(match["number"])
    return PerChannel(number) if match["kind"] == "channel" else PerGroup(number)


def scope_of(granularity: Granularity) -> str:
    """Return a granularity as stored results have it: ``layer``, ``filter`` or its text."""
    return {"per_tensor": "layer", "per_channel": "filter"}.get(str(granularity), str(granularity))


_FROM_TEXT = BeforeValidator(parse_granularity)
_SCHEMA = WithJsonSchema(
    {"type": "string", "pattern": r"^(layer|filter|per_(tensor|channel|group\([1-9]\d*\)))$"}
)
GranularityOption = Annotated[
    Granularity, _FROM_TEXT, PlainSerializer(str, return_type=str), _SCHEMA
]
"""Type of an option that sets the granularity of a method's weights."""

ScopeOption = Annotated[
    Granularity,
    _FROM_TEXT,
    PlainSerializer(scope_of, return_type=str),
    _SCHEMA,
    Field(validation_alias=AliasChoices("scope", "granularity"), serialization_alias="scope"),
]
"""As `GranularityOption`, for methods whose recorded trials call it ``scope``."""
