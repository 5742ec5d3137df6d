"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from qbench import registry
from qbench.errors import QbenchError
from qbench.train.loading import evaluation_loader, training_loader
from tests.helpers.images import CPU, RECIPE, order


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_cropped_in_training_and_not_in_evaluation(name: str, classes: int) -> None:
    dataset = registry.build_dataset(name, {"synthetic": 8})
    assert dataset.num_classes == classes
    assert isinstance(dataset.test(), TensorDataset)
    images = [
        next(iter(training_loader(dataset, dataset.train(), RECIPE, s, order(), 0, CPU)))[0]
        for s in (0, 1)
    ]
    assert images[0].shape == (4, 3, 32, 32)
    assert not torch.equal(*images)
    tests = [
        next(iter(evaluation_loader(dataset, dataset.test(), RECIPE, 0, CPU)))[0] for _ in range(2)
    ]
    assert torch.equal(*tests)


def test_cifar_says_how_to_get_it(tmp_path: Path) -> None:
    told = registry.build_dataset("cifar100", {"root": str(tmp_path)}).missing()
    assert "there is no folder" in told
    assert f"torchvision.datasets.CIFAR100('{tmp_path}', download=True)" in told
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(QbenchError, match=r"cifar100: .*not found or corrupted"):
        registry.build_dataset("cifar100", {"root": str(tmp_path)}).train()
