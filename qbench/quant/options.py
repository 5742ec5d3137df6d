"""Options of methods: check them, fill in their defaults, choose those of a trial's key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from qbench.errors import QbenchError, nearest
from qbench.registry import method_class

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from qbench.method import Method


def build_method(name: str, options: Mapping[str, Any]) -> Method:
    """Build a method from its name and options.

    Args:
        name: Name of the method.
        options: Options as a suite gives them. The others have their defaults.

    Raises:
        QbenchError: The method or an option is unknown, a value is invalid, or the method rejects
            the combination.
    """
    try:
        return validate_method(name, options)
    except ValidationError as error:
        known = list(option_fields(name))
        lines = (f"{name}: {_option_problem(found, known)}" for found in error.errors())
        raise QbenchError("\n".join(lines)) from error


def validate_method(name: str, options: Mapping[str, Any]) -> Method:
    """Build a method as `build_method` does, and keep the location of each mistake.

    Args:
        name: Name of the method.
        options: Options as a suite gives them. The others have their defaults.

    Raises:
        QbenchError: The method is unknown.
        pydantic.ValidationError: An option is unknown, a value is invalid, or the method rejects
            the combination.
    """
    method: Method = TypeAdapter(method_class(name)).validate_python(dict(options))
    return method


def method_options(method: Method) -> dict[str, Any]:
    """Return all options of a method as JSON values.

    The result is the same for every way to write the options in a suite.

    Args:
        method: The method.
    """
    options: dict[str, Any] = TypeAdapter(type(method)).dump_python(method, mode="json")
    return options


def determining_options(method: Method) -> dict[str, Any]:
    """Return the options that are part of a trial's key.

    Args:
        method: The method.

    Returns:
        The options of `method_options` without the `later_options` that have their defaults.
    """
    changed = TypeAdapter(type(method)).dump_python(method, exclude_defaults=True).keys()
    unchanged = method.later_options - changed
    return {name: value for name, value in method_options(method).items() if name not in unchanged}


def option_fields(name: str) -> dict[str, FieldInfo]:
    """Return the types, bounds and defaults of the options of a method.

    Args:
        name: Name of the method.

    Raises:
        QbenchError: The method is unknown.
    """
    cls: Any = method_class(name)
    fields: dict[str, FieldInfo] = cls.__pydantic_fields__
    return fields


def _option_problem(found: ErrorDetails, known: Sequence[str]) -> str:
    """Describe a mistake in the options of a method, with its location."""
    if found["type"] == "value_error":  # of __post_init__
        return str(found["ctx"]["error"])
    place = ".".join(map(str, found["loc"]))
    if found["type"] == "unexpected_keyword_argument":
        return f"{place}: no such option{nearest(place, known)}"
    return f"{place}: {found['msg']}, not {found['input']!r}"
