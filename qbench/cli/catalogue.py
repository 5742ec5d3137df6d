"""Look up methods, models, datasets and suites, and print them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from qbench import registry
from qbench.errors import QbenchError
from qbench.plugins import Plugin, load_plugin
from qbench.quant.options import build_method, method_options, quantizes
from qbench.report.problems import noted
from qbench.suite.bundled import bundled_suites


def rows(
    kind: str, plugins: Sequence[Plugin] = (), problems: list[str] | None = None
) -> list[dict[str, Any]]:
    """Return one entry for each item of a kind.

    Args:
        kind: ``methods``, ``models``, ``datasets`` or ``suites``.
        plugins: Python files to load first.
        problems: Receives a line for each item that has no entry, with the reason.

    Returns:
        The entries, all with the same keys.

    Raises:
        QbenchError: A file cannot be loaded.
    """
    problems = [] if problems is None else problems
    for plugin in plugins:
        load_plugin(plugin)
    match kind:
        case "methods":
            return _each(registry.names("methods"), _method, problems)
        case "models":
            from qbench.models import torchvision_names

            own = [
                {"name": name, "source": registry.origin("models", name)}
                for name in registry.names("models")
            ]
            return own + [{"name": n, "source": "torchvision"} for n in torchvision_names()]
        case "datasets":
            return _each(registry.names("datasets"), _dataset, problems)
        case _:
            here = {path.stem: path for path in sorted(Path("suites").glob("*.yaml"))}
            return [_suite(path) for path in (bundled_suites() | here).values()]


def show(entries: Sequence[dict[str, Any]]) -> None:
    """Print entries as a table.

    Args:
        entries: Entries as `rows` returns them. Values that are dictionaries are left out.
    """
    if not entries:
        Console().print("None here.")
        return
    columns = [name for name, value in entries[0].items() if not isinstance(value, dict)]
    table = Table(*columns, box=None, pad_edge=False)
    for entry in entries:
        table.add_row(*(str(entry[name]) for name in columns))
    Console(highlight=False).print(table)


def _each(
    names: Iterable[str], entry: Callable[[str], dict[str, Any]], problems: list[str]
) -> list[dict[str, Any]]:
    """Return the entries of items, without those that raise."""
    found = []
    for name in names:
        with noted(problems, name):
            found.append(entry(name))
    return found


def _method(name: str) -> dict[str, Any]:
    cls = registry.method_class(name)
    return {
        "name": name,
        "title": cls.title,
        "paper": cls.paper,
        "quantizes": quantizes(name),
        "options": _options(name),
    }


def _options(name: str) -> dict[str, Any]:
    try:
        return method_options(build_method(name, {}))
    except QbenchError:  # an option without a default
        return {}


def _dataset(name: str) -> dict[str, Any]:
    dataset = registry.build_dataset(name)
    train, test = dataset.sizes()
    return {
        "name": name,
        "title": dataset.title,
        "task": dataset.task,
        "classes": dataset.num_classes,
        "image": "×".join(map(str, dataset.image_shape)),
        "train": train,
        "test": test,
        "source": dataset.source,
        "here": "no" if dataset.missing() else "yes",
    }


def _suite(path: Path) -> dict[str, Any]:
    from qbench.suite.suite import load_suite

    try:
        suite = load_suite(path)
    except QbenchError as error:
        return {"name": path.stem, "file": str(path), "title": f"mistakes: {error}"}
    return {"name": suite.name, "file": str(path), "title": suite.title}
