"""Comparison of two sets of results: what changed, by how much, and whether it is significant."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from qbench.report.significance import LEVEL, holm, paired
from qbench.report.summary import RESULT, by_seed, records
from qbench.report.tables.text import DASH, setting_text

_MAPPINGS, _COLUMNS = ("options", "training"), ("threads", "layers", "placement", "data")
# What says that two trials are of one row: their keys, or else their settings of the method.
_SAME_ROW = (["key"], ["method", "options", "model", "bits"])


@dataclass(frozen=True)
class Difference:
    """One result in two sets of results, A and B.

    Attributes:
        dataset: Dataset of the result.
        model: Model of the result.
        label: Row of the table. It includes the settings that differ, if a side has several
            settings for one row and bit-widths.
        bits: Bit-widths ``W/A``.
        mean_a: Mean over the seeds of A, in %. NaN if A lacks the result.
        mean_b: Mean over the seeds of B, in %. NaN if B lacks the result.
        seeds: Number of seeds that both have.
        change: Mean of B minus mean of A, in points, over the seeds that both have. If there are
            none, over all seeds of each.
        p: p-value of the two-sided paired t-test over the seeds that both have, with Holm's
            correction for all compared results. NaN if there is no test.
        verdict: ``same`` (equal for each seed), ``better`` or ``worse`` (significantly), ``not
            significant``, ``not tested``, ``only in A`` or ``only in B``.
        settings: Options and recipe values that differ, as ``lr 0.02 → 0.1``.
        conflicts: Keys of trials for which A and B have different numbers.
        stale: One text for each side and reason, with the number of stale results.
    """

    dataset: str
    model: str
    label: str
    bits: str
    mean_a: float
    mean_b: float
    seeds: int
    change: float
    p: float
    verdict: str
    settings: str
    conflicts: list[str]
    stale: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the attributes as plain values, with None instead of NaN."""
        return {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in asdict(self).items()
        }


def compare(a: pd.DataFrame, b: pd.DataFrame) -> list[Difference]:
    """Compare two sets of results by dataset, model, row and bit-widths.

    A row of B has the name that A gives to it: rows have names of their own in a suite, and not in
    exported files.

    Args:
        a: Finished trials, one row for each, as `qbench.benchmark.finished.load` returns them.
            Required columns: ``key``, ``method``, ``label``, ``options`` and ``training`` (JSON),
            ``dataset``, ``model``, ``bits``, ``seed`` (int), ``stale`` (the reason, or an empty
            string) and ``value`` (float, %). Optional columns: ``threads``, ``layers`` and
            ``data``.
        b: The trials to compare with them, with the same columns.

    Returns:
        One difference for each result, in the order of A, followed by the results that only B has.

    Raises:
        KeyError: A frame lacks a required column.
    """
    both = _told_apart(a, _named_as(a, b))
    sides = [dict(list(side.groupby(RESULT, sort=False))) for side in both]
    places = list(dict.fromkeys([*sides[0], *sides[1]]))
    found = [_difference(place, sides[0].get(place), sides[1].get(place)) for place in places]
    corrected = holm([difference.p for difference in found])
    return [_judged(difference, p) for difference, p in zip(found, corrected, strict=True)]


def _named_as(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Return B with the names that A has for the same rows and datasets."""
    named = ["dataset", "label"]
    b, known = b.reset_index(drop=True), set(map(tuple, a[RESULT].to_numpy()))
    for columns in _SAME_ROW:
        names: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
        for _, row in a.iterrows():
            names.setdefault(tuple(row[columns]), set()).add(tuple(row[named]))
        for rows in b.groupby([*RESULT, "method", "options", "training"]).indices.values():
            if tuple(b.loc[rows[0], RESULT]) in known:
                continue
            found = [names.get(tuple(b.loc[i, columns]), set()) for i in rows]
            of_row = set().union(*found)
            if len(of_row) == 1:
                b.loc[rows, named] = of_row.pop()
    return b


def _told_apart(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both sides. Labels include settings if a side has several for a row and width."""
    both = pd.concat([a.assign(side="A"), b.assign(side="B")], ignore_index=True)
    settings = [_settings(row) for _, row in both.iterrows()]
    labels = list(both["label"])
    for rows in both.groupby(RESULT, sort=False).indices.values():
        kinds: dict[str, set[str]] = {"A": set(), "B": set()}
        for i in rows:
            kinds[both["side"][i]].add(str(settings[i]))
        if max(map(len, kinds.values())) > 1:
            names = dict.fromkeys(name for i in rows for name in settings[i])
            varied = [n for n in names if len({str(settings[i].get(n)) for i in rows}) > 1]
            for i in rows:
                apart = ", ".join(f"{name}={_setting(settings[i], name)}" for name in varied)
                labels[i] = f"{labels[i]} [{apart}]"
    both["label"] = labels
    return both[both["side"] == "A"], both[both["side"] == "B"]


def _difference(place: Any, a: pd.DataFrame | None, b: pd.DataFrame | None) -> Difference:
    nothing: dict[int, float] = {}
    values_a, values_b = (
        nothing if side is None else by_seed(records(side), "value") for side in (a, b)
    )
    common = sorted(values_a.keys() & values_b.keys())
    mean_a, mean_b = (_mean(values.values()) for values in (values_a, values_b))
    change, settings, conflicts = mean_b - mean_a, "", list[str]()
    if a is not None and b is not None:
        settings, conflicts = _changed(a.iloc[0], b.iloc[0]), _conflicts(a, b)
    if common:
        change = _mean([values_b[seed] - values_a[seed] for seed in common])
    verdict = "" if a is not None and b is not None else f"only in {'A' if b is None else 'B'}"
    if common and all(_alike(values_a[seed], values_b[seed]) for seed in common):
        verdict = "same"
    p = float("nan") if verdict else paired(values_a, values_b)
    return Difference(
        **dict(zip(RESULT, place, strict=True)),
        mean_a=mean_a,
        mean_b=mean_b,
        seeds=len(common),
        change=change,
        p=p,
        verdict=verdict,
        settings=settings,
        conflicts=conflicts,
        stale=[*_stale("A", a), *_stale("B", b)],
    )


def _stale(side: str, trials: pd.DataFrame | None) -> list[str]:
    if trials is None:
        return []
    counts = trials.loc[trials["stale"] != "", "stale"].value_counts(sort=False)
    return [f"{count} stale in {side}: {reason}" for reason, count in counts.items()]


def _judged(found: Difference, p: float) -> Difference:
    if found.verdict:
        return found
    if np.isnan(p):
        verdict = "not tested"
    elif p >= LEVEL:
        verdict = "not significant"
    else:
        verdict = "better" if found.change > 0 else "worse"
    return Difference(**{**asdict(found), "p": p, "verdict": verdict})


def _mean(values: Any) -> float:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else float("nan")


def _changed(a: pd.Series[Any], b: pd.Series[Any]) -> str:
    """Return the settings in which two trials differ, as ``lr 0.02 → 0.1``."""
    before, after = _settings(a), _settings(b)
    unknown = {n for n in _COLUMNS if (n in before) != (n in after)}  # a file may lack them
    parts = [
        f"{name} {_setting(before, name)} → {_setting(after, name)}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and name not in unknown
    ]
    if a["method"] != b["method"]:
        parts.insert(0, f"method {a['method']} → {b['method']}")
    return ", ".join(parts)


def _settings(trial: pd.Series[Any]) -> dict[str, Any]:
    """Return the options and the recipe of a trial as one flat mapping."""
    flat: dict[str, Any] = {}
    for name in _MAPPINGS:
        flat |= json.loads(trial[name])
    for name in _COLUMNS:
        if pd.notna(trial.get(name)):
            flat[name] = str(trial[name])
    return flat


def _setting(settings: dict[str, Any], name: str) -> str:
    return setting_text(settings[name]) if name in settings else DASH


def _conflicts(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """Return the keys for which both sides have different numbers."""
    known = dict(zip(a["key"], a["value"].astype(float), strict=True))
    return [
        str(key)
        for key, value in zip(b["key"], b["value"].astype(float), strict=True)
        if key in known and not _alike(known[key], value)
    ]


def _alike(a: float, b: float) -> bool:
    """Return whether two numbers are equal up to rounding, since files keep six digits."""
    return bool(np.isclose(a, b, rtol=1e-5, atol=0))
