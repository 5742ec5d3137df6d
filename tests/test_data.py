from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qbench import registry
from qbench.errors import QbenchError
from qbench.grid import expand
from qbench.suite import load_suite

SUITES = Path(__file__).parents[1] / "suites"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders as ImageNet's, with a few images of noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("n01440764", "n01443537"):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (280 + 40 * i, 300, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.JPEG")
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path))
    return tmp_path


def test_imagenet_is_read_from_its_folders(tree: Path) -> None:
    dataset: Any = registry.build_dataset("imagenet")
    assert dataset.num_classes == 2
    images, labels = dataset.train()[[0, 5, 2]]
    assert images.shape == (3, 3, 224, 224)
    assert labels.tolist() == [0, 1, 0]
    assert len(dataset.test()) == 4


def test_evaluation_sees_the_same_pixels_every_time_and_training_does_not(tree: Path) -> None:
    dataset: Any = registry.build_dataset("imagenet")
    torch.manual_seed(0)
    test, train = dataset.test(), dataset.train()
    assert torch.equal(test[0][0], test[0][0])
    assert not torch.equal(train[0][0], train[0][0])


def test_without_its_data_imagenet_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QBENCH_DATA", raising=False)
    with pytest.raises(QbenchError, match="set QBENCH_DATA"):
        registry.build_dataset("imagenet")
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path))
    with pytest.raises(QbenchError, match=r"there is no folder .*imagenet/train"):
        registry.build_dataset("imagenet")


@pytest.mark.parametrize("name", ["bias", "layerwise", "pretrained", "temperature"])
def test_an_ablation_of_the_paper_runs_on_imagenet_by_set(tree: Path, name: str) -> None:
    changes = ["dataset=imagenet", "models=[resnet18]", "seeds=[0]", "recipe=paper"]
    suite = load_suite(SUITES / f"qn_{name}.yaml", changes)
    cells = [cell for cell in expand(suite) if cell.trial.method != "fp32"]
    assert len(cells) == len(suite.methods) * len(suite.bits)
    assert not any(cell.unsupported for cell in cells)
    assert {cell.trial.recipe.epochs for cell in cells} == {55}
