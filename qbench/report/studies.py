"""Results of suites with ``recipe: tuned``: means of studies, and what tuning found.

The seeds of a study share its winner, so they are not independent. The unit of every interval and
test is therefore the study: `means` gives one row for each, in place of a trial.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from qbench.report.columns import BY_NAME, Column
from qbench.report.summary import RESULT, Row, deployment, grouped, records
from qbench.report.tables.details import DetailsTable
from qbench.report.tables.text import mean_and_deviation, one_line, setting_text
from qbench.spec.recipe import DECAYS, RATES

BEST = 3  # configurations that are listed: the first is the true best in a third of cases
_FIRST_OF = ("reason", "stale", "audit", "unreadable", "clipped", "placed")
_MEANS = (
    *("top1", "top5", "test_loss", "map50_voc07", "map50", "map", "soft_gap", "reestimation"),
    *("train_seconds", "seconds"),
)
NUMBERS = (*_MEANS, "flips", "onnx_mb", "latency_ratio")
"""Columns that have numbers in the trials that `means` takes, where they have them."""
_OPTIMISTIC = (
    "The score on validation images is that of the run that won. It is the highest of several and "
    "therefore optimistic, by 0.5 to 1.2 points in simulations. That run is none of the seeds that "
    "are measured on the test split."
)
COLUMNS = (
    BY_NAME["label"],
    BY_NAME["bits"],
    Column("aligned", "Aligned", "Mean with the aligned recipe, over seeds.", "tuning", "%", 2),
    Column("tuned", "Tuned", "Mean over studies.", "tuning", "%", 2),
    Column("gain", "Gain", "Tuned less aligned.", "tuning", "points", 2),
    Column("validation", "Validation", "Score of the winners, over studies.", "tuning", "%", 2),
    Column("winners", "Winner of each study", "Its values.", "tuning"),
)
BEST_COLUMNS = (
    BY_NAME["label"],
    BY_NAME["bits"],
    *(Column(f"best{i}", f"{i}.", "Values and score.", "tuning") for i in range(1, BEST + 1)),
)


def means(trials: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each study: the mean over its seeds on the test split.

    Args:
        trials: Trials of the second stage, with the columns of
            `qbench.report.columns.TRIAL_COLUMNS`, ``study`` (int, from 1) and ``values`` (mapping:
            value on each axis of the search).

    Returns:
        A frame with the columns of trials, in which ``seed`` is the study. Options and values of
        the recipe that were searched are left out. A study is done if all of its trials are.
    """
    rows = [_mean(group) for group in grouped(records(trials), *RESULT, "study")]
    columns = [name for name in trials if name not in ("study", "values")]
    return pd.DataFrame(rows, columns=columns)


def _mean(group: list[Row]) -> Row:
    first = group[0]
    searched = set(first["values"])
    row = dict(first)
    statuses = [trial["status"] for trial in group]
    row["status"] = next((each for each in statuses if each != "done"), "done")
    row["seed"] = first["study"]
    for name in _FIRST_OF:
        row[name] = next((trial[name] for trial in group if trial.get(name)), "")
    if "exported" in first:
        row |= deployment(group)
    if row["status"] == "done":
        for name in _MEANS:
            if name in first:
                row[name] = float(np.mean([trial[name] for trial in group]))
    row["options"] = _without(first["options"], searched)
    row["training"] = _without(first["training"], {*RATES, *DECAYS} if searched else set())
    return row


def _without(mapping: str, names: set[str]) -> str:
    """Return a mapping in JSON without some names."""
    return json.dumps({k: v for k, v in json.loads(mapping).items() if k not in names})


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of those results that are complete and that nothing casts doubt on.

    Args:
        rows: Trials, or means of studies. Required columns: those of
            `qbench.report.summary.RESULT`, ``status``, ``stale`` and ``audit``.
    """
    sound = rows["status"].eq("done") & rows["stale"].eq("") & rows["audit"].eq("")
    groups = sound.groupby([rows[name] for name in RESULT], sort=False)
    return rows[groups.transform("all").astype(bool)]


def means_of(trials: pd.DataFrame, metric: str) -> dict[tuple[str, str, str], float]:
    """Return the mean of each row, in %, by model, label and bit-widths.

    Args:
        trials: Finished trials. Required columns: ``model``, ``label``, ``bits`` and `metric`.
        metric: Metric of the means.
    """
    return {
        (str(model), str(label), str(bits)): float(values.mean())
        for (model, label, bits), values in trials.groupby(["model", "label", "bits"], sort=False)[
            metric
        ]
    }


def tables(
    configurations: pd.DataFrame,
    studies: pd.DataFrame,
    aligned: Mapping[tuple[str, str, str], float],
    metric: str,
) -> list[DetailsTable]:
    """Return the tables of what tuning found, two for each model.

    Args:
        configurations: Trials of the first stage that have ended. Required columns: ``label``,
            ``model``, ``bits``, ``study``, ``values`` (mapping), ``score`` (float, %; NaN of one
            that failed), ``place`` (int, 1 for the winner of the study) and ``stop_after`` (int,
            the epoch of the score where a scheduler has stopped it, otherwise 0).
        studies: Frame as `means` returns it.
        aligned: Mean with the aligned recipe (%), by model, label and bit-widths, where known.
        metric: Metric of the scores.

    Returns:
        Aligned and tuned accuracy with the winners, and the best configurations.
    """
    found = []
    for group in grouped(records(configurations), "model"):
        model = group[0]["model"]
        cells = grouped(group, "label", "bits")
        done = comparable(studies[studies["model"] == model])
        gains = [_gain(cell, done, aligned, metric) for cell in cells]
        best = [_best(cell) for cell in cells]
        found += [
            DetailsTable(f"What tuning found: {model}", COLUMNS, gains, _OPTIMISTIC),
            DetailsTable(
                f"Best configurations of all studies: {model}",
                BEST_COLUMNS,
                best,
                "With their scores on validation images. Their order is uncertain: the first is "
                "truly the best in about a third of cases.",
            ),
        ]
    return found


def _gain(
    cell: list[Row],
    done: pd.DataFrame,
    aligned: Mapping[tuple[str, str, str], float],
    metric: str,
) -> list[str]:
    first = cell[0]
    label, bits = first["label"], first["bits"]
    before = aligned.get((first["model"], label, bits), np.nan)
    values = list(done.loc[(done["label"] == label) & (done["bits"] == bits), metric])
    winners = [row for row in cell if row["place"] == 1 and _ranked(row)]
    after = float(np.mean(values)) if values else np.nan
    return [
        one_line(label),
        bits,
        COLUMNS[2].text(before),
        mean_and_deviation(values) if values else "",
        COLUMNS[4].text(after - before),
        mean_and_deviation([row["score"] for row in winners]) if winners else "",
        "; ".join(_values(row["values"]) for row in winners),
    ]


def _best(cell: list[Row]) -> list[str]:
    ranked = sorted(filter(_ranked, cell), key=lambda row: -row["score"])[:BEST]
    texts = [f"{_values(row['values'])} ({row['score']:.2f})" for row in ranked]
    return [one_line(cell[0]["label"]), cell[0]["bits"], *texts, *[""] * (BEST - len(texts))]


def _ranked(row: Row) -> bool:
    """Return whether a configuration was trained to the end, and did not fail."""
    return bool(row["score"] == row["score"]) and not row["stop_after"]


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {setting_text(value)}" for name, value in values.items()) or "default"
