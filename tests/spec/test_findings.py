from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from qbench.spec.findings import plain


class Side(Enum):
    """A choice."""

    LEFT = "left"
    RIGHT = "right"


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (float, "x", "must be a number, not 'x'"),
        (int, "x", "must be a whole number, not 'x'"),
        (int, 1.5, "must be a whole number, not 1.5"),
        (int, [1], "must be a whole number, not [1]"),
        (bool, "perhaps", "must be true or false, not 'perhaps'"),
        (str, 3, "must be a text, not 3"),
        (list[int], 3, "must be a list, not 3"),
        (dict[str, int], 3, "must be a mapping, not 3"),
        (Annotated[float, Field(gt=0)], 0, "must be greater than 0, not 0"),
        (Annotated[float, Field(ge=0.5)], 0, "must be at least 0.5, not 0"),
        (Annotated[int, Field(lt=3)], 3, "must be less than 3, not 3"),
        (Annotated[int, Field(le=3)], 4, "must be at most 3, not 4"),
        (Literal["layer", "filter"], "fliter", "'fliter' is not one; did you mean 'filter'?"),
        (Literal[28, 14], 7, "must be 28 or 14, not 7"),
        (Annotated[list[int], Field(min_length=2)], [1], "must have at least 2 values, not [1]"),
        (tuple[int], [1, 2], "must have at most 1 value, not [1, 2]"),
        (tuple[int, int], [1], "is missing from [1]"),
        (Annotated[str, Field(max_length=2)], "abc", "must have at most 2 characters, not 'abc'"),
        (Side, "up", "must be 'left' or 'right', not 'up'"),
    ],
)
def test_a_finding_says_what_would_be_valid(annotation: Any, value: object, text: str) -> None:
    with pytest.raises(ValidationError) as error:
        TypeAdapter(annotation).validate_python(value)
    assert [plain(found) for found in error.value.errors()] == [text]
