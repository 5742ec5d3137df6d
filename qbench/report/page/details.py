"""Texts and data that the page shows of one result and of one trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from qbench.report.columns import BY_NAME
from qbench.report.summary import RESULT, records
from qbench.report.tables.text import DASH, WAITING, one_line
from qbench.spec.metrics import TITLES
from qbench.store.evidence import Evidence

MOST_CURVE_POINTS = 200  # the picture of a curve cannot resolve more
_DIGITS = 5
_MEASURED = (*TITLES, "test_loss", "train_seconds", "seconds")
_COLUMN = ("dataset", "model", "bits")  # results that are compared with each other
_CURVE_COLUMNS = ("epoch", "train_loss")


def value(row: Mapping[str, Any]) -> str:
    """Format a result as a cell of a table.

    Args:
        row: A row of `qbench.report.summary.summarise`.

    Returns:
        Mean and deviation, such as ``97.22 ± 0.31``. Without a number: ``failed``, ``…`` if the
        result is missing, or ``–``.
    """
    if not row["n"]:
        return {"missing": WAITING, "failed": "failed"}.get(row["status"], DASH)
    mean, std = (BY_NAME[name].text(row[name]) for name in ("mean", "std"))
    return f"{mean} ± {std}" if std else mean


def published(row: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """Format the published number of a result, in parentheses if it is for another setting.

    Args:
        row: A row of `qbench.report.summary.summarise`.
        trials: The trials of the result.

    Returns:
        The text. Empty if there is no such number.
    """
    text = BY_NAME["published"].text(row["published"])
    return f"({text})" if text and trials[0].get("claim_unlike") else text


def kind(row: Mapping[str, Any]) -> str:
    """Return the class of the cell of a result, which determines its style.

    Args:
        row: A row of `qbench.report.summary.summarise`.

    Returns:
        ``best``; ``warn`` if the result is flawed or incomplete; ``waiting`` if there is only a
        published number; ``dash`` if there is none; otherwise an empty string.
    """
    if not row["n"]:
        return "waiting" if pd.notna(row["published"]) else "dash"
    if _flaw(row) or row["n"] < row["seeds"]:
        return "warn"
    return "best" if row["bold"] else ""


def standing(row: Mapping[str, Any], best: str) -> str:
    """Return the standing of a result: relative to whom, with p-values.

    Args:
        row: A row of `qbench.report.summary.summarise`.
        best: Label of the best result of the same dataset, model and bit-widths.

    Returns:
        ``tied with LSQ (p = 0.42; 1 after Holm's correction)``. Empty if there is no other result.
    """
    if row["standing"] not in ("tied", "behind", "worse"):
        return str(row["standing"])
    relation = {"tied": "tied with", "behind": "behind", "worse": "worse than"}[row["standing"]]
    return f"{relation} {best} (p = {row['p']:.2g}; {row['p_holm']:.2g} after Holm's correction)"


def tip(row: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], best: str) -> str:
    """Return the tooltip of a result: one line for each fact.

    Args:
        row: A row of `qbench.report.summary.summarise`.
        trials: The trials of the result.
        best: As in `standing`.

    Returns:
        The lines, separated by newlines. The first one names the method and the bit-widths.
    """
    lines = [f"{row['label']} at {row['bits']}"]
    if row["n"]:
        done = [trial for trial in trials if trial["status"] == "done"]
        each = ", ".join(f"{trial[row['metric']]:.2f}" for trial in done)
        lines.append(f"{value(row)} %, n = {row['n']} of {row['seeds']} seeds ({each})")
    if row["standing"]:
        lines.append(f"Standing: {standing(row, best)}")
    if number := published(row, trials):
        lines.append(f"Published, not run here: {number} ({row['source']})")
    if row["verdict"]:
        note = f" ({row['verdict_note']})" if row["verdict_note"] else ""
        lines.append(f"Verdict: {row['verdict']}{note}")
    lines += ["Not run yet"] if row["status"] == "missing" else []
    lines += [row["reason"]] if row["reason"] else []
    lines += [_flaw(row)] if _flaw(row) else []
    stale = dict.fromkeys(trial["stale"] for trial in trials if trial.get("stale"))
    lines += [f"Stale: {text}" for text in stale]
    lines += [f"Another protocol than most: {row['differs']}"] if row["differs"] else []
    lines += [f"Full-precision teacher: {row['teacher']}"] if row["teacher"] else []
    return "\n".join(map(one_line, lines))


def _flaw(row: Mapping[str, Any]) -> str:
    return "" if row["audit"] in ("", "k-bit") else f"Not k-bit: {row['audit']}"


class PageDetails:
    """Details of results and trials, as data for the script of the page.

    Values that trials share, such as their environment, are stored once.

    Args:
        metric: Name of the metric (%) that decides which result is best.
        summary: One row for each result, from `qbench.report.summary.summarise`.
        trials: One row for each trial. Columns: ``key``, ``dataset``, ``model``, ``label``,
            ``bits``, ``seed``, ``status``, ``reason`` and `metric`. Optional columns: ``stale``,
            further metrics, ``test_loss``, ``train_seconds`` and ``seconds``.
        histories: One row for each trial and epoch. Columns: ``key`` and ``epoch`` (int, from 1).
            Optional columns: ``train_loss``, `metric` (%) and ``soft_`` and its name (%).
        evidence: Configuration, environment, audit and log of each trial that has ended, by key.

    Raises:
        KeyError: A frame lacks a required column.
    """

    def __init__(
        self,
        metric: str,
        summary: pd.DataFrame,
        trials: pd.DataFrame,
        histories: pd.DataFrame,
        evidence: Mapping[str, Evidence],
    ) -> None:
        self._metric = metric
        best = summary[summary["standing"] == "best"]
        self._best = {tuple(row[name] for name in _COLUMN): row["label"] for row in records(best)}
        self._trials = {
            result: records(group) for result, group in trials.groupby(RESULT, sort=False)
        }
        self._histories = dict(iter(histories.groupby("key", sort=False)))
        self._evidence = evidence
        self._pool: dict[str, int] = {}

    def trials_of(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the trials of a result, one for each seed.

        Args:
            row: A row of `qbench.report.summary.summarise`.

        Returns:
            Rows of the frame of trials.

        Raises:
            KeyError: There is no such result.
        """
        return self._trials[tuple(row[name] for name in RESULT)]

    def standing(self, row: Mapping[str, Any]) -> str:
        """Return the standing of a result, as the function `standing` does, on one line.

        Args:
            row: A row of `qbench.report.summary.summarise`.
        """
        return one_line(standing(row, self._best_of(row)))

    def tip(self, row: Mapping[str, Any]) -> str:
        """Return the tooltip of a result, as the function `tip` does.

        Args:
            row: A row of `qbench.report.summary.summarise`.
        """
        return tip(row, self.trials_of(row), self._best_of(row))

    def _best_of(self, row: Mapping[str, Any]) -> str:
        return str(self._best.get(tuple(row[name] for name in _COLUMN), ""))

    def result(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the details of a result.

        Args:
            row: A row of `qbench.report.summary.summarise`.

        Returns:
            ``id`` (key of the first trial), ``title``, ``about`` (the tooltip without its first
            line) and ``trials`` (keys of the trials that have ended).

        Raises:
            KeyError: There is no such result.
        """
        trials = self.trials_of(row)
        return {
            "id": trials[0]["key"],
            "title": one_line(f"{row['label']} · {row['bits']} · {row['model']}"),
            "about": self.tip(row).partition("\n")[2],
            "trials": [trial["key"] for trial in trials if trial["key"] in self._evidence],
        }

    def trials(self) -> dict[str, Any]:
        """Return the details of all trials that have ended.

        Returns:
            ``trials`` (details by key), ``shared`` (values that trials refer to by index) and
            ``panels`` (titles and columns of the curves to draw).
        """
        ended = [t for group in self._trials.values() for t in group if t["key"] in self._evidence]
        found = {trial["key"]: self._trial(trial) for trial in ended}
        metric = self._metric
        return {
            "trials": found,
            "shared": [json.loads(text) for text in self._pool],
            "panels": [
                {"title": f"{TITLES[metric]} in %", "hard": metric, "soft": f"soft_{metric}"},
                {"title": "training loss", "hard": "train_loss", "soft": ""},
            ],
        }

    def _trial(self, row: Mapping[str, Any]) -> dict[str, Any]:
        known = self._evidence[row["key"]]
        measured = _number(row[self._metric])
        return {
            "seed": row["seed"],
            "shown": row["status"] if measured is None else f"{measured:.2f} %",
            "reason": str(row["reason"]),
            "metrics": {name: _number(row[name]) for name in _MEASURED if name in row},
            "config": {name: self._shared(value) for name, value in known.trial.items()},
            "environment": self._shared(known.environment),
            "audit": self._shared(known.audit),
            "log": known.log,
            "curves": self._curves(row["key"]),
        }

    def _shared(self, value: object) -> int:
        """Return the index of a value among the shared values, and add it if it is new."""
        return self._pool.setdefault(json.dumps(value, sort_keys=True), len(self._pool))

    def _curves(self, key: str) -> dict[str, list[float | None]] | None:
        """Return a trial's curves, thinned to about `MOST_CURVE_POINTS` epochs, or None."""
        if key not in self._histories:
            return None
        rows = self._histories[key].sort_values("epoch").dropna(axis="columns", how="all")
        step = math.ceil(len(rows) / MOST_CURVE_POINTS)
        kept = rows.iloc[sorted({*range(0, len(rows), step), len(rows) - 1})]
        names = [*_CURVE_COLUMNS, self._metric, f"soft_{self._metric}"]
        return {name: [_number(each) for each in kept[name]] for name in names if name in kept}


def _number(value: float | None) -> float | None:
    """Round a number to a few significant digits. Return None if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
