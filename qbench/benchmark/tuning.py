"""Select the winners of a suite with ``recipe: tuned``, and plan their trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qbench.store.mlflow import Store
from qbench.store.run import Run
from qbench.store.tags import REASON
from qbench.suite.grid import PlannedTrial
from qbench.suite.tuned import Search, TunedGrid


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


def scores_of(runs: Mapping[str, Run], metric: str) -> dict[str, float]:
    """Return the score of each trial that has ended, by key. NaN of one that failed.

    Args:
        runs: MLflow run of each trial that has ended, by key.
        metric: Metric that decides; higher values are better.
    """
    return {
        key: Store.metrics(run).get(metric, math.nan) if run.status == "FINISHED" else math.nan
        for key, run in runs.items()
    }


def study_of(search: Search, scores: Mapping[str, float]) -> Study | None:
    """Return what a study has found, or None if a trial of its first stage is missing.

    Args:
        search: Configurations of the study.
        scores: Scores by key, as `scores_of` returns them.
    """
    if search.following or any(each.trial.key not in scores for each in search.known):
        return None
    scored = [(scores[each.trial.key], each) for each in search.known]
    ranked = sorted(((s, c) for s, c in scored if s == s), key=lambda pair: -pair[0])
    return Study([c for _, c in ranked], [s for s, _ in ranked])


def planned(grid: TunedGrid, runs: Mapping[str, Run], metric: str) -> list[PlannedTrial]:
    """Return the trials of both stages, as far as the second is known.

    Args:
        grid: Trials of the suite.
        runs: MLflow run of each trial that has ended, by key.
        metric: Metric that decides.

    Returns:
        The first stage, and the second of each study whose first has ended. If all of its
        configurations failed, the second stage is unsupported, with the reason of one.
    """
    second, scores = list(grid.unsupported), scores_of(runs, metric)
    searches = grid.searches(scores)
    for search in searches:
        found = study_of(search, scores)
        if found is None:
            continue
        if found.ranking:
            second += grid.second_stage(found.ranking[0])
        else:
            first = search.known[0]
            reason = runs[first.trial.key].tags.get(REASON, "")
            failed = replace(first, unsupported=f"every configuration failed: {reason}")
            second += grid.second_stage(failed)
    return grid.with_bases([*(each for search in searches for each in search.known), *second])


def awaited(grid: TunedGrid, runs: Mapping[str, Run], metric: str) -> list[PlannedTrial]:
    """Return trials like those that follow from results to come.

    Args:
        grid: Trials of the suite.
        runs: MLflow run of each trial that has ended, by key.
        metric: Metric that decides.

    Returns:
        Configurations that scores choose, and the second stage of studies whose first has not
        ended.
    """
    scores = scores_of(runs, metric)
    waiting = [s for s in grid.searches(scores) if study_of(s, scores) is None]
    first = [each for search in waiting for each in search.known[:1] * search.following]
    return first + grid.with_bases([p for s in waiting for p in grid.second_stage(s.known[0])])
