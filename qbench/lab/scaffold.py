"""Write the file of a new method and its test from working templates."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from qbench import registry
from qbench.errors import QbenchError
from qbench.spec.names import unfit

_METHOD_TEMPLATES = Path(__file__).parent / "templates"


def new_method(name: str, folder: Path) -> list[Path]:
    """Write ``NAME.py`` and ``test_NAME.py``.

    Args:
        name: Name of the method, in snake_case.
        folder: Folder of the files; it is created if needed.

    Returns:
        The two files.

    Raises:
        QbenchError: The name is invalid or taken, a file exists already, or the folder cannot be
            written to.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        parts = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
        hint = "_".join(parts).lower().lstrip("0123456789_")
        raise QbenchError(
            f"'{name}': a method's name is snake_case, as my_method"
            + (f"; write {hint}" if hint else "")
        )
    if name in registry.names("methods"):
        raise QbenchError(f"there is a method '{name}' already; give yours another name")
    if reason := _unfit_for_a_module(name):
        raise QbenchError(f"'{name}' {reason}; give the method another name, as my_{name}")
    title = name.replace("_", " ").capitalize()
    words = {"MyMethod": _class_name(name), "my_method": name, "My method": title}
    files = []
    for template in ("my_method.py", "test_my_method.py"):
        path = folder / template.replace("my_method", name)
        if path.exists():
            raise QbenchError(f"{path} is there already, and is left as it is")
        files.append(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in zip(files, ("my_method.py", "test_my_method.py"), strict=True):
            text = (_METHOD_TEMPLATES / template).read_text(encoding="utf-8")
            for old, new in words.items():
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise QbenchError(f"{folder}: cannot write there: {error.strerror or error}") from error
    return files


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _unfit_for_a_module(name: str) -> str:
    """Return why a file of that name cannot be used beside other code, or an empty string."""
    if keyword.iskeyword(name) or name in ("none", "true", "false"):
        return "is a word of Python's own, and the class could not have it"
    if reason := unfit(name):
        return reason
    if name in sys.stdlib_module_names or name == "test":
        return "is a module of Python's standard library, which the file would hide"
    if name == "conftest":
        return "is a file of settings to pytest"
    if find_spec(name) is not None:
        return "is an installed package, which the file would hide"
    cls = _class_name(name)
    if hasattr(builtins, cls):
        return f"cannot be: its class would hide Python's own {cls}"
    if cls in _names_in_template():
        return f"cannot be: its class would hide the {cls} that the file uses"
    return ""


def _names_in_template() -> set[str]:
    """Return what the method file imports and defines, without the method's own class."""
    tree = ast.parse((_METHOD_TEMPLATES / "my_method.py").read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.alias)}
    return defined - {"MyMethod"}
