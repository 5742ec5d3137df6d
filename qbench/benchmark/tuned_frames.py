"""Frames of a suite with ``recipe: tuned``, from which `qbench.report.studies` makes its tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.tuning import scores_of, study_of
from qbench.errors import QbenchError
from qbench.files import write_atomic
from qbench.report.studies import comparable
from qbench.suite.grid import PlannedTrial, every_row
from qbench.suite.tuned import Search

FILE = "tuning.csv"
EFFECT_FILE = "tuning_effect.csv"
CONFIGURATION = [
    *("label", "model", "bits", "study", "place", "score", "key", "values", "stop_after"),
]


def tested(benchmark: Benchmark, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that are measured on the test split, for ``trials.csv``.

    Args:
        benchmark: The benchmark of a tuned suite.
        trials: Frame as `Benchmark.trials` returns it.

    Returns:
        The trials, with the columns ``study`` and ``searched``.
    """
    found = trials.assign(
        study=[planned.study for planned in benchmark.planned],
        searched=[json.dumps(dict(planned.values)) for planned in benchmark.planned],
    )
    return found[[not planned.trial.validation for planned in benchmark.planned]]


def second_stage(benchmark: Benchmark, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the second stage, those that are not known yet as missing ones.

    Args:
        benchmark: The benchmark.
        trials: Frame as `Benchmark.trials` returns it.

    Returns:
        The trials in the order of the rows, with the columns ``study`` and ``values``.

    Raises:
        QbenchError: There are none.
    """
    grid = benchmark.tuned
    if grid is None:
        return trials
    places = [
        place for place, p in enumerate(benchmark.planned) if p.study > 0 and not p.trial.validation
    ]
    planned = [benchmark.planned[place] for place in places]
    present = set(map(_study, planned))
    searches = grid.searches(scores_of(benchmark.runs, benchmark.dataset.shown[0]))
    stale = {_study(search.known[0]): _stale(benchmark, search) for search in searches}
    unknown = [
        each
        for first in (search.known[0] for search in searches)
        if _study(first) not in present
        for each in grid.second_stage(first)
    ]
    frames = [trials.iloc[places]]
    for each in unknown:
        row = benchmark.rows.row(each, status="missing", reason="", stale="", run=None)
        frames.append(pd.DataFrame([row]))
    every = [*planned, *unknown]
    if not every:
        raise QbenchError(f"{benchmark.suite.name} has no trials: its rows have other bit-widths")
    found = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    values: Any = [dict(each.values) for each in every]
    found = found.assign(study=[each.study for each in every], values=values)
    # A winner counts as little as the scores that it was chosen by.
    found["stale"] = [
        own or stale.get(_study(each), "") for own, each in zip(found["stale"], every, strict=True)
    ]
    order = sorted(range(len(every)), key=lambda i: _place(benchmark, every[i]))
    return found.iloc[order].reset_index(drop=True)


def _study(planned: PlannedTrial) -> tuple[str, str, str, int]:
    """Return the study of a trial."""
    return planned.label, planned.trial.model, planned.trial.bits, planned.study


def _stale(benchmark: Benchmark, search: Search) -> str:
    """Return why a configuration of a study is stale, or an empty string."""
    reasons = (benchmark.stale.get(each.trial.key) for each in search.known)
    found = next(filter(None, reasons), "")
    return f"so is a configuration of its study: {found}" if found else ""


def _place(benchmark: Benchmark, planned: PlannedTrial) -> tuple[int, int, int]:
    """Return the place of a row in the suite: full precision first, then its methods."""
    labels = benchmark.suite.labels()
    row = labels.index(planned.label) if planned.label in labels else -1
    return benchmark.suite.models.index(planned.trial.model), row, planned.study


def configurations(benchmark: Benchmark) -> pd.DataFrame:
    """Return the configurations of the studies that have ended.

    Args:
        benchmark: The benchmark.

    Returns:
        A frame with the columns `CONFIGURATION`: ``place`` is 1 for the winner of a study, and
        ``score`` the metric on validation images, in %. Behind those that were trained to the end
        are those that a scheduler has stopped, the latest first, with the epoch of their score in
        ``stop_after`` (otherwise 0). Those that failed come last, with a score of NaN.
    """
    rows = []
    scores = scores_of(benchmark.runs, benchmark.dataset.shown[0])
    for search in benchmark.tuned.searches(scores) if benchmark.tuned is not None else []:
        found = study_of(search, scores)
        if found is None:
            continue
        # Of each configuration, the longest trial. Sorting keeps the order of equal ones.
        longest = {each.trial.whole.key: each for each in search.known}.values()
        ranked = sorted(longest, key=lambda each: _merit(each, scores), reverse=True)
        for place, each in enumerate(ranked, 1):
            trial, values, score = each.trial, dict(each.values), scores[each.trial.key]
            row = [each.label, trial.model, trial.bits, each.study, place, score, trial.key, values]
            rows.append([*row, trial.stop_after])
    return pd.DataFrame(rows, columns=CONFIGURATION)


def _merit(planned: PlannedTrial, scores: Mapping[str, float]) -> tuple[bool, int, float]:
    """Return what the place of a configuration follows from; larger is better."""
    score = scores[planned.trial.key]
    return (False, 0, 0.0) if math.isnan(score) else (True, planned.trial.epochs, score)


def with_aligned_recipe(benchmark: Benchmark) -> Benchmark:
    """Return the benchmark of the same rows with the aligned recipe, over the suite's seeds.

    Args:
        benchmark: The benchmark of a tuned suite.
    """
    suite = benchmark.suite
    recipe = suite.recipe.model_copy(update={"name": "aligned"})
    suite = suite.model_copy(update={"recipe": recipe})
    other = replace(
        benchmark, suite=suite, planned=every_row(suite, benchmark.rehearsal), tuned=None
    )
    other.refresh()
    return other


def aligned(benchmark: Benchmark) -> pd.DataFrame:
    """Return the trials with the aligned recipe, over the suite's seeds.

    Args:
        benchmark: The benchmark of a tuned suite.

    Returns:
        A frame as `Benchmark.trials` returns it, of those rows whose results of all seeds the store
        has, and that can be compared (`qbench.report.studies.comparable`).
    """
    return comparable(with_aligned_recipe(benchmark).trials())


def write(found: pd.DataFrame, effects: pd.DataFrame, folder: Path) -> list[Path]:
    """Write configurations, and what tuning changes, as CSV files.

    Args:
        found: Frame as `configurations` returns it.
        effects: Frame as `qbench.report.tuning_effect.to_frame` returns it. Empty without aligned
            results; then it is not written.
        folder: Folder of the suite's tables.

    Returns:
        The files, `FILE` and `EFFECT_FILE`.
    """
    frames = {FILE: found.assign(values=[json.dumps(each) for each in found["values"]])}
    if len(effects):
        frames[EFFECT_FILE] = effects
    else:  # of an earlier report
        (folder / EFFECT_FILE).unlink(missing_ok=True)
    for name, frame in frames.items():
        text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        with write_atomic(folder / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
    return [folder / name for name in frames]
