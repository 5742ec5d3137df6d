"""The space that ``recipe: tuned`` searches: its axes, and the points of a study.

Axes are the learning rate and the weight decay, as factors of those of the recipe; the learning
rate of what quantizers learn, where a method has the option ``lr_factor``; and the options that a
method declares with `qbench.method.Tunable`. An option that a suite sets is not searched.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qbench.quant.options import build_method, determining_options, option_fields, tunables
from qbench.spec.recipe import DECAYS, RATES, Recipe
from qbench.spec.trial import Trial
from qbench.spec.tunable import Tunable

LR_FACTOR = "lr_factor"

FACTOR = Tunable(0.1, 10, log=True)
"""Range of the learning rate and of the weight decay, as factors of those of the recipe."""

QUANTIZER_LR = Tunable(0.01, 1, log=True)
"""Range of the learning rate of what quantizers learn, divided by that of the network."""

_BITS = 30  # of a point, as scipy's

# The first axes of every method, in this order, so that points agree in them.
_SHARED = ("lr", "weight_decay", LR_FACTOR)


def axes(trial: Trial, fixed: Mapping[str, Any]) -> dict[str, Tunable]:
    """Return the axes that a trial is tuned on, by the name of the value or of the option.

    Args:
        trial: The trial with its untuned values.
        fixed: Options that the suite sets.

    Returns:
        The ranges. Without training, those of the method's own options only.
    """
    known, found = option_fields(trial.method), dict[str, Tunable]()
    if trial.recipe.epochs:
        found["lr"] = FACTOR
        if any(_nonzero(getattr(trial.recipe, name)) for name in DECAYS):
            found["weight_decay"] = FACTOR
        if LR_FACTOR in known:
            found[LR_FACTOR] = QUANTIZER_LR
    own = {name: each for name, each in tunables(trial.method).items() if name not in _SHARED}
    return {name: each for name, each in {**found, **own}.items() if name not in fixed}


def tuned(
    trial: Trial, options: Mapping[str, Any], ranges: Mapping[str, Tunable], point: Sequence[float]
) -> tuple[Trial, dict[str, Any]]:
    """Return a trial with the values of a point.

    Args:
        trial: The trial with its untuned values.
        options: Options that the suite sets.
        ranges: The axes, as `axes` returns them.
        point: Place on each of the shared axes, then on each of the others, in [0, 1).

    Returns:
        The trial, and its value on each axis by name.
    """
    recipe = trial.recipe
    searched: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for (name, each), axis in zip(ranges.items(), used_axes(ranges), strict=True):
        at = each.at(point[axis])
        if name == "lr":
            recipe = scaled(recipe, RATES, at)
            values[name] = recipe.lr
        elif name == "weight_decay":
            recipe = scaled(recipe, DECAYS, at)
            values[name] = recipe.weight_decay
        else:
            whole = option_fields(trial.method)[name].annotation is int
            searched[name] = values[name] = round(at) if whole else at
    if not searched:
        return trial.changed(recipe=recipe), values

    def with_searched(names: Iterable[str]) -> dict[str, Any]:
        chosen = {name: searched[name] for name in names}
        return determining_options(build_method(trial.method, {**options, **chosen}))

    changed = trial.changed(recipe=recipe, options=with_searched(searched))
    if trial.prepared is not None and trial.prepared.method == trial.method:
        # A learning rate changes no network, and all configurations start from the same one.
        own = with_searched(searched.keys() - {LR_FACTOR})
        changed = changed.changed(prepared=trial.prepared.model_copy(update={"options": own}))
    return changed, values


def scaled(recipe: Recipe, names: Sequence[str], factor: float) -> Recipe:
    """Return a recipe in which some values, and those of their schedules, have a factor.

    Args:
        recipe: The recipe.
        names: Fields of the recipe. None and zeros stay.
        factor: The factor. Products have three significant digits.
    """
    changes: dict[str, Any] = {}
    for name in names:
        value = getattr(recipe, name)
        if isinstance(value, tuple):
            changes[name] = tuple(_rounded(each * factor) for each in value)
        elif value is not None:
            changes[name] = _rounded(value * factor)
    return Recipe(**{**dict(recipe), **changes})


def points(search: str, study: int, count: int, dimensions: int) -> NDArray[np.float64]:
    """Return the points of a study. The first axes have the same points whatever the others are.

    Args:
        search: ``random``: independent points. Otherwise the points of Sobol (1967),
            scrambled by study (Matousek, 1998: a random linear map of the digits, and a digital
            shift). They do not depend on the version of scipy, as its own scrambling does: keys of
            trials must not.
        study: Number of the study, from 1. Studies are independent of each other.
        count: Number of points, 1 or more.
        dimensions: Number of axes, 1 or more.

    Returns:
        Points in [0, 1), (count, dimensions).
    """
    # NumPy keeps the stream of `RandomState` for good.
    draws = [np.random.RandomState([study, axis]) for axis in range(dimensions)]
    if search == "random":
        return np.stack([draw.random_sample(count) for draw in draws], axis=1)
    from scipy.stats import qmc  # takes half a second to import

    power = math.ceil(math.log2(count))
    even = qmc.Sobol(dimensions, scramble=False).random_base2(power)[:count]
    return np.stack([_scrambled(*each) for each in zip(even.T, draws, strict=True)], axis=1)


def _scrambled(values: NDArray[np.float64], draw: np.random.RandomState) -> NDArray[np.float64]:
    """Scramble the binary digits of the points of one axis, (count,)."""
    weights = 2.0 ** -np.arange(1, _BITS + 1)
    digits = (values[:, None] // weights).astype(np.int64) % 2
    lower = np.tril(draw.randint(2, size=(_BITS, _BITS)), -1) + np.eye(_BITS, dtype=np.int64)
    mixed = (digits @ lower.T + draw.randint(2, size=_BITS)) % 2
    scrambled: NDArray[np.float64] = mixed @ weights
    return scrambled


def used_axes(ranges: Mapping[str, Tunable]) -> list[int]:
    """Return which axis of a point each range has. All points have the shared axes first.

    Args:
        ranges: The axes, as `axes` returns them.
    """
    own = itertools.count(len(_SHARED))
    return [_SHARED.index(name) if name in _SHARED else next(own) for name in ranges]


def dimensions(ranges: Mapping[str, Tunable]) -> int:
    """Return the number of axes that points for some ranges need: all shared ones, and the others.

    Args:
        ranges: The axes, as `axes` returns them.
    """
    return len(_SHARED) + sum(name not in _SHARED for name in ranges)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _nonzero(value: Any) -> bool:
    return any(value) if isinstance(value, tuple) else bool(value)
