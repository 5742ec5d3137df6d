"""Rehearsals: a suite's whole grid, a few steps of each trial, on a small stand-in for its data."""

from __future__ import annotations

import logging
from pathlib import Path

from qbench import registry
from qbench.suite.suite import Resources, Suite

_LOGGER = logging.getLogger(__name__)

# Three epochs, so that what methods do at the start, in the middle and at the end is tried.
SHORT = {
    "epochs": 3,
    "steps": 2,
    "batch_size": 8,
    "calibration_images": 16,
    "lr": 1e-3,  # that of a long training may blow up a network that has just begun
    "compile": False,
}
SHORT_DETECTION = SHORT | {"batch_size": 2, "calibration_images": 4}


def rehearsed(suite: Suite, folder: Path) -> Suite:
    """A suite whose every trial takes seconds.

    Args:
        suite: what is to be rehearsed.
        folder: where stand-ins for data are written.

    Returns:
        The same rows, models and widths, on the first seed, by a short recipe; full-precision
        networks are trained as shortly in place of given weights.
    """
    _LOGGER.info("writing a stand-in for %s", suite.dataset)
    dataset = registry.build_dataset(suite.dataset, suite.data)
    options = dataset.stand_in(folder / suite.dataset)
    short = SHORT_DETECTION if dataset.task == "detection" else SHORT
    recipe = suite.recipe.model_copy(update={"changes": {**suite.recipe.changes, **short}})
    rows = [
        row.model_copy(update={"recipe": {**row.recipe, **short}, "label": label})
        for row, label in zip(suite.methods, suite.labels(), strict=True)
    ]
    return suite.model_copy(
        update={
            "data": {**suite.data, **options},
            "full_precision": {**suite.full_precision, **short},
            "methods": rows,
            "recipe": recipe,
            "resources": Resources(),
            "seeds": suite.seeds[:1],
            "weights": {},
        }
    )
