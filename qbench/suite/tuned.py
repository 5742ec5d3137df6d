"""Expand a suite with ``recipe: tuned`` into the trials of its two stages.

A study of a row, a model and a bit-width has two stages. First, every configuration is trained once
and measured on validation images. Then the best one is trained on fresh seeds, on all training
images, and measured on the test split. The second stage depends on the results of the first. So do
configurations of the first stage that `Tuning.search` chooses by the scores of those before, and
the trials of those that `Tuning.scheduler` lets go on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qbench.spec.trial import FP32
from qbench.suite import halving, optuna_search, space
from qbench.suite.grid import PlannedTrial, distinct, every_row
from qbench.suite.suite import Suite

_STRIDE = 1000  # seeds of a study, so that those of studies never overlap


def search_seed(study: int) -> int:
    """Return the seed of all trials of the first stage of a study.

    One seed for all configurations lets them start from the same full-precision network.

    Args:
        study: Number of the study, from 1.
    """
    return _STRIDE * study


def fresh_seeds(study: int, count: int) -> list[int]:
    """Return the seeds of the second stage of a study; its `search_seed` is none of them.

    Args:
        study: Number of the study, from 1.
        count: Number of seeds.
    """
    return [search_seed(study) + 1 + i for i in range(count)]


@dataclass(frozen=True)
class Search:
    """First stage of a study, as far as it follows from scores.

    Attributes:
        known: Trials of the configurations, in the order of the search. Configurations that are
            equal, as without any axis, are there once. With a scheduler, those that go on have
            further trials, behind.
        following: Trials like those that follow from scores that are missing.
    """

    known: list[PlannedTrial]
    following: list[PlannedTrial] = field(default_factory=list)

    @property
    def finalists(self) -> list[PlannedTrial]:
        """Those that are trained to the end, among which the winner is."""
        return [each for each in self.known if not each.trial.stop_after]


class TunedGrid:
    """Trials of a suite with ``recipe: tuned``.

    Args:
        suite: The suite.
        rehearsal: Whether the trials are marked as a rehearsal.

    Attributes:
        unsupported: Trials of the second stage that cannot be trained.

    Raises:
        QbenchError: Changes contradict their recipe, given weights do not exist, or two rows are
            the same.
    """

    def __init__(self, suite: Suite, rehearsal: bool = False) -> None:
        self._tuning = suite.tuning
        grid = distinct(
            every_row(suite.model_copy(update={"seeds": [search_seed(1)]}), rehearsal),
            # Rows that differ only in whether an option is searched have equal trials here.
            lambda each: (each.trial.key, tuple(space.axes(each.trial, each.row.options))),
        )
        self._labels = {planned.trial.key: planned.label for planned in grid}
        listed = any(row.method == FP32 for row in suite.methods)
        cells = [
            each
            for each in grid
            if each.trial.method != FP32 or (listed and not each.trial.has_changed_network)
        ]
        self._cells: list[PlannedTrial] = []
        self.unsupported: list[PlannedTrial] = []
        for study in range(1, self._tuning.studies + 1):
            for cell in cells:
                if cell.unsupported:
                    self.unsupported += self.second_stage(replace(cell, study=study))
                else:
                    self._cells.append(replace(cell, study=study))

    def searches(self, scores: Mapping[str, float]) -> list[Search]:
        """Return the configurations of each study whose trials can be trained.

        Args:
            scores: Score on validation images of each trial that has ended, by key; higher values
                are better. NaN of one that failed.

        Returns:
            The searches in the order of studies, models, methods and widths.
        """
        if self._tuning.known_points < self._tuning.trials:
            found = [self._search(cell, scores) for cell in self._cells]
        else:
            found = self._fixed
        return [self._scheduled(search, scores) for search in found]

    @functools.cached_property
    def _fixed(self) -> list[Search]:
        """Configurations that do not depend on scores."""
        return [self._search(cell, {}) for cell in self._cells]

    def _scheduled(self, search: Search, scores: Mapping[str, float]) -> Search:
        """Return a search with the trials of the configurations that go on."""
        first = search.known[0]
        if not first.trial.stop_after:
            return search
        plan = self._tuning.rungs(first.trial.recipe.epochs)
        if search.following:
            return replace(search, following=search.following + halving.later(first, plan))
        return Search(*halving.climbed(search.known, plan, scores))

    def second_stage(self, winner: PlannedTrial) -> list[PlannedTrial]:
        """Return the trials of a configuration on the fresh seeds of its study.

        Args:
            winner: A trial of the first stage.
        """
        first = winner.trial.changed(validation=0, stop_after=0)
        planned = replace(winner, epochs_before=0)
        seeds = fresh_seeds(winner.study, self._tuning.seeds)
        return [replace(planned, trial=first.with_seed(seed)) for seed in seeds]

    def with_bases(self, trials: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        """Return trials after the full-precision trials that they need, each once.

        Args:
            trials: Trials of a stage.
        """
        found = {base.trial.key: base for base in self._bases(trials)}
        found |= {each.trial.key: each for each in trials}
        return list(found.values())

    def _bases(self, trials: Iterable[PlannedTrial]) -> Iterable[PlannedTrial]:
        for each in trials:
            for base in () if each.unsupported else each.trial.needs:
                plain = base.changed(seed=search_seed(1), validation=0)
                label = self._labels.get(plain.key, "Full precision")
                start = f"{label}, start"
                yield replace(each, trial=base, label=start, study=0, values={}, epochs_before=0)

    def _search(self, cell: PlannedTrial, scores: Mapping[str, float]) -> Search:
        """Return the configurations of the study of a cell, as far as they follow from scores.

        With a scheduler, the trials are those of the first rung.
        """
        tuning, options, study = self._tuning, cell.row.options, cell.study
        ranges = space.axes(cell.trial, options)
        first = tuning.rungs(cell.trial.recipe.epochs)[0].epochs if ranges else 0
        start = cell.trial.changed(
            seed=search_seed(study),
            validation=tuning.validation,
            stop_after=first if first < cell.trial.recipe.epochs else 0,
        )
        found: dict[str, PlannedTrial] = {}
        tried: list[tuple[tuple[float, ...], str]] = []

        def add(point: tuple[float, ...]) -> None:
            trial, values = space.tuned(start, options, ranges, point)
            found.setdefault(trial.key, replace(cell, trial=trial, values=values))
            tried.append((point, trial.key))

        dimensions = space.dimensions(ranges)
        for point in space.points(tuning.search, study, tuning.known_points, dimensions):
            add(tuple(point.tolist()))
        while ranges and len(tried) < tuning.trials:
            if not found.keys() <= scores.keys():
                known = list(found.values())
                return Search(known, known[:1] * (tuning.trials - len(tried)))
            scored = tuple((point, scores[key]) for point, key in tried)
            add(optuna_search.suggest(search_seed(study), scored, tuple(space.used_axes(ranges))))
        return Search(list(found.values()))
