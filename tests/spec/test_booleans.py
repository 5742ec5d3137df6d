"""True and false are no numbers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from qbench.spec.booleans import check_no_boolean


@pytest.mark.parametrize(
    "annotation",
    [bool, Any, bool | None, list[bool], Annotated[bool, Field()], int | bool, dict[str, Any]],
)
def test_a_boolean_is_taken_where_the_type_has_one(annotation: Any) -> None:
    check_no_boolean(True, annotation)
    check_no_boolean([False], annotation)


@pytest.mark.parametrize(
    "annotation", [int, float, str, int | None, tuple[int, ...], Literal["a"], None]
)
def test_a_boolean_is_refused_where_the_type_has_none(annotation: Any) -> None:
    for value in (True, [1, True], (False,)):
        with pytest.raises(ValueError, match="is no truth value; write a number or a text, not"):
            check_no_boolean(value, annotation)
    check_no_boolean(1, annotation)
