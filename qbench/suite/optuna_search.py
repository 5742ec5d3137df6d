"""Configurations that optuna chooses by the scores of those before.

A suggestion is a function of the points and scores before it. So a run that was interrupted goes on
with the same configurations, and a trial is never trained twice. Suggestions also depend on the
version of optuna, as the points of `qbench.suite.space` do not on any library.
"""

from __future__ import annotations

import functools
import importlib.util
import math

Point = tuple[float, ...]


def missing() -> str:
    """Return what to do if optuna is not installed, or an empty string if it is."""
    if importlib.util.find_spec("optuna") is not None:
        return ""
    return "needs optuna, which is not installed: pip install 'qbench-quant[optuna]'"


@functools.cache  # each plan asks for all of them
def suggest(seed: int, scored: tuple[tuple[Point, float], ...], used: tuple[int, ...]) -> Point:
    """Return the next point of the tree-structured Parzen estimator (Bergstra et al., 2011).

    Args:
        seed: Seed of the study.
        scored: The points before, in the order of the search, and their scores; higher values are
            better. NaN of one that failed, which the estimator leaves out.
        used: Axes of a point that are searched. The others are 0.

    Returns:
        The point, in [0, 1].
    """
    import optuna  # takes half a second, and few suites need it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Each suggestion has a seed of its own, so that it does not depend on how often others are
    # made again.
    sampler = optuna.samplers.TPESampler(seed=seed + len(scored), n_startup_trials=1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    axes = {str(axis): optuna.distributions.FloatDistribution(0, 1) for axis in used}
    states = optuna.trial.TrialState
    for point, score in scored:
        failed = math.isnan(score)
        study.add_trial(
            optuna.trial.create_trial(
                state=states.FAIL if failed else states.COMPLETE,
                value=None if failed else score,
                params={str(axis): point[axis] for axis in used},
                distributions=axes,
            )
        )
    found = study.ask(axes).params
    length = len(scored[0][0])
    return tuple(found.get(str(axis), 0.0) for axis in range(length))
