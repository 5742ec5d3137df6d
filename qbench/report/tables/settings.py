"""Settings of a table's rows: first those that all rows share, then those of single rows."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from qbench.report.tables.text import one_line, setting_text
from qbench.spec.trial import FP32


def settings(trials: pd.DataFrame) -> list[str]:
    """Return the settings of the rows of a table.

    Args:
        trials: Trials of the table, one row for each. Required columns: ``method``, ``label``,
            ``bits``, ``epochs`` (int), ``options`` and ``training`` (both JSON).

    Returns:
        The shared recipe; then, for each method, one line of the options that its rows share and
        one for each row that has options or recipe values of its own. Empty if `trials` has no
        column ``options`` or no column ``training``.
    """
    if not {"options", "training"} <= set(trials):
        return []
    quantized = trials[trials["method"] != FP32]
    rows = quantized.drop_duplicates(["label", "options", "training"])
    labels = [_named(quantized, row) for _, row in rows.iterrows()]
    rows = rows.assign(label=labels)
    options = dict(zip(labels, map(json.loads, rows["options"]), strict=True))
    training = dict(zip(labels, map(_used, rows["training"]), strict=True))
    untrained = set(rows.loc[rows["epochs"] == 0, "label"])
    recipe = _common([used for label, used in training.items() if label not in untrained])
    texts = [f"Recipe: {_as_text(recipe)}"] if recipe else []
    methods = rows.groupby("method", sort=False)
    for _, group in methods:
        names = list(group["label"])
        common = _common([options[name] for name in names])
        if common:
            who = "Every row" if 1 == len(methods) < len(names) else ", ".join(names)
            texts.append(f"{who}: {_as_text(common)}")
        for name in names:
            apart = _without(options[name], common)
            if name not in untrained:  # the caption names the untrained rows
                apart |= _without(training[name], recipe)
            texts += [f"{name}: {_as_text(apart)}"] if apart else []
    return texts


def _named(trials: pd.DataFrame, row: pd.Series[Any]) -> str:
    """Return the label of a row, with its bit-widths if its settings depend on them."""
    same = trials[trials["label"] == row["label"]]
    if len(same[["options", "training"]].drop_duplicates()) == 1:
        return one_line(row["label"])
    its = same[(same["options"] == row["options"]) & (same["training"] == row["training"])]
    return one_line(f"{row['label']} at {', '.join(its['bits'].unique())}")


def _used(recipe: str) -> dict[str, object]:
    """Return the values of a recipe (JSON) that have an effect."""
    values: dict[str, object] = json.loads(recipe)
    if values.get("schedule") != "step":
        values.pop("gamma", None)
    return {name: value for name, value in values.items() if value not in (None, 0, [])}


def _common(settings: list[dict[str, object]]) -> dict[str, object]:
    """Return the settings that all have, with the same value."""
    first, *others = settings or [{}]
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }


def _without(settings: dict[str, object], common: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in common}


def _as_text(settings: dict[str, object]) -> str:
    return ", ".join(f"{name} = {setting_text(value)}" for name, value in settings.items())
