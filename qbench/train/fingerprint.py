"""Fingerprint of the code that a result depends on, and what has changed in it since."""

from __future__ import annotations

import ast
import functools
import hashlib
import linecache
import sys
from typing import Any

from qbench import local_modules, registry
from qbench.local_modules import LocalModule
from qbench.registry import Kind
from qbench.spec.result import CodeFingerprint
from qbench.spec.trial import Trial
from qbench.spec.tunable import Tunable

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
    cls = registry.method_class(trial.code_method)
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
    now, method = code_of(trial), trial.code_method
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
    parts: list[tuple[Kind, str]] = [("models", trial.architecture), ("datasets", trial.dataset)]
    modules = {registry.module_of_file(kind, name): name for kind, name in parts}
    return {module: name for module, name in modules.items() if module is not None}


@functools.cache
def _syntax(*modules: str) -> str:
    """Hash the syntax trees of modules and of the local modules that they import."""
    found = {each.name: each.source for module in modules for each in _modules(module)}
    trees = [_outline(ast.parse(source)) for source in found.values()]
    return hashlib.sha256(repr(trees).encode()).hexdigest()[:_LENGTH]


def _modules(name: str) -> list[LocalModule]:
    """Return an imported module and the local modules that it imports, in their order."""
    module = sys.modules[name]
    file = module.__file__ or ""
    source = "".join(linecache.getlines(file))
    importer = LocalModule(name, file, source, hasattr(module, "__path__"))
    return [importer, *local_modules.follow(importer)]


def _outline(node: Any) -> Any:
    """Turn a syntax tree into nested tuples: without docstrings, positions and empty fields.

    Comments and formatting are in no syntax tree. Empty fields are left out because Python's
    versions differ in them. Ranges to search, `qbench.method.Tunable`, change no result.
    """
    if isinstance(node, list):
        return tuple(_outline(item) for item in node if not _is_range(item))
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if _has_docstring(node):
        fields["body"] = fields["body"][1:]
    fields.pop("ctx", None)
    return (type(node).__name__, *((name, _outline(value)) for name, value in fields.items()))


def _is_range(node: Any) -> bool:
    """Return whether a node is a `Tunable` in an annotation, or the import of that name."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == Tunable.__name__
    return isinstance(node, ast.alias) and node.name == Tunable.__name__


def _has_docstring(node: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None
