"""Python files of methods, models and datasets: read, register, send to other processes."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import linecache
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qbench import registry
from qbench.errors import QbenchError, nearest
from qbench.files import resolved
from qbench.local_modules import LocalModule, follow, install
from qbench.quant.options import option_problems
from qbench.registry import Kind
from qbench.spec.findings import plain
from qbench.spec.names import snake_case
from qbench.spec.recipe import Recipe

_loaded: dict[tuple[str, Kind], Plugin] = {}


@dataclass(frozen=True)
class Plugin:
    """A Python file. It holds the text, so that it can be sent to other nodes.

    Attributes:
        path: Absolute path of the file on the user's machine.
        source: Its Python source code.
        kind: What it defines: ``methods``, ``models`` or ``datasets``.
        modules: The local modules that it imports.
    """

    path: str
    source: str
    kind: Kind = "methods"
    modules: tuple[LocalModule, ...] = ()

    @classmethod
    def read(cls, path: Path, kind: Kind = "methods") -> Plugin:
        """Read a file and the local modules that it imports.

        Args:
            path: The file.
            kind: What it defines.

        Raises:
            QbenchError: The file does not exist, or is not text in UTF-8.
        """
        try:
            source = resolved(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            what = f"this {kind.removesuffix('s')} file"
            reason = getattr(error, "strerror", None) or str(error)
            beside = [file.name for file in resolved(path).parent.glob("*.py")]
            hint = nearest(path.name, beside) if isinstance(error, FileNotFoundError) else ""
            raise QbenchError(f"{path}: cannot read {what}: {reason}{hint}") from error
        file = LocalModule(resolved(path).stem, str(resolved(path)), source)
        try:
            modules = follow(file, resolved(path).parent, parents=True)
        except SyntaxError:  # running the file reports it with its line
            modules = []
        return cls(file.path, source, kind, tuple(modules))

    def where(self, name: str, attribute: str = "") -> str:
        """Return the place of a class or a function, as ``FILE:LINE``.

        Args:
            name: Name of the class or function.
            attribute: Name of an annotated attribute of the class.
        """
        outline = _outlines(self.source).get(name)
        if outline is None:
            return self.path
        for node in outline.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == attribute:
                return f"{self.path}:{node.lineno}"
        return f"{self.path}:{outline.lineno}"

    def assigns(self, name: str, attributes: tuple[str, ...]) -> bool:
        """Return whether the body of a class gives a value to one of some attributes."""
        outline = _outlines(self.source).get(name)
        body = outline.body if outline is not None else []
        targets = [t for node in body if isinstance(node, ast.Assign) for t in node.targets]
        targets += [node.target for node in body if isinstance(node, ast.AnnAssign) and node.value]
        return any(ast.unparse(target) in attributes for target in targets)


@functools.lru_cache
def _outlines(source: str) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    """Return the syntax of classes and functions by name."""
    nodes = ast.walk(ast.parse(source))
    return {n.name: n for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef)}


def load_plugin(plugin: Plugin) -> list[str]:
    """Run a Python file and register what it defines.

    - A method is a subclass of `qbench.method.Method`. A class from which others in the file are
      derived is a method only if it has a `name` or a `title` of its own.
    - A model is a function or a class that takes ``num_classes`` and ``in_channels``.
    - A dataset is a subclass of `qbench.data.Dataset`.

    Abstract classes, and names that begin with an underscore, are left out.

    Args:
        plugin: The file.

    Returns:
        The names of what it defines, in its order: of a model, the name of its function; of a class
        its name in snake_case.

    Raises:
        QbenchError: The file cannot be imported, defines nothing of its kind, uses a name that is
            taken or that a suite cannot use, or the options of a method have mistakes. The message
            names the file and the line.
    """
    module = _run(plugin)
    found = dict(_FINDERS[plugin.kind](module, plugin))
    for name, each in found.items():
        try:
            registry.register(plugin.kind, name, each)
        except QbenchError as error:
            raise QbenchError(f"{plugin.where(each.__name__)}: {error}") from error
    _loaded[plugin.path, plugin.kind] = plugin
    return list(found)


def loaded_plugins() -> list[Plugin]:
    """Return the files that this process has loaded, for other processes to load."""
    return list(_loaded.values())


def _run(plugin: Plugin) -> types.ModuleType:
    """Run a file as a module of its own."""
    install(plugin.modules, plugin.path)
    sources = [plugin.source, *(module.source for module in plugin.modules)]
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()[:12]
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
    return module


def _methods(module: types.ModuleType, plugin: Plugin) -> Iterator[tuple[str, Any]]:
    """Yield the methods of a module by name."""
    from qbench.method import Method

    classes = list(_classes(module, Method))
    bases = {base for cls in classes for base in cls.__mro__[1:]}
    named: dict[str, str] = {}
    for cls in classes:
        if cls in bases and not plugin.assigns(cls.__name__, ("name", "title")):
            continue
        problems = [
            f"{plugin.where(cls.__name__, option)}: {f'option {option!r}: ' * bool(option)}{text}"
            for option, text in option_problems(cls)
        ]
        if problems:
            raise QbenchError("\n".join(problems))
        if cls.name in named:
            raise QbenchError(
                f"{plugin.where(cls.__name__)}: {named[cls.name]} has the name '{cls.name}' too; "
                'give one of them another, as in `name = "my_method"`'
            )
        named[cls.name] = cls.__name__
        yield cls.name, cls
    if not named:
        raise QbenchError(f"{plugin.path}: defines no subclass of qbench.method.Method")


def _models(module: types.ModuleType, plugin: Plugin) -> Iterator[tuple[str, Any]]:
    """Yield the models of a module by name."""
    found = {}
    for name, value in _own(module):
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        try:
            parameters = inspect.signature(value).parameters
        except (TypeError, ValueError):  # of a few classes that are written in C
            continue
        if {"num_classes", "in_channels"} <= parameters.keys():
            found[snake_case(name) if inspect.isclass(value) else name] = value
    if not found:
        raise QbenchError(
            f"{plugin.path}: defines no function or class that takes `num_classes` and "
            "`in_channels`, as a model does"
        )
    yield from found.items()


def _datasets(module: types.ModuleType, plugin: Plugin) -> Iterator[tuple[str, Any]]:
    """Yield the datasets of a module by name."""
    from qbench.data import Dataset

    found = {snake_case(cls.__name__): cls for cls in _classes(module, Dataset)}
    if not found:
        raise QbenchError(f"{plugin.path}: defines no subclass of qbench.data.Dataset")
    for cls in found.values():
        if problem := registry.dataset_problem(cls):
            raise QbenchError(f"{plugin.where(cls.__name__)}: {cls.__name__}: {problem}")
    yield from found.items()


_FINDERS: dict[Kind, Callable[[types.ModuleType, Plugin], Iterator[tuple[str, Any]]]] = {
    "methods": _methods,
    "models": _models,
    "datasets": _datasets,
}


def _classes(module: types.ModuleType, base: type) -> Iterator[Any]:
    for _, value in _own(module):
        if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value):
            yield value


def _own(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what a module defines, once and under its first name, without what is private."""
    seen = set()
    for name, value in list(vars(module).items()):
        own = getattr(value, "__module__", "") == module.__name__
        if own and not name.startswith("_") and id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _reason(error: Exception) -> str:
    """Describe an exception, with one line for each mistake."""
    if isinstance(error, ValidationError):  # usually of a recipe
        found = error.errors()
        unknown = [each for each in found if each["type"] == "extra_forbidden"]
        lines = []
        for each in unknown or found:  # a misspelt key is also a missing one
            place = ".".join(map(str, each["loc"]))
            hint = nearest(place, Recipe.model_fields)
            message = f"no such value{hint}" if unknown else plain(each)
            lines.append(f"{error.title}: {place}: {message}")
        return "\n".join(lines)
    return f"{type(error).__name__}: {error}"


def _line_in(error: Exception, path: str) -> str:
    """Return ``:line`` of a file in which an exception was raised, or an empty string."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f":{lines[-1]}" if lines else ""
