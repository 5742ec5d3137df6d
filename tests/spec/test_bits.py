from __future__ import annotations

import re

import pytest

from qbench.spec.bits import BitWidth, BitWidths


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("3(±2)", (-2, -1, 0, 1, 2)),
        ("3(±4)", (-4, -2, -1, 0, 1, 2, 4)),
        ("3(+-4)", (-4, -2, -1, 0, 1, 2, 4)),
        ("2(±1)", (-1, 0, 1)),
        ("5(±15)", tuple(range(-15, 16))),
        ("2", None),
    ],
)
def test_a_width_names_its_levels(text: str, levels: tuple[int, ...] | None) -> None:
    assert BitWidth.parse(text).levels == levels


@pytest.mark.parametrize(
    ("text", "count"), [("1", 2), ("2", 4), ("3", 8), ("3(±2)", 5), ("3(±4)", 7)]
)
def test_a_width_allows_so_many_values(text: str, count: int) -> None:
    assert BitWidth.parse(text).count == count


@pytest.mark.parametrize("text", ["1/32", "2/2", "3(±4)/32", "5(±15)/8", "32/32"])
def test_a_pair_is_written_as_it_is_read(text: str) -> None:
    assert str(BitWidths.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2", "write weights/activations as 2/32"),
        ("9/32", "1 to 8 bits"),
        ("0/32", "1 to 8 bits"),
        ("two/32", "'two' is no bit-width"),
        ("3(±7)/32", "the nearest that does is 3(±4)"),
        ("2/3(±4)", "write 2/3"),
        ("2/2/2", "no bit-width"),
        ("-1/32", "no bit-width"),
    ],
)
def test_what_is_no_width_is_refused_with_advice(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BitWidths.parse(text)
