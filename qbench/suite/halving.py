"""Successive halving of the configurations of a study (Jamieson & Talwalkar, AISTATS 2016).

All configurations are trained for a ninth of the epochs. The best third of them goes on to a third
of the epochs, and the best third of those to the end. These are the rungs of ASHA (Li et al., MLSys
2020) with a reduction factor of three. ASHA decides on a configuration as soon as a worker is free,
so that its decisions depend on which worker is faster. Here, a rung is decided once all of its
trials have ended, from their scores alone. So a run that was interrupted goes on with the same
configurations, and tables find them again in the store. The schedulers of Ray Tune keep their
decisions in the state of an experiment, which neither can read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench.suite.grid import PlannedTrial

FACTOR = 3
"""The reduction factor: of n configurations of a rung, the best ⌈n / FACTOR⌉ go on."""

_STOPS = 2  # rungs before the last epoch


@dataclass(frozen=True)
class Rung:
    """Length to which some of the configurations are trained.

    Attributes:
        epochs: Epoch after which they are compared.
        configurations: Number of configurations.
    """

    epochs: int
    configurations: int


def rungs(configurations: int, epochs: int) -> list[Rung]:
    """Return the rungs of a study. The last one is the end of the training.

    There is no rung that all configurations of the one before would reach.

    Args:
        configurations: Number of configurations of the study, 1 or more.
        epochs: Number of epochs of the recipe, 0 or more.

    Example:
        >>> [(rung.epochs, rung.configurations) for rung in rungs(27, 90)]
        [(10, 27), (30, 9), (90, 3)]
    """
    lengths = sorted({math.ceil(epochs / FACTOR**i) for i in range(_STOPS + 1)})
    counts = [math.ceil(configurations / FACTOR**i) for i in range(len(lengths))]
    every = [Rung(*each) for each in zip(lengths, counts, strict=True)]
    go_on = [*counts[1:], 0]
    return [rung for rung, count in zip(every, go_on, strict=True) if count < rung.configurations]


def epochs_of(plan: Sequence[Rung]) -> int:
    """Return how many epochs the configurations of a study train in all.

    A configuration that goes on does so from the epoch that it has reached.

    Args:
        plan: The rungs, as `rungs` returns them.
    """
    total = before = 0
    for rung in plan:
        total += rung.configurations * (rung.epochs - before)
        before = rung.epochs
    return total


def climbed(
    first: Sequence[PlannedTrial], plan: Sequence[Rung], scores: Mapping[str, float]
) -> tuple[list[PlannedTrial], list[PlannedTrial]]:
    """Return the trials of all rungs, as far as they follow from scores.

    Equal scores are in the order of the configurations. A configuration that fails after it went
    on makes room for the next best.

    Args:
        first: Trials of the first rung.
        plan: The rungs.
        scores: Score of each trial that has ended, by key; higher values are better. NaN of one
            that failed.

    Returns:
        The trials that are known, and trials like those that follow from scores that are missing.
    """
    known, at = list(first), list(first)
    for place, (rung, following) in enumerate(itertools.pairwise(plan)):
        if any(each.trial.key not in scores for each in at):
            return known, later(at[0], plan[place:])
        at = _promoted(at, rung, following, scores)
        known += at
    return known, []


def _promoted(
    at: Sequence[PlannedTrial], rung: Rung, following: Rung, scores: Mapping[str, float]
) -> list[PlannedTrial]:
    """Return the trials of the configurations that go on to the following rung."""
    longer = [lengthened(each, rung, following) for each in at]
    reached = [scores[each.trial.key] for each in at]
    passed = [place for place, score in enumerate(reached) if not math.isnan(score)]
    chosen, room = [], following.configurations
    for place in sorted(passed, key=lambda place: -reached[place]):
        if not room:
            break
        chosen.append(place)
        if not math.isnan(scores.get(longer[place].trial.key, 0.0)):
            room -= 1
    return [longer[place] for place in sorted(chosen)]


def later(example: PlannedTrial, plan: Sequence[Rung]) -> list[PlannedTrial]:
    """Return trials like those of the rungs after the first.

    Args:
        example: A trial of the first of the rungs.
        plan: The rungs.
    """
    return [
        lengthened(example, rung, following)
        for rung, following in itertools.pairwise(plan)
        for _ in range(following.configurations)
    ]


def lengthened(planned: PlannedTrial, rung: Rung, following: Rung) -> PlannedTrial:
    """Return the trial of a configuration at the rung after that of another trial of it.

    Args:
        planned: The other trial.
        rung: Its rung.
        following: The rung after it.
    """
    stop = following.epochs if following.epochs < planned.trial.recipe.epochs else 0
    trial = planned.trial.changed(stop_after=stop)
    return replace(planned, trial=trial, epochs_before=rung.epochs)
