"""Spell out the short forms of a suite's file: ``models: m``, ``recipe: aligned``, ``- lsq``."""

from __future__ import annotations

from typing import Any

from qbench.spec.names import ROW_KEYS
from qbench.spec.weights import is_torchvision


def spelled_out(data: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a suite's file with lists and mappings in place of short forms.

    The entries of ``methods`` stay as they are; `row_fields` spells out one of them.

    Args:
        data: Content of the file, which is not changed. What is not valid is kept as it is.
    """
    data = dict(data)
    for key in ("models", "bits", "methods"):
        if isinstance(data.get(key), str | dict):
            data[key] = [data[key]]
    if isinstance(data.get("methods"), list):
        data["methods"] = list(data["methods"])
    if isinstance(data.get("seeds"), int):
        data["seeds"] = [data["seeds"]]
    for key in ("published", "tables"):
        if isinstance(data.get(key), dict):
            data[key] = [data[key]]
    weights, models = data.get("weights"), data.get("models")
    of_all = isinstance(weights, str) and is_torchvision(weights)  # a file is of one model
    if isinstance(weights, str) and isinstance(models, list) and (of_all or len(models) == 1):
        data["weights"] = dict.fromkeys(map(str, models), weights)
    recipe = data.get("recipe")
    if isinstance(recipe, str):
        data["recipe"] = {"name": recipe}
    elif isinstance(recipe, dict):
        changes = {key: value for key, value in recipe.items() if key != "name"}
        data["recipe"] = {"name": recipe.get("name", "aligned"), "changes": changes}
    return data


def row_fields(entry: Any) -> dict[str, Any] | None:
    """Return the fields of a `qbench.suite.suite.MethodRow`.

    Args:
        entry: Entry of ``methods``: ``name``, or ``{name: options, label: …}``.

    Returns:
        The fields, whose values are not checked; None if the entry has no such form.
    """
    if isinstance(entry, str):
        return {"method": entry}
    if not isinstance(entry, dict):
        return None
    rest = {key: value for key, value in entry.items() if key in ROW_KEYS}
    names = [key for key in entry if key not in rest]
    if len(names) != 1:
        return None
    return {"method": names[0], "options": entry[names[0]] or {}, **rest}
