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
from qbench.files import write_atomic
from qbench.report.summary import RESULT
from qbench.suite.grid import PlannedTrial, expand

FILE = "tuning.csv"
EFFECT_FILE = "tuning_effect.csv"
CONFIGURATION = [
    *("label", "model", "bits", "study", "place", "score", "key", "values", "stop_after"),
]


def tested(benchmark: Benchmark, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that are measured on the test split.

    Args:
        benchmark: The benchmark.
        trials: Frame as `Benchmark.trials` returns it.
    """
    return trials[[not planned.trial.validation for planned in benchmark.planned]]


def second_stage(benchmark: Benchmark, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the second stage, those that are not known yet as missing ones.

    Args:
        benchmark: The benchmark.
        trials: Frame as `Benchmark.trials` returns it.

    Returns:
        The trials in the order of the rows, with the columns ``study`` and ``values``.
    """
    grid = benchmark.tuned
    if grid is None:
        return trials
    places = [
        place for place, p in enumerate(benchmark.planned) if p.study > 0 and not p.trial.validation
    ]
    planned = [benchmark.planned[place] for place in places]
    present = {(p.label, p.trial.model, p.trial.bits, p.study) for p in planned}
    searches = grid.searches(scores_of(benchmark.runs, benchmark.dataset.shown[0]))
    unknown = [
        each
        for first in (search.known[0] for search in searches)
        if (first.label, first.trial.model, first.trial.bits, first.study) not in present
        for each in grid.second_stage(first)
    ]
    frames = [trials.iloc[places]]
    for each in unknown:
        row = benchmark.rows.row(each, status="missing", reason="", stale="", run=None)
        frames.append(pd.DataFrame([row]))
    every = [*planned, *unknown]
    found = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    values: Any = [dict(each.values) for each in every]
    found = found.assign(study=[each.study for each in every], values=values)
    order = sorted(range(len(every)), key=lambda i: _place(benchmark, every[i]))
    return found.iloc[order].reset_index(drop=True)


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
    other = replace(benchmark, suite=suite, planned=expand(suite, benchmark.rehearsal), tuned=None)
    other.refresh()
    return other


def aligned(benchmark: Benchmark) -> pd.DataFrame:
    """Return the trials with the aligned recipe, over the suite's seeds.

    Args:
        benchmark: The benchmark of a tuned suite.

    Returns:
        A frame as `Benchmark.trials` returns it, of those rows whose seeds the store all has.
    """
    trials = with_aligned_recipe(benchmark).trials()
    done = trials["status"].eq("done").groupby([trials[name] for name in RESULT], sort=False)
    return trials[done.transform("all")]


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
    for name, frame in frames.items():
        text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        with write_atomic(folder / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
    return [folder / name for name in frames]
