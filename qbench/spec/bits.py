"""Bit-widths in the papers' notation: ``W/A``, as in ``1/32``, ``3(±4)/32``, ``2/2``.

A width is the number of bits of one value. ``k`` alone leaves the levels to the method; most
methods use 2^k levels. ``k(±m)`` fixes the levels to integers (Yang et al., CVPR 2019, Section 4):
all of −m…m if 2^k codes can hold them, otherwise zero and the signed powers of two up to m. So
``3(±2)`` is {−2, −1, 0, 1, 2} and ``3(±4)`` is {−4, −2, −1, 0, 1, 2, 4}.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qbench.spec.words import counted

FLOAT_BITS = 32
_MAX_BITS = 8
_WIDTH = re.compile(r"(?P<bits>\d+)(?:\((?:±|\+-|\+/-)(?P<top>\d+)\))?", re.ASCII)


@dataclass(frozen=True)
class BitWidth:
    """Bit-width of weights or of activations.

    Attributes:
        bits: BitWidths per value, 1 to 8, or 32 for full precision.
        top: Largest integer level m of ``k(±m)``. None if the method chooses its levels.

    Raises:
        ValueError: The bits are out of range, or ±m does not fit into them.

    Example:
        >>> BitWidth.parse("3(±4)").levels
        (-4, -2, -1, 0, 1, 2, 4)
    """

    bits: int
    top: int | None = None

    def __post_init__(self) -> None:
        if self.bits != FLOAT_BITS and not 1 <= self.bits <= _MAX_BITS:
            raise ValueError(
                f"{self.bits} bits: a width is 1 to {_MAX_BITS} bits, or {FLOAT_BITS} for full "
                "precision"
            )
        if self.top is not None and self.levels is None:
            fitting = [top for top in range(1, 2**7 + 1) if _levels(self.bits, top)]
            near = min(fitting, key=lambda top: abs(top - (self.top or 0)), default=None)
            hint = f"; the nearest that does is {self.bits}(±{near})" if near else ""
            bits = counted(self.bits, "bit")
            raise ValueError(f"'{self}': ±{self.top} does not fit into {bits}{hint}")

    @classmethod
    def parse(cls, text: str) -> BitWidth:
        """Parse one side of ``W/A``.

        Args:
            text: ``'2'``, ``'3(±4)'`` or, on a keyboard without ±, ``'3(+-4)'``.

        Raises:
            ValueError: The text is not a bit-width. The message says what is valid.
        """
        match = _WIDTH.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"'{text}' is no bit-width; write one as 2 or 3(±4)")
        top = match["top"]
        return cls(int(match["bits"]), None if top is None else int(top))

    @property
    def is_float(self) -> bool:
        """Whether values of this width keep full precision."""
        return self.bits == FLOAT_BITS

    @property
    def levels(self) -> tuple[int, ...] | None:
        """Integer levels that ``k(±m)`` fixes, ascending. None for a width ``k``."""
        return None if self.top is None else _levels(self.bits, self.top)

    @property
    def count(self) -> int:
        """Number of distinct values that the width allows: 2^k, or the number of fixed levels."""
        return len(self.levels) if self.levels is not None else 2**self.bits

    def __str__(self) -> str:
        return str(self.bits) if self.top is None else f"{self.bits}(±{self.top})"


def _levels(bits: int, top: int) -> tuple[int, ...] | None:
    """Return the levels of ``bits(±top)``, or None if they do not fit."""
    if top < 1 or bits == FLOAT_BITS:
        return None
    if 2 * top + 1 <= 2**bits:
        magnitudes = list(range(1, top + 1))
    elif top & (top - 1) == 0 and 2 * top.bit_length() + 1 <= 2**bits:
        magnitudes = [2**i for i in range(top.bit_length())]
    else:
        return None
    return tuple([-m for m in reversed(magnitudes)] + [0] + magnitudes)


@dataclass(frozen=True)
class BitWidths:
    """Pair ``W/A`` of the bit-widths of weights and activations.

    Attributes:
        weights: Bit-width of weights.
        activations: Bit-width of activations. It has no fixed levels (``top`` is None).

    Example:
        >>> BitWidths.parse("1/32").activations.is_float
        True
        >>> str(BitWidths.parse("3(+-4)/2"))
        '3(±4)/2'
    """

    weights: BitWidth
    activations: BitWidth

    @classmethod
    def parse(cls, text: str) -> BitWidths:
        """Parse ``W/A``.

        Args:
            text: Widths such as ``'1/32'`` or ``'3(±4)/2'``.

        Raises:
            ValueError: The text is not such a pair. The message says what is valid.
        """
        weights, slash, activations = str(text).partition("/")
        if not slash:
            raise ValueError(f"'{text}' is no bit-width pair; write weights/activations as 2/32")
        pair = cls(BitWidth.parse(weights), BitWidth.parse(activations))
        if pair.activations.top is not None:
            raise ValueError(
                f"'{text}': activations follow a ReLU, their levels are 0…2^k−1; write "
                f"{pair.weights}/{pair.activations.bits}"
            )
        return pair

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized (``32/32``)."""
        return self.weights.is_float and self.activations.is_float

    def __str__(self) -> str:
        return f"{self.weights}/{self.activations}"


FULL_PRECISION = BitWidths(BitWidth(FLOAT_BITS), BitWidth(FLOAT_BITS))
