"""Refuse true and false in place of a number, which pydantic reads as 1 and 0."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ValidationInfo


def check_no_boolean(value: Any, annotation: Any) -> None:
    """Raise ValueError for a boolean, also in a list, where the type takes none.

    Args:
        value: Value to check.
        annotation: Type of the value.
    """
    items = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(item, bool) for item in items) and not _takes_boolean(annotation):
        raise ValueError(f"is no truth value; write a number or a text, not {str(value).lower()}")


def no_boolean(cls: Any, value: Any, info: ValidationInfo) -> Any:
    """Check a field of a pydantic model; for `pydantic.field_validator` with mode ``before``."""
    check_no_boolean(value, cls.model_fields[info.field_name].annotation)
    return value


def _takes_boolean(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_boolean, get_args(annotation)))
