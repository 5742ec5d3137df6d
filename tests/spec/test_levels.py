"""Declared levels: the bit-widths they contain, how many levels there are, what they store."""

from __future__ import annotations

import pytest

from qbench.spec.bits import BitWidth
from qbench.spec.granularity import PerChannel, PerGroup
from qbench.spec.levels import (
    Binary,
    BinaryBases,
    Fixed,
    Integers,
    Learned,
    Levels,
    Named,
    PowersOfTwo,
    SumsOfPowersOfTwo,
    Ternary,
    Uniform,
    describe_levels,
)

JOINED = Binary() | Integers(symmetric=True)


@pytest.mark.parametrize(
    ("levels", "width", "codes"),
    [
        (Binary(), "1", (-1, 1)),
        (Ternary(), "2", (-1, 0, 1)),
        (Ternary(), "2(±1)", (-1, 0, 1)),
        (Integers(), "3", (-4, -3, -2, -1, 0, 1, 2, 3)),
        (Integers(symmetric=True), "3", (-3, -2, -1, 0, 1, 2, 3)),
        (Integers(named=True), "3(±3)", (-3, -2, -1, 0, 1, 2, 3)),
        (Integers(signed=False), "2", (0, 1, 2, 3)),
        (Uniform(), "1", (-1, 1)),
        (Uniform(), "2", (-3, -1, 1, 3)),
        (PowersOfTwo(), "3", (-1, -0.5, 0, 0.5, 1)),
        (Named(), "3(±4)", (-4, -2, -1, 0, 1, 2, 4)),
        (Named(default="symmetric"), "2", (-1, 0, 1)),
        (Fixed(values=(-2.0, 0.0, 1.0)), "2", (-2, 0, 1)),
    ],
)
def test_fixed_levels_are_those_of_the_definition(
    levels: Levels, width: str, codes: tuple[float, ...]
) -> None:
    parsed = BitWidth.parse(width)
    assert levels.contains(parsed)
    assert levels.codes(parsed) == codes
    assert levels.count(parsed) == len(codes)


@pytest.mark.parametrize(
    ("levels", "width", "count"),
    [
        (Ternary(scales=2), "2", 3),
        (SumsOfPowersOfTwo(), "2", 3),
        (SumsOfPowersOfTwo(), "4", 15),
        (SumsOfPowersOfTwo(signed=False), "4", 16),
        (Learned(), "3", 8),
        (BinaryBases(), "3", 4),
    ],
)
def test_learned_levels_are_counted(levels: Levels, width: str, count: int) -> None:
    assert levels.codes(BitWidth.parse(width)) is None
    assert levels.count(BitWidth.parse(width)) == count


@pytest.mark.parametrize(
    ("levels", "width", "reason"),
    [
        (Binary(), "2", "its weights have 1 bit"),
        (Binary(required=True), "32", "its weights have 1 bit"),
        (Ternary(), "3", "its weights have 2 bits"),
        (Ternary(scales=2), "2(±1)", "are ternary with two scales, not the levels of 2(±1)"),
        (Integers(), "1", "its weights have 2 to 8 bits"),
        (Integers(named=True), "3(±4)", "are signed integers, not the levels of 3(±4)"),
        (Uniform(bits=(2, 4)), "3", "its weights have 2 or 4 bits"),
        (Named(), "3", "are levels that ± names, not the levels of 3"),
        (Fixed(values=(-2.0, 0.0, 1.0)), "1", "are 3 given levels, not the levels of 1"),
        (JOINED, "3(±4)", "are symmetric integers, not the levels of 3(±4)"),
        (Binary(required=True) | Ternary(), "32", "its weights have 1 or 2 bits"),
    ],
)
def test_a_width_that_is_not_contained_is_refused_with_a_reason(
    levels: Levels, width: str, reason: str
) -> None:
    assert reason in (levels.refusal(BitWidth.parse(width), "weights") or "")


@pytest.mark.parametrize("width", ["1", "2", "8", "32"])
def test_joined_families_accept_what_one_of_them_contains(width: str) -> None:
    assert JOINED.refusal(BitWidth.parse(width), "weights") is None


def test_the_first_family_that_contains_a_width_applies() -> None:
    levels = Binary(granularity=PerChannel()) | Integers() | Named()
    assert levels.family_of(BitWidth(1)) == Binary(granularity=PerChannel())
    assert levels.family_of(BitWidth(3)) == Integers()
    assert levels.family_of(BitWidth(3, 4)) == Named()
    assert levels.family_of(BitWidth(32)) is None


def test_an_option_changes_the_granularity_of_every_family() -> None:
    levels = JOINED.with_granularity(PerGroup(16))
    assert {part.granularity for part in levels.families()} == {PerGroup(16)}
    assert levels.refusal(BitWidth(9 - 1), "weights") is None


@pytest.mark.parametrize(
    ("levels", "numbers"),
    [
        (Binary(scales=0), 0),
        (Binary(), 1),
        (Uniform(), 2),
        (Learned(), 16),
        (Learned(basis=True), 16),
        (BinaryBases(), 5),
        (SumsOfPowersOfTwo(), 15),
    ],
)
def test_a_group_stores_the_numbers_that_its_levels_are_computed_from(
    levels: Levels, numbers: int
) -> None:
    assert levels.numbers(BitWidth(4)) == numbers


def test_levels_are_described_in_a_few_words() -> None:
    assert describe_levels(JOINED) == "1 bit (binary), 2 to 8 bits (symmetric integers)"
    assert describe_levels(None) == ""
