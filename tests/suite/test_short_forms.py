"""Short forms of a suite's file."""

from __future__ import annotations

from typing import Any

import pytest

from qbench.suite.short_forms import row_fields, spelled_out


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"models": "m"}, {"models": ["m"]}),
        ({"bits": "2/2"}, {"bits": ["2/2"]}),
        ({"seeds": 3}, {"seeds": [3]}),
        ({"methods": "lsq"}, {"methods": ["lsq"]}),
        ({"recipe": "paper"}, {"recipe": {"name": "paper"}}),
        ({"recipe": {"lr": 1}}, {"recipe": {"name": "aligned", "changes": {"lr": 1}}}),
        ({"published": {"paper": "p"}}, {"published": [{"paper": "p"}]}),
        (
            {"models": ["a", "b"], "weights": "torchvision"},
            {"models": ["a", "b"], "weights": {"a": "torchvision", "b": "torchvision"}},
        ),
        ({"seeds": "x", "models": 3}, {"seeds": "x", "models": 3}),  # the schema refuses these
    ],
)
def test_a_short_form_is_spelled_out(short: dict[str, Any], long: dict[str, Any]) -> None:
    before = dict(short)
    assert spelled_out(short) == long
    assert short == before


@pytest.mark.parametrize(
    ("entry", "fields"),
    [
        ("lsq", {"method": "lsq"}),
        ({"lsq": None}, {"method": "lsq", "options": {}}),
        (
            {"lsq": {"a": 1}, "label": "L", "bits": ["2/2"]},
            {"method": "lsq", "options": {"a": 1}, "label": "L", "bits": ["2/2"]},
        ),
        ({"lsq": {}, "pact": {}}, None),
        ({"label": "L"}, None),
        (3, None),
    ],
)
def test_an_entry_of_methods_is_a_row(entry: object, fields: dict[str, Any] | None) -> None:
    assert row_fields(entry) == fields
