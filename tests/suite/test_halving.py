"""Which configurations of a study go on, and which are stopped."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest

from qbench.suite.grid import PlannedTrial
from qbench.suite.halving import climbed, epochs_of, rungs
from qbench.suite.tuned import TunedGrid
from tests.helpers.suites import load
from tests.helpers.tuned import SUITE

NAN = math.nan


@pytest.fixture
def first(tmp_path: Path) -> list[PlannedTrial]:
    """Trials of the first rung of seven configurations."""
    changes = ("methods=[dorefa]", "tuning.studies=1", "tuning.trials=7", "recipe.epochs=9")
    grid = TunedGrid(load(tmp_path, SUITE, *changes, "tuning.scheduler=asha"))
    return grid.searches({})[0].known


def climb(
    first: list[PlannedTrial], *reached: dict[int, float], order: int = 0
) -> list[tuple[int, list[int]]]:
    """Return the configurations at each rung, by the epoch.

    Args:
        first: Trials of the first rung.
        reached: Score of each configuration at each rung.
        order: Seed of the order in which trials end.
    """
    numbers = {each.trial.whole.key: number for number, each in enumerate(first)}
    stops = [rung.epochs % 9 for rung in rungs(7, 9)]
    items = [
        (first[number].trial.changed(stop_after=stop).key, score)
        for stop, scores in zip(stops, reached, strict=False)
        for number, score in scores.items()
    ]
    random.Random(order).shuffle(items)
    known, _ = climbed(first, rungs(7, 9), dict(items))
    groups = itertools.groupby(known, key=lambda each: each.trial.epochs)
    return [(epochs, [numbers[p.trial.whole.key] for p in group]) for epochs, group in groups]


@pytest.mark.parametrize(
    ("configurations", "epochs", "found"),
    [
        (7, 12, [(2, 7), (4, 3), (12, 1)]),
        (27, 90, [(10, 27), (30, 9), (90, 3)]),
        (7, 20, [(3, 7), (7, 3), (20, 1)]),
        (7, 3, [(1, 7), (3, 3)]),  # a ninth and a third are the same epoch
        (7, 1, [(1, 7)]),
        (7, 0, [(0, 7)]),
        (2, 9, [(1, 2), (9, 1)]),  # nothing would be stopped after the third
        (1, 9, [(9, 1)]),
    ],
)
def test_a_third_goes_on_after_a_ninth_and_after_a_third_of_the_epochs(
    configurations: int, epochs: int, found: list[tuple[int, int]]
) -> None:
    plan = rungs(configurations, epochs)
    assert [(rung.epochs, rung.configurations) for rung in plan] == found


def test_an_epoch_is_trained_once() -> None:
    assert epochs_of(rungs(27, 90)) == 27 * 10 + 9 * 20 + 3 * 60 == 7 * 90
    assert epochs_of(rungs(7, 1)) == 7


def test_the_best_go_on_once_all_of_a_rung_have_ended(first: list[PlannedTrial]) -> None:
    scores = dict(enumerate([10.0, 40, 20, 50, 30, 60, 0]))
    whole = (1, [0, 1, 2, 3, 4, 5, 6])
    assert climb(first, {i: scores[i] for i in range(6)}) == [whole]
    assert climb(first, scores) == [whole, (3, [1, 3, 5])]
    assert climb(first, scores, {1: 70, 3: 60}) == [whole, (3, [1, 3, 5])]
    assert climb(first, scores, {1: 70, 3: 60, 5: 50}) == [whole, (3, [1, 3, 5]), (9, [1])]


def test_the_order_in_which_trials_end_decides_nothing(first: list[PlannedTrial]) -> None:
    same = dict.fromkeys(range(7), 50.0)
    found = [climb(first, same, {0: 50, 1: 50, 2: 50}, order=order) for order in range(20)]
    assert found == [[(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 1, 2]), (9, [0])]] * 20


def test_a_configuration_that_fails_makes_room_for_the_next_best(
    first: list[PlannedTrial],
) -> None:
    scores = dict(enumerate([NAN, 40, 20, 50, 30, 60, 0.0]))
    assert climb(first, scores)[1] == (3, [1, 3, 5])
    assert climb(first, scores, {1: 1, 3: NAN, 5: 2})[1] == (3, [1, 3, 4, 5])
    assert climb(first, scores, {1: 1, 3: NAN, 4: 0, 5: 2}, {5: NAN})[2] == (9, [1, 5])


def test_if_all_fail_none_goes_on(first: list[PlannedTrial]) -> None:
    assert climb(first, dict.fromkeys(range(7), NAN)) == [(1, [0, 1, 2, 3, 4, 5, 6])]
    known, following = climbed(first, rungs(7, 9), {each.trial.key: NAN for each in first})
    assert (len(known), following) == (7, [])


def test_a_trial_that_goes_on_knows_how_many_epochs_are_trained(
    first: list[PlannedTrial],
) -> None:
    scores = {each.trial.key: float(i) for i, each in enumerate(first)}
    known, following = climbed(first, rungs(7, 9), scores)
    lengths = [(each.trial.epochs, each.epochs_before) for each in (*known, *following)]
    assert lengths == [(1, 0)] * 7 + [(3, 1)] * 3 + [(9, 3)]
    assert {each.values["lr"] for each in known[7:]} == {each.values["lr"] for each in first[4:]}
