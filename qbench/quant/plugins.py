"""Method files: read them, register the methods they define, send them to other processes."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from qbench import registry
from qbench.errors import QbenchError, nearest
from qbench.files import resolved
from qbench.spec.recipe import Recipe

_loaded: dict[str, Plugin] = {}


@dataclass(frozen=True)
class Plugin:
    """A method file. It holds the text, so that it can be sent to other nodes.

    Attributes:
        path: Absolute path of the file on the user's machine.
        source: Its Python source code.
    """

    path: str
    source: str

    @classmethod
    def read(cls, path: Path) -> Plugin:
        """Read a method file.

        Args:
            path: The file.

        Raises:
            QbenchError: The file does not exist, or is not text in UTF-8.
        """
        try:
            return cls(str(resolved(path)), resolved(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise QbenchError(f"{path}: cannot read this method file: {reason}") from error


def load_plugin(plugin: Plugin) -> list[str]:
    """Run a method file and register the methods that it defines.

    Args:
        plugin: The file.

    Returns:
        The names of its methods, in the order in which the file defines them.

    Raises:
        QbenchError: The file cannot be imported, defines no method, or uses the name of an
            installed method.
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
        try:
            registry.register_method(cls)
        except QbenchError as error:
            raise QbenchError(f"{plugin.path}: {error}") from error
    _loaded[plugin.path] = plugin
    return [cls.name for cls in found]


def loaded_plugins() -> list[Plugin]:
    """Return the method files that this process has loaded, for other processes to load."""
    return list(_loaded.values())


def _reason(error: Exception) -> str:
    """Describe an exception, with one line for each mistake."""
    if isinstance(error, ValidationError):  # usually of a recipe
        found = error.errors()
        unknown = [each for each in found if each["type"] == "extra_forbidden"]
        lines = []
        for each in unknown or found:  # a misspelt key is also a missing one
            place = ".".join(map(str, each["loc"]))
            hint = nearest(place, Recipe.model_fields) if unknown else ""
            lines.append(f"{error.title}: {place}: {each['msg'].lower()}{hint}")
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
