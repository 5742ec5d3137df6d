"""Local modules: Python files outside qbench, Python itself and installed packages.

A file of methods may import files beside it, and others on Python's path. They are code of its
methods: their syntax is part of the fingerprint of a result, and they are sent to other nodes.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from qbench.errors import QbenchError

# Even a checkout of these is no code of a method. Their versions are recorded with a result.
_LIBRARIES = {
    *("mlflow", "numpy", "pandas", "qbench", "qbench_methods", "ray", "torch", "torchvision")
}
_INSTALLED = {"site-packages", "dist-packages"}
_installed: dict[str, LocalModule] = {}


@dataclass(frozen=True)
class LocalModule:
    """A local module. It holds the text, so that it can be sent to other nodes.

    Attributes:
        name: Full name, as in an import.
        path: Absolute path of its file on the user's machine.
        source: Its Python source code.
        is_package: Whether it is a package, whose file is an ``__init__.py``.
    """

    name: str
    path: str
    source: str
    is_package: bool = False


def follow(
    importer: LocalModule, folder: Path | None = None, parents: bool = False
) -> list[LocalModule]:
    """Return the local modules that a file imports, and those that they import.

    Imports inside functions count.

    Args:
        importer: The file.
        folder: Folder that is searched before Python's path.
        parents: Whether the packages of modules are returned too, which Python needs to import
            them.

    Returns:
        Modules in the order in which they are imported first, each before those it imports.
    """
    found: dict[str, LocalModule] = {}
    _follow(importer, folder, parents, found)
    return list(found.values())


def _follow(
    importer: LocalModule, folder: Path | None, parents: bool, found: dict[str, LocalModule]
) -> None:
    for name in _imported(importer):
        parts = name.split(".")
        first = 1 if parents else len(parts)
        for wanted in (".".join(parts[:count]) for count in range(first, len(parts) + 1)):
            if wanted in found or wanted == importer.name or not _may_be_local(wanted, importer):
                continue
            module = _find(wanted, folder)
            if module is not None and _is_local(module, importer):
                found[wanted] = module
                _follow(module, folder, parents, found)


def _imported(importer: LocalModule) -> Iterator[str]:
    """Yield the full name of everything that may be an imported module."""
    for node in ast.walk(ast.parse(importer.source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - importer.is_package
                package = importer.name.rsplit(".", up)[0] if up else importer.name
                base = f"{package}.{base}" if base else package
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _find(name: str, folder: Path | None) -> LocalModule | None:
    """Find a module without importing it. A package without ``__init__.py`` has an empty one."""
    if name in _installed and folder is None:
        return _installed[name]
    path, is_package = _located(name, [] if folder is None else [str(folder)])
    if path is None:
        path, is_package = _of_module(sys.modules.get(name))
    if path is None:
        path, is_package = _located(name, sys.path)
    if path is None or path.suffix != ".py":
        return None
    try:
        source = path.read_text(encoding="utf-8") if path.exists() else ""
        ast.parse(source)
    except (OSError, ValueError, SyntaxError):
        return None  # importing it says what is wrong with it
    return LocalModule(name, str(path.absolute()), source, is_package)


def _located(name: str, path: Iterable[str]) -> tuple[Path | None, bool]:
    """Return the file of a module on a path, and whether it is a package."""
    *packages, last = name.split(".")
    folders = [Path(folder, *packages) for folder in path]
    for folder in folders:
        if (folder / last / "__init__.py").is_file():
            return folder / last / "__init__.py", True
        if (folder / f"{last}.py").is_file():
            return folder / f"{last}.py", False
    without_file = (folder / last / "__init__.py" for folder in folders if (folder / last).is_dir())
    return next(without_file, None), True


def _of_module(module: ModuleType | None) -> tuple[Path | None, bool]:
    """Return the file of an imported module, and whether it is a package."""
    file = getattr(module, "__file__", None)
    return (Path(file) if file else None), hasattr(module, "__path__")


def _may_be_local(name: str, importer: LocalModule) -> bool:
    """Return whether a name is not that of a module of Python or of a library."""
    top = name.partition(".")[0]
    own = top == importer.name.partition(".")[0]
    return top not in sys.stdlib_module_names and (own or top not in _LIBRARIES)


def _is_local(module: LocalModule, importer: LocalModule) -> bool:
    """Return whether a module is outside installed packages, or belongs to that of its importer."""
    path, folder = Path(module.path).resolve(), Path(importer.path).resolve().parent
    if path.is_relative_to(folder):
        return _INSTALLED.isdisjoint(path.relative_to(folder).parts)
    same = module.name.partition(".")[0] == importer.name.partition(".")[0]
    return same or _INSTALLED.isdisjoint(path.parts)


def install(modules: Iterable[LocalModule], importer: str) -> None:
    """Make modules importable in this process, wherever their files are.

    A module that is installed again with another source is imported again.

    Args:
        modules: The modules.
        importer: Path of the file that imports them, for messages.

    Raises:
        QbenchError: Another module of the same name was imported from another file.
    """
    for module in modules:
        known = _installed.get(module.name)
        path, _ = _of_module(sys.modules.get(module.name))
        other = known.path if known is not None else str(path) if path is not None else module.path
        if Path(other).resolve() != Path(module.path).resolve():
            raise QbenchError(
                f"{importer}: imports '{module.name}' from {module.path}, and {other} has been "
                "imported under this name; rename one of them"
            )
        if known is not None and known != module:
            sys.modules.pop(module.name, None)
        _installed[module.name] = module
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder, ExecutionLoader):
    """Finder and loader of the modules that were given to `install`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in _installed:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def get_filename(self, fullname: str) -> str:
        return _installed[fullname].path

    def get_source(self, fullname: str) -> str:
        return _installed[fullname].source

    def is_package(self, fullname: str) -> bool:
        return _installed[fullname].is_package
