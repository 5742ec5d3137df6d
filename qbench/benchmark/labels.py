"""True classes of the images that trials are measured on, where their data are here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from qbench import registry
from qbench.data.validation import classes_of
from qbench.errors import QbenchError
from qbench.spec.predictions import Predictions
from qbench.spec.trial import Trial


class Split(NamedTuple):
    """Images that a trial is measured on.

    Attributes:
        dataset: Name of the dataset.
        data: `Trial.data` as JSON.
        validation: Number of validation images. 0: the test split.
    """

    dataset: str
    data: str
    validation: int


def split_of(trial: Trial) -> Split:
    """Return the images that a trial is measured on."""
    return Split(trial.dataset, json.dumps(trial.data, sort_keys=True), trial.validation)


def data_options(dataset: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a dataset that the record of a trial tells: not where the files are.

    Args:
        dataset: Name of the dataset.
        data: `Trial.data`.

    Raises:
        QbenchError: The dataset is unknown.
    """
    known = registry.dataset_options(dataset)
    return {name: value for name, value in data.items() if name in known}


def labels_here(split: Split) -> Predictions | None:
    """Return the true classes of the images that trials are measured on, in their order.

    Args:
        split: The images.

    Returns:
        The classes. None if the data are not here, are other data, or have no classes.
    """
    data = json.loads(split.data)
    try:
        dataset = registry.build_dataset(split.dataset, data_options(split.dataset, data))
        if dataset.task != "classification" or dataset.missing() or dataset.identity() != data:
            return None
        _, measured = dataset.splits(split.validation)
        classes = classes_of(measured)
    except QbenchError:
        return None
    if classes.min(initial=0) < 0:  # some images cannot be read
        return None
    return Predictions.of(classes.tolist(), dataset.num_classes)
