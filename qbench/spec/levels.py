"""Level sets: which values a quantized tensor can have, declared by a method.

A declaration is a family of level sets, one for each bit-width that it contains. What qbench says
about a method follows from it: the bit-widths that it supports, the number of levels that the audit
promises, and the packed size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qbench.spec.bits import BitWidth
from qbench.spec.granularity import Granularity, PerTensor

Codes = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Levels:
    """A family of level sets. Two families are joined by ``|``: ``Binary() | Integers()``.

    A quantized value is ``scale × code``, and with an offset ``scale × code + offset``.

    Attributes:
        bits: Bit-widths that the family contains, ascending.
        granularity: Values that share their levels. Default: those of a tensor. A method with an
            option ``granularity`` overrides it.
        scales: Numbers of 32 bits from which the levels of a group are computed: 0 if they are
            constants, 1 for a scale, 2 for a scale and an offset or two scales.
        offset: Whether levels may be shifted as a whole.
        required: Whether the tensor must be quantized: full precision is not supported.
    """

    bits: Sequence[int] = range(1, 9)
    granularity: Granularity = field(default_factory=PerTensor)
    scales: int = 1
    offset: bool = False
    required: bool = False

    @property
    def about(self) -> str:
        """Description of the levels in a few words, for tables and messages."""
        raise NotImplementedError

    def codes(self, width: BitWidth) -> Codes | None:
        """Return the levels up to scale and offset, ascending. None if they are learned.

        Args:
            width: A bit-width that the family contains.
        """
        return None

    def count(self, width: BitWidth) -> int:
        """Return the number of levels of a group at a bit-width that the family contains."""
        codes = self.codes(width)
        return 2**width.bits if codes is None else len(codes)

    def numbers(self, width: BitWidth) -> int:
        """Return how many 32-bit numbers a group's levels are computed from."""
        return self.scales

    def contains(self, width: BitWidth) -> bool:
        """Return whether the family has a level set for a bit-width, full precision aside."""
        return width.bits in self.bits and self.accepts_named(width)

    def accepts_named(self, width: BitWidth) -> bool:
        """Return whether the levels that ``k(±m)`` names, if it does, are those of the family."""
        return width.top is None

    def family_of(self, width: BitWidth) -> Levels | None:
        """Return the family that contains a bit-width: this one, or one of those joined."""
        return self if self.contains(width) else None

    def families(self) -> tuple[Levels, ...]:
        """Return the families that are joined."""
        return (self,)

    def refusal(self, width: BitWidth, tensors: str) -> str | None:
        """Return why a bit-width is not supported, or None.

        Args:
            width: The bit-width.
            tensors: ``weights`` or ``activations``, for the sentence.
        """
        families = self.families()
        if width.is_float:
            all_bits = {k for family in families for k in family.bits}
            return _have(tensors, all_bits) if self.required else None
        if self.family_of(width) is not None:
            return None
        for family in families:
            if width.bits in family.bits:
                return f"its {tensors} are {family.about}, not the levels of {width}"
        return _have(tensors, {k for family in families for k in family.bits})

    def with_granularity(self, granularity: Granularity) -> Levels:
        """Return the family with another granularity."""
        return dataclasses.replace(self, granularity=granularity)

    def __or__(self, other: Levels) -> Levels:
        parts = self.families() + other.families()
        return AnyOf(parts=parts, required=any(part.required for part in parts))


@dataclass(frozen=True, kw_only=True)
class AnyOf(Levels):
    """Families that are joined; the first that contains a bit-width applies.

    Attributes:
        parts: The families.
    """

    parts: tuple[Levels, ...]

    def families(self) -> tuple[Levels, ...]:
        """Return the families that are joined."""
        return self.parts

    def family_of(self, width: BitWidth) -> Levels | None:
        """Return the first family that contains a bit-width."""
        return next((part for part in self.parts if part.contains(width)), None)

    def with_granularity(self, granularity: Granularity) -> Levels:
        """Return the families with another granularity."""
        parts = tuple(part.with_granularity(granularity) for part in self.parts)
        return dataclasses.replace(self, parts=parts)


@dataclass(frozen=True, kw_only=True)
class Binary(Levels):
    """−1 and +1, times a scale unless ``scales=0``.

    Example:
        >>> Binary().codes(BitWidth(1))
        (-1.0, 1.0)
    """

    bits: Sequence[int] = (1,)

    about = "binary"

    def codes(self, width: BitWidth) -> Codes:
        """Return −1 and +1."""
        return (-1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Ternary(Levels):
    """−1, 0 and +1, times a scale. With ``scales=2`` each sign has a scale of its own."""

    bits: Sequence[int] = (2,)

    @property
    def about(self) -> str:
        """Description of the levels."""
        return "ternary" if self.scales < 2 else "ternary with two scales"

    def codes(self, width: BitWidth) -> Codes | None:
        """Return −1, 0 and +1; None if there are two scales."""
        return (-1.0, 0.0, 1.0) if self.scales < 2 else None

    def count(self, width: BitWidth) -> int:
        """Return 3."""
        return 3

    def accepts_named(self, width: BitWidth) -> bool:
        """Accept ``2(±1)``, unless each sign has a scale of its own."""
        return width.top is None or (width.top == 1 and self.scales < 2)


@dataclass(frozen=True, kw_only=True)
class Integers(Levels):
    """Consecutive integers, zero among them.

    Attributes:
        signed: Whether codes have both signs. Unsigned codes are 0…2^k − 1; where the data have
            negative values, a quantizer may use as many signed ones.
        symmetric: Whether the code −2^(k−1) is not used, so that there are 2^k − 1.
        named: Whether ``k(±m)`` with m = 2^(k−1) − 1 is supported, which names symmetric codes.

    Example:
        >>> Integers(symmetric=True).codes(BitWidth(2))
        (-1.0, 0.0, 1.0)
    """

    bits: Sequence[int] = range(2, 9)
    signed: bool = True
    symmetric: bool = False
    named: bool = False

    @property
    def about(self) -> str:
        """Description of the levels."""
        if not self.signed:
            return "integers from 0"
        return "symmetric integers" if self.symmetric else "signed integers"

    def codes(self, width: BitWidth) -> Codes:
        """Return the integers."""
        if not self.signed:
            return tuple(map(float, range(2**width.bits)))
        top = 2 ** (width.bits - 1) - 1
        least = -top if self.symmetric or width.top is not None else -top - 1
        return tuple(map(float, range(least, top + 1)))

    def accepts_named(self, width: BitWidth) -> bool:
        """Accept ``k(±m)`` with m = 2^(k−1) − 1 if `named`."""
        return width.top is None or (self.named and width.top == 2 ** (width.bits - 1) - 1)


@dataclass(frozen=True, kw_only=True)
class Uniform(Levels):
    """2^k evenly spaced values, of which zero need not be one."""

    scales: int = 2

    about = "2^k evenly spaced values"

    def codes(self, width: BitWidth) -> Codes:
        """Return odd numbers from −(2^k − 1) to 2^k − 1, which are symmetric around zero."""
        top = 2**width.bits - 1
        return tuple(map(float, range(-top, top + 1, 2)))


@dataclass(frozen=True, kw_only=True)
class PowersOfTwo(Levels):
    """Zero and 2^(k−2) signed powers of two of each sign, so 2^(k−1) + 1 levels."""

    bits: Sequence[int] = range(2, 9)

    about = "powers of two and zero"

    def codes(self, width: BitWidth) -> Codes:
        """Return zero and the powers of two, the largest being 1."""
        powers = [2.0**-i for i in range(2 ** (width.bits - 2))]
        return tuple(sorted([-p for p in powers] + [0.0] + powers))

    def accepts_named(self, width: BitWidth) -> bool:
        """Accept ``k(±m)`` if it names the same powers."""
        return width.top in (None, 2 ** (2 ** (width.bits - 2) - 1))


@dataclass(frozen=True, kw_only=True)
class SumsOfPowersOfTwo(Levels):
    """Sums of powers of two, as in APoT: 2^k − 1 signed ones, or 2^k from zero.

    Attributes:
        signed: Whether levels have both signs.
    """

    signed: bool = True

    about = "sums of powers of two"

    def count(self, width: BitWidth) -> int:
        """Return the number of sums."""
        return 2**width.bits - self.signed

    def numbers(self, width: BitWidth) -> int:
        """Return the number of levels, which a scale gives only up to rounding."""
        return self.count(width)

    def accepts_named(self, width: BitWidth) -> bool:
        """Accept ``2(±1)``, which are the sums of 2 bits."""
        return width.top is None or (width.bits, width.top) == (2, 1)


@dataclass(frozen=True, kw_only=True)
class Learned(Levels):
    """2^k values that are learned or fitted.

    Attributes:
        basis: Whether they are sums of k learned numbers. If not, each is a number of its own.
    """

    basis: bool = False

    about = "learned levels"

    def numbers(self, width: BitWidth) -> int:
        """Return 2^k: the levels themselves, which sums of a basis give only up to rounding."""
        return 2**width.bits


@dataclass(frozen=True, kw_only=True)
class BinaryBases(Levels):
    """Sums of k scaled binary bases whose thresholds are in order: k + 1 levels."""

    about = "sums of k binary bases"

    def count(self, width: BitWidth) -> int:
        """Return k + 1."""
        return width.bits + 1

    def numbers(self, width: BitWidth) -> int:
        """Return k + 1: the levels themselves, which sums of scales give only up to rounding."""
        return self.count(width)


@dataclass(frozen=True, kw_only=True)
class Fixed(Levels):
    """Given values, at every bit-width that can hold them.

    Attributes:
        values: The levels, ascending, up to a scale.
    """

    values: Codes

    @property
    def about(self) -> str:
        """Description of the levels."""
        return f"{len(self.values)} given levels"

    def codes(self, width: BitWidth) -> Codes:
        """Return the values."""
        return self.values

    def contains(self, width: BitWidth) -> bool:
        """Return whether a bit-width can hold the values."""
        return super().contains(width) and len(self.values) <= 2**width.bits


@dataclass(frozen=True, kw_only=True)
class Named(Levels):
    """The integers that ``k(±m)`` names, as ``3(±4)`` does: −4, −2, −1, 0, 1, 2, 4.

    Attributes:
        default: What a width without ±m stands for: ``symmetric`` integers, or ``none``.
    """

    bits: Sequence[int] = range(2, 9)
    default: Literal["symmetric", "none"] = "none"

    about = "levels that ± names"

    def codes(self, width: BitWidth) -> Codes:
        """Return the levels that the width names."""
        if width.levels is not None:
            return tuple(map(float, width.levels))
        return Integers(symmetric=True).codes(width)

    def accepts_named(self, width: BitWidth) -> bool:
        """Accept any ``k(±m)``, and ``k`` alone if it has a default."""
        return width.top is not None or self.default == "symmetric"


def describe_levels(levels: Levels | None) -> str:
    """Describe declared levels in a few words: ``1 bit (binary), 2 to 8 bits (integers)``."""
    if levels is None:
        return ""
    return ", ".join(f"{_bits(part.bits)} ({part.about})" for part in levels.families())


def _have(tensors: str, bits: Iterable[int]) -> str:
    return f"its {tensors} have {_bits(sorted(bits))}"


def _bits(bits: Sequence[int]) -> str:
    """Return bit-widths as text: ``1 bit``, ``1 or 2 bits``, ``2 to 8 bits``."""
    if list(bits) == [1]:
        return "1 bit"
    if len(bits) > 2 and list(bits) == list(range(bits[0], bits[-1] + 1)):
        return f"{bits[0]} to {bits[-1]} bits"
    if len(bits) == 1:
        return f"{bits[0]} bits"
    return f"{', '.join(map(str, bits[:-1]))} or {bits[-1]} bits"
