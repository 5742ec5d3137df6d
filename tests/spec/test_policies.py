"""Layer policies: the widths that they ask of a method."""

from __future__ import annotations

import pytest

from qbench.spec.bits import BitWidths
from qbench.spec.policies import LayerPolicy, end_widths, policy_widths


@pytest.mark.parametrize(
    ("policy", "widths"),
    [
        ("skip_first_last", ["2/4"]),
        ("all", ["2/4"]),
        ("all_but_image", ["2/4"]),  # an end may stay at full precision, whatever is required
        ("first_last_8bit", ["2/4", "8/8"]),
        ("first_last_8bit_weights", ["2/4", "8/32"]),
        (["3", "7"], ["2/4"]),
        ({"3": "2/2", "7": "8/8", "9": "2/2"}, ["2/2", "8/8"]),
    ],
)
def test_a_policy_asks_for_widths_once(policy: LayerPolicy, widths: list[str]) -> None:
    assert list(map(str, policy_widths(policy, BitWidths.parse("2/4")))) == widths


@pytest.mark.parametrize(
    ("policy", "bits", "first", "last"),
    [
        ("skip_first_last", "2/4", "32/32", "32/32"),
        ("all", "2/4", "2/4", "2/4"),
        ("all_but_image", "1/1", "1/32", "1/1"),
        ("all_but_image", "32/2", "32/32", "32/2"),
        ("first_last_8bit", "2/32", "8/32", "8/32"),
        ("first_last_8bit", "32/4", "32/8", "32/8"),
        ("first_last_8bit", "1/1", "8/8", "8/8"),
        ("first_last_8bit_weights", "2/2", "8/32", "8/32"),
        ("first_last_8bit_weights", "32/2", "32/32", "32/32"),
    ],
)
def test_a_policy_sets_the_widths_of_the_ends(
    policy: str, bits: str, first: str, last: str
) -> None:
    assert tuple(map(str, end_widths(policy, BitWidths.parse(bits)))) == (first, last)
