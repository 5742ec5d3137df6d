"""Select the winners of a suite with ``recipe: tuned``, and plan their trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qbench.spec.trial import Trial
from qbench.store.mlflow import Store
from qbench.store.run import Run
from qbench.store.tags import REASON
from qbench.suite.grid import PlannedTrial
from qbench.suite.tuned import Search, TunedGrid


@dataclass(frozen=True)
class Study:
    """Ranking of the configurations of a study.

    Attributes:
        ranking: Configurations that were trained to the end, the best on validation images first.
            Equal ones are in the order in which they are searched.
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
    scored = [(scores[each.trial.key], each) for each in search.finalists]
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
            failed = next(each for each in search.known if math.isnan(scores[each.trial.key]))
            reason = runs[failed.trial.key].tags.get(REASON, "")
            without = replace(failed, unsupported=f"every configuration failed: {reason}")
            second += grid.second_stage(without)
    return grid.with_bases([*(each for search in searches for each in search.known), *second])


def stopped(grid: TunedGrid, runs: Mapping[str, Run], metric: str) -> list[Trial]:
    """Return the trials from which no longer one goes on any more.

    Args:
        grid: Trials of the suite.
        runs: MLflow run of each trial that has ended, by key.
        metric: Metric that decides.

    Returns:
        Trials that were stopped, of the studies that have ended. Configurations that failed are
        left out, since the next run tries them again.
    """
    scores, found = scores_of(runs, metric), list[Trial]()
    for search in grid.searches(scores):
        if study_of(search, scores) is not None:
            trials = [each.trial for each in search.known]
            failed = {trial.whole.key for trial in trials if math.isnan(scores[trial.key])}
            found += [t for t in trials if t.stop_after and t.whole.key not in failed]
    return found


def awaited(grid: TunedGrid, runs: Mapping[str, Run], metric: str) -> list[PlannedTrial]:
    """Return trials like those that follow from results to come.

    Args:
        grid: Trials of the suite.
        runs: MLflow run of each trial that has ended, by key.
        metric: Metric that decides.

    Returns:
        Trials of configurations that scores choose or let go on, and the second stage of studies
        whose first has not ended.
    """
    scores = scores_of(runs, metric)
    waiting = [s for s in grid.searches(scores) if study_of(s, scores) is None]
    first = [each for search in waiting for each in search.following]
    return first + grid.with_bases([p for s in waiting for p in grid.second_stage(s.known[0])])
