"""Options of methods: check them, fill in their defaults, choose those of a trial's key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import rebuild_dataclass
from pydantic.errors import (
    PydanticInvalidForJsonSchema,
    PydanticUndefinedAnnotation,
    PydanticUserError,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from qbench.errors import QbenchError, nearest
from qbench.registry import method_class
from qbench.spec.booleans import check_no_boolean
from qbench.spec.findings import plain
from qbench.spec.tunable import Tunable

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
    if wrong := [f"{name}: {option}: {text}" for option, text in boolean_problems(name, options)]:
        raise QbenchError("\n".join(wrong))
    try:
        return validate_method(name, options)
    except ValidationError as error:
        known = list(option_fields(name))
        lines = (f"{name}: {_option_problem(found, known)}" for found in error.errors())
        raise QbenchError("\n".join(lines)) from error


def build_paper_method(name: str, options: Mapping[str, Any]) -> Method:
    """Build a method with the options of its paper, `Method.paper_options`.

    Args:
        name: Name of the method.
        options: Options as a suite gives them. They take precedence.

    Raises:
        QbenchError: As `build_method`.
    """
    cls = method_class(name)
    names = {text: key for key, field in _options_of(cls).items() for text in _names(key, field)}
    given = {names.get(key) for key in options}
    own = {key: each for key, each in cls.paper_options.items() if names.get(key) not in given}
    return build_method(name, {**own, **options})


def _names(key: str, field: FieldInfo) -> list[str]:
    """Return the names that an option can be written by."""
    alias = field.validation_alias
    return [key, *map(str, alias.choices if isinstance(alias, AliasChoices) else [alias])]


def validate_method(name: str, options: Mapping[str, Any]) -> Method:
    """Build a method as `build_method` does, and keep the location of each mistake.

    Args:
        name: Name of the method.
        options: Options as a suite gives them. The others have their defaults.

    Raises:
        QbenchError: The method is unknown, or the type of an option is.
        pydantic.ValidationError: An option is unknown, a value is invalid, or the method rejects
            the combination.
    """
    cls = method_class(name)
    try:
        method: Method = TypeAdapter(cls).validate_python(dict(options))
    except (
        PydanticUserError
    ) as error:  # of an installed class; files are checked when they are read
        raise QbenchError(f"{name}: {_first_problem(cls) or error}") from error
    return method


def method_options(method: Method) -> dict[str, Any]:
    """Return all options of a method as JSON values.

    The result is the same for every way to write the options in a suite.

    Args:
        method: The method.
    """
    cls = type(method)
    try:
        options: dict[str, Any] = TypeAdapter(cls).dump_python(
            method, mode="json", include=set(_options_of(cls)), by_alias=True
        )
    except PydanticSerializationError as error:
        raise QbenchError(f"{cls.name}: {_first_problem(cls) or error}") from error
    return options


def quantizes(name: str) -> str:
    """Describe what a method with its default options quantizes, from its declared levels.

    Args:
        name: Name of the method.

    Returns:
        The description, or an empty string if the method has options without defaults.

    Raises:
        QbenchError: The method is unknown.
    """
    try:
        return validate_method(name, {}).describe()
    except ValidationError:
        return ""


def determining_options(method: Method) -> dict[str, Any]:
    """Return the options that are part of a trial's key.

    Args:
        method: The method.

    Returns:
        The options of `method_options` without the `later_options` that have their defaults.
    """
    changed = (
        TypeAdapter(type(method)).dump_python(method, exclude_defaults=True, by_alias=True).keys()
    )
    unchanged = method.later_options - changed
    return {name: value for name, value in method_options(method).items() if name not in unchanged}


def option_fields(name: str) -> dict[str, FieldInfo]:
    """Return the types, bounds and defaults of the options of a method.

    Args:
        name: Name of the method.

    Raises:
        QbenchError: The method is unknown.
    """
    fields = _options_of(method_class(name))
    return {field.serialization_alias or name: field for name, field in fields.items()}


def tunables(name: str) -> dict[str, Tunable]:
    """Return the ranges that a method declares for its options, by option.

    Args:
        name: Name of the method.

    Raises:
        QbenchError: The method is unknown.
    """
    return {
        option: each
        for option, field in option_fields(name).items()
        for each in field.metadata
        if isinstance(each, Tunable)
    }


def boolean_problems(name: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find true and false in place of other options of a method.

    Args:
        name: Name of the method.
        options: Options as a suite gives them.

    Yields:
        The name of an option, and a message.

    Raises:
        QbenchError: The method is unknown.
    """
    for option, field in option_fields(name).items():
        try:
            check_no_boolean(options.get(option), field.annotation)
        except ValueError as error:
            yield option, str(error)


def option_problems(cls: type[Method]) -> Iterator[tuple[str, str]]:
    """Find mistakes in the options of a method's class.

    Args:
        cls: The class.

    Yields:
        The name of an option, or an empty string if all options together are wrong, and a message.
    """
    from qbench.method import Method

    known = {*vars(Method), *Method.__annotations__} - {"granularity", "lr_factor"}
    for name in _options_of(cls):
        if name in known:
            yield (
                name,
                f"is an attribute that every method has; write `{name} = …` without a type, or "
                "give the option another name",
            )
    problems = _type_problems(cls)
    yield from problems
    if not problems:
        yield from _default_problems(cls)


def _first_problem(cls: type[Method]) -> str:
    return next((f"option '{name}': {text}" for name, text in _type_problems(cls)), "")


def _type_problems(cls: type[Method]) -> list[tuple[str, str]]:
    """Find options whose types are not known, not recorded, or not possible in a suite."""
    annotated: dict[str, dataclasses.Field[Any]] = cls.__dict__["__dataclass_fields__"]
    types = {name: str(field.type) for name, field in annotated.items()}
    try:
        rebuild_dataclass(cls)  # type: ignore[arg-type]  # Method makes it a dataclass
    except PydanticUndefinedAnnotation as error:
        uses = [name for name, text in types.items() if re.search(rf"\b{error.name}\b", text)]
        message = (
            f"its type '{error.name}' is not known when the file runs; import it, and not under "
            "`if TYPE_CHECKING:`"
        )
        return [(name, message) for name in uses or [""]]
    found = [
        (name, "an InitVar is not recorded with a trial; leave InitVar out")
        for name, text in types.items()
        if re.match(r"(dataclasses\.)?InitVar\b", text)
    ]
    for name, option in _options_of(cls).items():
        try:
            _json_schema(option.annotation)
        except PydanticInvalidForJsonSchema:
            kind = getattr(option.annotation, "__name__", str(option.annotation))
            advice = "take a number, a text or a list of these"
            if kind == "dtype":
                advice = f'write {name}: Literal["float16", "float32"] = "float32"'
            found.append((name, f"a suite cannot write a value of the type {kind}; {advice}"))
    return found


def _default_problems(cls: type[Method]) -> Iterator[tuple[str, str]]:
    """Find defaults that an option's own type or bounds, or the method, reject."""
    try:
        method_options(TypeAdapter(cls).validate_python({}))
    except ValidationError as error:
        for found in error.errors():
            if found["type"] == "value_error" and not found["loc"]:
                yield "", str(found["ctx"]["error"])
            elif not found["type"].startswith("missing"):
                yield str(found["loc"][0]), f"its default: {plain(found)}"
    except Exception as error:  # of the method's own code
        yield "", f"with the defaults: {type(error).__name__}: {error}"


def _json_schema(annotation: Any) -> None:
    """Make the JSON schema of a type, which raises if a suite cannot write its values."""
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass or a model, which has a configuration of its own
        adapter = TypeAdapter(annotation)
    adapter.json_schema()


def _options_of(cls: type[Method]) -> dict[str, FieldInfo]:
    """Return the fields that are options: not those that ``field(init=False)`` leaves out."""
    fields: dict[str, FieldInfo] = cls.__dict__["__pydantic_fields__"]
    return {name: field for name, field in fields.items() if field.init is not False}


def _option_problem(found: ErrorDetails, known: Sequence[str]) -> str:
    """Describe a mistake in the options of a method, with its location."""
    place = ".".join(map(str, found["loc"]))
    if found["type"] == "value_error":  # of __post_init__, or of an option's own validator
        reason = str(found["ctx"]["error"])
        return f"{place}: {reason}" if place else reason
    if found["type"] == "unexpected_keyword_argument":
        return f"{place}: no such option{nearest(place, known)}"
    return f"{place}: {plain(found)}"
