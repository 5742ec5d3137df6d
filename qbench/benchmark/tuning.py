"""Select the winners of a suite with ``recipe: tuned``, and plan their trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qbench.store.mlflow import Store
from qbench.store.run import Run
from qbench.store.tags import REASON
from qbench.suite.grid import PlannedTrial
from qbench.suite.tuned import TunedGrid


@dataclass(frozen=True)
class Study:
    """Ranking of the configurations of a study.

    Attributes:
        ranking: Configurations whose trials are done, the best on validation images first. Equal
            ones are in the order in which they are searched.
        scores: The metric of each of them on validation images, in %.
    """

    ranking: list[PlannedTrial]
    scores: list[float]


def study_of(
    candidates: Sequence[PlannedTrial], runs: Mapping[str, Run], metric: str
) -> Study | None:
    """Return what a study has found, or None if a trial of its first stage is missing.

    Args:
        candidates: Configurations of the study.
        runs: MLflow run of each trial that has ended, by key.
        metric: Metric that decides; higher values are better.
    """
    if any(each.trial.key not in runs for each in candidates):
        return None
    scored = [
        (Store.metrics(runs[each.trial.key]).get(metric, math.nan), each)
        for each in candidates
        if runs[each.trial.key].status == "FINISHED"
    ]
    ranked = sorted(((s, c) for s, c in scored if s == s), key=lambda pair: -pair[0])
    return Study([c for _, c in ranked], [s for s, _ in ranked])


def planned(grid: TunedGrid, runs: Mapping[str, Run], metric: str) -> list[PlannedTrial]:
    """Return the trials of both stages, as far as the second is known.

    Args:
        grid: Trials of the suite.
        runs: MLflow run of each trial that has ended, by key.
        metric: Metric that decides.

    Returns:
        The first stage, and the second of each study whose first stage has ended. If all of its
        configurations failed, the second stage is unsupported, with the reason of one.
    """
    second = list(grid.unsupported)
    for candidates in grid.studies:
        found = study_of(candidates, runs, metric)
        if found is None:
            continue
        if found.ranking:
            second += grid.second_stage(found.ranking[0])
        else:
            first = candidates[0]
            reason = runs[first.trial.key].tags.get(REASON, "")
            failed = replace(first, unsupported=f"every configuration failed: {reason}")
            second += grid.second_stage(failed)
    return grid.with_bases([*grid.first_stage(), *second])


def awaited(grid: TunedGrid, runs: Mapping[str, Run], metric: str) -> list[PlannedTrial]:
    """Return trials like those that the second stage will have once the first has ended.

    Args:
        grid: Trials of the suite.
        runs: MLflow run of each trial that has ended, by key.
        metric: Metric that decides.
    """
    waiting = (c for c in grid.studies if study_of(c, runs, metric) is None)
    return grid.with_bases([each for c in waiting for each in grid.second_stage(c[0])])
