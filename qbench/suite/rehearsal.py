"""Rehearsals: every trial of a suite for a few steps, on a small stand-in for its data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qbench import registry
from qbench.suite.suite import Resources, Suite

_LOGGER = logging.getLogger(__name__)

# Three epochs try what methods do at the start, in the middle and at the end.
SHORT_RECIPE = {
    "epochs": 3,
    "steps": 2,
    "batch_size": 8,
    "calibration_images": 16,
    "lr": 1e-3,  # the rate of a long training may make a network diverge at the start
    "compile": False,
}
# Two of each, so that there is something to select and to test.
SHORT_TUNING = {"studies": 2, "trials": 2, "seeds": 1, "validation": 4}
SHORT_RECIPE_OF_DETECTION = SHORT_RECIPE | {"batch_size": 2, "calibration_images": 4}


def rehearsed(suite: Suite, folder: Path) -> Suite:
    """Return a suite whose trials take seconds each, and write a stand-in for its data.

    Args:
        suite: Suite to rehearse.
        folder: Folder that stand-ins for data are written to.

    Returns:
        A suite of the same rows, models and widths, with the first seed and a short recipe. It
        trains full-precision networks with a short recipe too, in place of given weights. Images
        are smaller than those of the suite if all of its models can take them.
    """
    _LOGGER.info("writing a stand-in for %s", suite.dataset)
    dataset = registry.build_dataset(suite.dataset, suite.data)
    options = dataset.stand_in(folder / suite.dataset)
    short = SHORT_RECIPE_OF_DETECTION if dataset.task == "detection" else SHORT_RECIPE
    recipe = suite.recipe.model_copy(update={"changes": {**suite.recipe.changes, **short}})
    rows = [
        row.model_copy(update={"recipe": {**row.recipe, **short}, "label": label})
        for row, label in zip(suite.methods, suite.labels(), strict=True)
    ]
    return suite.model_copy(
        update={
            "data": _data(suite, options),
            "full_precision": {**suite.full_precision, **short},
            "methods": rows,
            "recipe": recipe,
            "resources": Resources(),
            "seeds": suite.seeds[:1],
            "tuning": suite.tuning.model_copy(update=SHORT_TUNING),
            "weights": {},
        }
    )


def _data(suite: Suite, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the stand-in, with smaller images only if all models can take them."""
    from qbench.suite.grid import shape_problem  # imports torch

    small = {**suite.data, **options}
    if "image_size" in options:
        dataset = registry.build_dataset(suite.dataset, small)
        if any(shape_problem(model, dataset) for model in suite.models):
            own = {name: value for name, value in options.items() if name != "image_size"}
            return {**suite.data, **own}
    return small
