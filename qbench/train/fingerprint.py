"""Fingerprint of the code that a result depends on, and what has changed in it since."""

from __future__ import annotations

import ast
import functools
import hashlib
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from qbench import registry
from qbench.registry import Kind
from qbench.spec.result import CodeFingerprint
from qbench.spec.trial import Trial

NUMERICS = 1
"""Revision of the arithmetic that all methods share: the primitives, the attachment, the training
loop, the data. Raise it when a change there changes the numbers of methods that are not changed."""

_LENGTH = 16


def code_of(trial: Trial) -> CodeFingerprint:
    """Return the fingerprint of the present code that a trial runs.

    It covers the method, and the model and the dataset if they come from Python files.

    Args:
        trial: The trial.

    Raises:
        QbenchError: No method has the name.
    """
    cls = registry.method_class(trial.method)
    modules = (cls.__module__, *_modules_of_files(trial))
    return CodeFingerprint(syntax=_syntax(*modules), revision=cls.revision, numerics=NUMERICS)


def change(trial: Trial, recorded: CodeFingerprint) -> str:
    """Return what has changed in the code since a result was recorded, or an empty string.

    Args:
        trial: The trial.
        recorded: Fingerprint that was recorded with the result.

    Raises:
        QbenchError: No method has the name.
    """
    now, method = code_of(trial), trial.method
    if recorded.revision != now.revision:
        return f"{method} is at revision {now.revision}, and was at {recorded.revision} in training"
    if recorded.numerics != now.numerics:
        return (
            f"the arithmetic that all methods share is at revision {now.numerics}, and was at "
            f"{recorded.numerics} in training"
        )
    if recorded.syntax and recorded.syntax != now.syntax:
        own = _modules_of_files(trial).values()
        names = f"the code of {' or of '.join([method, *own])}" if own else f"{method}'s code"
        return f"{names} has changed since it was trained"
    return ""


def _modules_of_files(trial: Trial) -> dict[str, str]:
    """Return the names of the model and the dataset by module, if they come from Python files."""
    parts: list[tuple[Kind, str]] = [("models", trial.model), ("datasets", trial.dataset)]
    modules = {registry.module_of_file(kind, name): name for kind, name in parts}
    return {module: name for module, name in modules.items() if module is not None}


@functools.cache
def _syntax(*modules: str) -> str:
    """Hash the syntax trees of modules and of the local modules that they import."""
    trees: dict[str, Any] = {}
    for module in modules:
        _collect(sys.modules[module], trees)
    return hashlib.sha256(repr(list(trees.values())).encode()).hexdigest()[:_LENGTH]


def _collect(module: ModuleType, trees: dict[str, Any]) -> None:
    """Add the tree of a module, then those of the local modules it imports, in their order."""
    file = module.__file__ or ""
    tree = ast.parse("".join(linecache.getlines(file)))
    trees[module.__name__] = _outline(tree)
    folder = Path(file).resolve().parent
    for name in _imported(tree, module.__name__):
        found = sys.modules.get(name)
        if found is not None and name not in trees and _is_local(found, folder):
            _collect(found, trees)


def _imported(tree: ast.Module, importer: str) -> Iterator[str]:
    """Yield the full name of everything that may be an imported module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = importer.rsplit(".", node.level)[0]
                base = f"{package}.{base}" if base else package
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_local(module: ModuleType, folder: Path) -> bool:
    """Return whether a module lies in a folder, outside qbench and installed packages."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == "qbench":
        return False
    path = Path(file).resolve()
    return path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts


def _outline(node: Any) -> Any:
    """Turn a syntax tree into nested tuples: without docstrings, positions and empty fields.

    Comments and formatting are in no syntax tree. Empty fields are left out because Python's
    versions differ in them.
    """
    if isinstance(node, list):
        return tuple(_outline(item) for item in node)
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if _has_docstring(node):
        fields["body"] = fields["body"][1:]
    fields.pop("ctx", None)
    return (type(node).__name__, *((name, _outline(value)) for name, value in fields.items()))


def _has_docstring(node: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None
