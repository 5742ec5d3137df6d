from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qbench import registry
from qbench.benchmark.labels import Split, data_options, labels_here, split_of
from tests.helpers.training import trial


def test_true_classes_are_those_of_the_test_images_in_their_order() -> None:
    labels = labels_here(split_of(trial()))
    _, classes = registry.build_dataset("digits").test()[:]
    assert labels is not None
    assert labels.classes == 10
    assert np.array_equal(labels.values, classes)


def test_validation_images_have_their_own() -> None:
    labels = labels_here(split_of(trial(validation=50)))
    assert labels is not None
    assert labels.count == 50


@pytest.mark.parametrize(
    "split",
    [
        Split("digits", '{"another": 1}', 0),  # other data of this name
        Split("no_such_dataset", "{}", 0),
        Split("shapes", "{}", 0),  # detection
    ],
)
def test_there_may_be_none(split: Split) -> None:
    assert labels_here(split) is None


def test_data_that_are_not_here_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path))
    assert labels_here(Split("cifar10", "{}", 0)) is None


def test_options_are_what_a_record_tells_of_the_data() -> None:
    data = {"image_size": 14, "train_images": 100, "files": "0123"}
    assert data_options("fashion_mnist", data) == {"image_size": 14, "train_images": 100}
