"""Layer policies: the widths that they ask of a method."""

from __future__ import annotations

import pytest

from qbench.spec.bits import BitWidths
from qbench.spec.policies import LayerPolicy, eight_bits, policy_widths


@pytest.mark.parametrize(
    ("policy", "widths"),
    [
        ("skip_first_last", ["2/4"]),
        ("all", ["2/4"]),
        ("first_last_8bit", ["2/4", "8/8"]),
        (["3", "7"], ["2/4"]),
        ({"3": "2/2", "7": "8/8", "9": "2/2"}, ["2/2", "8/8"]),
    ],
)
def test_a_policy_asks_for_widths_once(policy: LayerPolicy, widths: list[str]) -> None:
    assert list(map(str, policy_widths(policy, BitWidths.parse("2/4")))) == widths


@pytest.mark.parametrize(("bits", "eight"), [("2/32", "8/32"), ("32/4", "32/8"), ("1/1", "8/8")])
def test_what_is_quantized_gets_eight_bits(bits: str, eight: str) -> None:
    assert str(eight_bits(BitWidths.parse(bits))) == eight
