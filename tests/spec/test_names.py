"""Names of methods, models and datasets."""

from __future__ import annotations

import pytest

from qbench.spec.names import snake_case, unfit


@pytest.mark.parametrize("name", ["lsq", "LSQ", "my_method", "my-method", "v1.2", "a" * 64])
def test_a_name_that_a_suite_can_use(name: str) -> None:
    assert unfit(name) == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *[("", "is no name"), ("1st", "is no name"), ("a b", "is no name"), ("a/b", "is no name")],
        *[("ü", "is no name"), ("a" * 65, "is no name"), (3, "is no name"), (None, "is no name")],
        *[
            ("no", "is a word of YAML"),
            ("Null", "is a word of YAML"),
            ("bits", "is a key of a row"),
        ],
    ],
)
def test_a_name_that_a_suite_cannot_use(name: object, reason: str) -> None:
    assert unfit(name).startswith(reason)


@pytest.mark.parametrize(
    ("cls", "name"), [("LSQ", "lsq"), ("MyMethod", "my_method"), ("OddOrEven", "odd_or_even")]
)
def test_a_class_is_named_in_snake_case(cls: str, name: str) -> None:
    assert snake_case(cls) == name
