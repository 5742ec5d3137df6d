"""Names to methods, models and datasets: built in, installed, or in a file given by path.

Everything is found through entry points, qbench's own parts included: the groups
``qbench.methods``, ``qbench.models`` and ``qbench.datasets``. A method may also come from a file.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError, validate_call
from pydantic.fields import FieldInfo

from qbench.errors import QbenchError, nearest
from qbench.spec.recipe import Recipe

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from torch import nn

    from qbench.data import Dataset
    from qbench.method import Method

Kind = Literal["methods", "models", "datasets"]
_plugin_methods: dict[str, type[Method]] = {}
_plugins: dict[str, Plugin] = {}


@dataclass(frozen=True)
class Plugin:
    """A method file: its name for messages, and its text, so that it can travel to other nodes.

    Attributes:
        path: where the user has it.
        source: its Python text.
    """

    path: str
    source: str

    @classmethod
    def read(cls, path: Path) -> Plugin:
        """Read a method file.

        Raises:
            QbenchError: there is no such file, or it is no text.
        """
        try:
            return cls(str(path), path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise QbenchError(f"{path}: cannot read this method file: {reason}") from error


def load_plugin(plugin: Plugin) -> list[str]:
    """Run a method file and register the methods it defines.

    Args:
        plugin: the file.

    Returns:
        The names of its methods, in the order in which the file defines them.

    Raises:
        QbenchError: the file fails to import, defines no method, or takes a built-in's name.
    """
    from qbench.method import Method

    digest = hashlib.sha256(plugin.source.encode()).hexdigest()[:12]
    module = types.ModuleType(f"qbench_plugin_{Path(plugin.path).stem}_{digest}")
    module.__file__ = plugin.path
    sys.modules[module.__name__] = module
    lines = plugin.source.splitlines(keepends=True)
    linecache.cache[plugin.path] = (len(plugin.source), None, lines, plugin.path)
    try:
        exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)  # noqa: S102
    except Exception as error:
        line = _line_in(error, plugin.path)
        raise QbenchError(f"{plugin.path}{line}: {_reason(error)}") from error
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if not found:
        raise QbenchError(f"{plugin.path}: defines no subclass of qbench.method.Method")
    for cls in found:
        if cls.name in _entry_points("methods"):
            raise QbenchError(
                f"{plugin.path}: '{cls.name}' is the name of an installed method; give the class "
                'another, as in `name = "my_method"`'
            )
        _plugin_methods[cls.name] = cls
    _plugins[plugin.path] = plugin
    return [cls.name for cls in found]


def plugins() -> list[Plugin]:
    """Return the method files that were loaded, for other processes to load."""
    return list(_plugins.values())


def names(kind: Kind) -> list[str]:
    """Every known name of a kind, sorted; of models, torchvision's are not among them."""
    plugins = list(_plugin_methods) if kind == "methods" else []
    return sorted([*_entry_points(kind), *plugins])


def package(kind: Kind, name: str) -> str:
    """Return the name of the installed package that provides an object."""
    distribution = _entry_points(kind)[name].dist
    return distribution.name if distribution is not None else "unknown"


def method_class(name: str) -> type[Method]:
    """Return the method class of a name.

    Raises:
        QbenchError: no method has it; the message names the nearest.
    """
    if name in _plugin_methods:
        return _plugin_methods[name]
    cls: type[Method] = _load("methods", name)
    return cls


def method_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check a method's options and fill in its defaults.

    Args:
        name: the method.
        options: as a suite gives them.

    Returns:
        Every option of the method, as JSON has it: the same for every way to write it.

    Raises:
        QbenchError: no such method.
        pydantic.ValidationError: an option is unknown or has a wrong value, or the method refuses
            their combination.
    """
    options_of = TypeAdapter(method_class(name))
    found: dict[str, Any] = options_of.dump_python(
        options_of.validate_python(dict(options)), mode="json"
    )
    return found


def determining_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are part of a trial's key.

    Args:
        name: name of the method.
        options: as a suite gives them.

    Returns:
        As `method_options`, without the method's `later_options` that have their defaults.

    Raises:
        QbenchError: As `method_options`.
        pydantic.ValidationError: As `method_options`.
    """
    options_of = TypeAdapter(method_class(name))
    checked = options_of.validate_python(dict(options))
    changed = options_of.dump_python(checked, exclude_defaults=True).keys()
    unchanged = method_class(name).later_options - changed
    complete = options_of.dump_python(checked, mode="json")
    return {option: value for option, value in complete.items() if option not in unchanged}


def option_fields(name: str) -> dict[str, FieldInfo]:
    """Return the options of a method: their types, bounds and defaults.

    Raises:
        QbenchError: no such method.
    """
    cls: Any = method_class(name)
    fields: dict[str, FieldInfo] = cls.__pydantic_fields__
    return fields


def build_method(name: str, options: Mapping[str, Any]) -> Method:
    """Build a method from its name and options.

    Raises:
        QbenchError: the method or an option is unknown, or a value is refused.
    """
    try:
        return TypeAdapter(method_class(name)).validate_python(dict(options))
    except ValidationError as error:
        known = list(option_fields(name))
        lines = (f"{name}: {_option_problem(found, known)}" for found in error.errors())
        raise QbenchError("\n".join(lines)) from error


def _option_problem(found: ErrorDetails, known: Sequence[str]) -> str:
    """Say where in a method's options a mistake is, and what it is."""
    if found["type"] == "value_error":  # of __post_init__
        return str(found["ctx"]["error"])
    place = ".".join(map(str, found["loc"]))
    if found["type"] == "unexpected_keyword_argument":
        return f"{place}: no such option{nearest(place, known)}"
    return f"{place}: {found['msg']}, not {found['input']!r}"


def build_dataset(name: str, options: Mapping[str, Any] | None = None) -> Dataset:
    """Build a dataset from its name; its data need not be there.

    Args:
        name: as in a suite.
        options: a suite's ``data``: ``root``, and what else the dataset takes.

    Raises:
        QbenchError: no dataset has the name, or an option is unknown or has a wrong value; the
            message names the nearest.
    """
    cls = _load("datasets", name)
    given = dict(options or {})
    known = dataset_options(name)
    for option in given:
        if option not in known:
            raise QbenchError(f"{name}: no option '{option}' of data{nearest(option, known)}")
    try:
        dataset: Dataset = cls.__new__(cls)
        validate_call(cls.__init__)(dataset, **given)
    except ValidationError as error:
        raise QbenchError(
            "\n".join(
                f"{name}: data.{'.'.join(map(str, e['loc']))}: {e['msg']}, not {e['input']!r}"
                for e in error.errors()
            )
        ) from error
    return dataset


def dataset_options(name: str) -> list[str]:
    """Return the options that a dataset takes."""
    return list(inspect.signature(_load("datasets", name)).parameters)


def build_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Build a model, randomly initialised: a registered one, else torchvision's of that name.

    Args:
        name: as in a suite.
        num_classes: size of its output.
        in_channels: channels of its input images. torchvision's models take three; a grey image
            is repeated.

    Raises:
        QbenchError: no model has the name; the message names the nearest.
    """
    if name in _entry_points("models"):
        model: nn.Module = _load("models", name)(num_classes=num_classes, in_channels=in_channels)
        return model
    from qbench.models import torchvision_model

    return torchvision_model(name, num_classes, in_channels)


def check_model_name(name: str) -> None:
    """Raise QbenchError, with the nearest name, where no model has this one."""
    if name not in _entry_points("models"):
        from qbench.models import torchvision_names

        known = [*names("models"), *torchvision_names()]
        if name not in known:
            raise QbenchError(f"no model is named '{name}'{nearest(name, known)}")


@functools.cache
def _entry_points(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"qbench.{kind}")}


def _load(kind: Kind, name: str) -> Any:
    point = _entry_points(kind).get(name)
    if point is None:
        what = kind.removesuffix("s")
        raise QbenchError(f"no {what} is named '{name}'{nearest(name, names(kind))}")
    try:
        return point.load()
    except Exception as error:
        raise QbenchError(f"{name}: {point.value} cannot be imported: {error}") from error


def _reason(error: Exception) -> str:
    """Say what an exception is, in a line for each mistake."""
    if isinstance(error, ValidationError):  # of a recipe, as a rule
        found = error.errors()
        unknown = [each for each in found if each["type"] == "extra_forbidden"]
        lines = []
        for each in unknown or found:  # a misspelt key is also missing; one mistake, one line
            place = ".".join(map(str, each["loc"]))
            hint = nearest(place, Recipe.model_fields) if unknown else ""
            lines.append(f"{error.title}: {place}: {each['msg'].lower()}{hint}")
        return "\n".join(lines)
    return f"{type(error).__name__}: {error}"


def _line_in(error: Exception, path: str) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f":{lines[-1]}" if lines else ""
