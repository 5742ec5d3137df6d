"""Pascal VOC: its splits, its place on disk, its options, its augmentation."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qbench import registry
from qbench.data.shapes import Shapes
from qbench.data.synthetic import voc_like
from qbench.data.voc.voc import VOC
from qbench.errors import QbenchError
from qbench.train.loading import training_loader
from tests.helpers.images import CPU
from tests.helpers.voc_tree import Add, object_xml, voc


def test_both_years_train_and_one_tests(tmp_path: Path, add: Add) -> None:
    add("trainval", object_xml("cat", (1, 1, 9, 9)), year=2012)
    dataset = voc(tmp_path)
    assert (len(dataset.train()), len(dataset.test())) == (3, 1)
    assert len(voc(tmp_path, years=(2012,)).train()) == 2
    assert dataset.sizes() == (3, 1)
    assert dataset.num_classes == 21


@pytest.mark.parametrize("place", [".", "voc", "voc/VOCdevkit"])
def test_a_root_may_be_the_folder_or_hold_it(tmp_path: Path, place: str) -> None:
    voc_like.write(tmp_path / "voc", train=4, test=2)
    dataset = VOC(root=str(tmp_path / place))
    assert dataset.missing() == ""
    assert len(dataset.test()) == 2


def test_the_default_root_is_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QBENCH_DATA", raising=False)
    assert "Set QBENCH_DATA to the folder that holds voc/VOCdevkit" in VOC().missing()
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path))
    for name, dataset in (("voc", VOC), ("shapes", Shapes)):
        reason = dataset().missing()
        assert f"expected a folder {tmp_path}/{name}/VOCdevkit or {tmp_path}/VOCdevkit" in reason
        assert "found nothing" in reason
        assert "`qbench data voc-like FOLDER` draws a small tree" in reason
    voc_like.write(tmp_path / "shapes", train=4, test=2)
    assert Shapes().missing() == ""


@pytest.mark.parametrize("part", ["ImageSets/Main/trainval.txt", "Annotations", "JPEGImages"])
def test_what_is_missing_of_a_tree_is_named(tmp_path: Path, add: Add, part: str) -> None:
    path = tmp_path / "VOCdevkit" / "VOC2012" / part
    path.rename(path.with_name("elsewhere"))
    dataset = voc(tmp_path)
    assert f"expected {path}; found" in dataset.missing()
    assert "elsewhere" in dataset.missing()
    with pytest.raises(QbenchError, match=f"expected {path}"):
        dataset.train()
    assert dataset.sizes() == (16_551, 4_952)
    assert voc(tmp_path, years=[2007]).missing() == ""


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    dataset: Any = registry.build_dataset("voc", {"root": str(tmp_path / "nowhere")})
    assert (dataset.num_classes, dataset.image_shape) == (21, (3, 300, 300))
    assert dataset.identity() == {}
    assert (Shapes().num_classes, Shapes().image_shape) == (6, (3, 96, 96))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"years": [2011]}, "data.years are 2007 and 2012, not .*2011"),
        ({"years": []}, "data.years are 2007 and 2012"),
        ({"image_size": 0}, "data.image_size is 1 or more, not 0"),
        ({"year": [2007]}, "no option 'year' of data; did you mean 'years'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(QbenchError, match=reason):
        registry.build_dataset("voc", options)


def test_what_differs_from_the_original_is_part_of_a_trials_key(tmp_path: Path, add: Add) -> None:
    assert voc(tmp_path, image_size=300).identity() == {"train": 2, "test": 1}
    only = voc(tmp_path, years=[2012]).identity()
    assert only == {"image_size": 20, "years": [2012], "train": 1, "test": 1}


@pytest.mark.parametrize("kind", [VOC, Shapes])
def test_training_boxes_stay_boxes_within_the_image(drawn: Path, kind: type[VOC]) -> None:
    dataset = kind(root=str(drawn), image_size=64)
    torch.manual_seed(0)
    train = dataset.train()
    items = [train[i] for i in range(len(train)) for _ in range(3)]
    boxes = torch.cat([target["boxes"] for _, target in items])
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 1
    assert 0 <= float(boxes.min()) < float(boxes.max()) <= 64
    assert all(len(t["boxes"]) == len(t["labels"]) == len(t["difficult"]) for _, t in items)
    images, targets = dataset.collate(items[:5])
    assert images.shape == (5, 3, 64, 64)
    assert len(targets) == 5
    inputs = dataset.to_input(images)
    assert inputs.is_floating_point()
    assert 0 <= inputs.min() < inputs.max() <= 1


@pytest.mark.parametrize("kind", [VOC, Shapes])
def test_augmentation_draws_from_torch_alone(drawn: Path, kind: type[VOC]) -> None:
    train = kind(root=str(drawn), image_size=64).train()
    python, numpy = random.getstate(), str(np.random.get_state())
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append([train[i][0] for i in range(10)])
    assert all(map(torch.equal, seen[0], seen[1]))
    assert not all(map(torch.equal, seen[0], seen[2]))
    assert random.getstate() == python
    assert str(np.random.get_state()) == numpy


def test_batches_are_the_same_whoever_loads_them(drawn: Path) -> None:
    dataset = VOC(root=str(drawn), image_size=32)
    batches = []
    for workers in (0, 2):
        order = torch.Generator().manual_seed(0)
        loader = training_loader(
            dataset, dataset.train(), Shapes.aligned_recipe, 0, order, workers, CPU
        )
        batches.append(list(loader))
    for (here, ours), (there, theirs) in zip(*batches, strict=True):
        assert torch.equal(here, there)
        for mine, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_stand_in_is_drawn(tmp_path: Path) -> None:
    for kind in (VOC, Shapes):
        dataset = kind(**kind().stand_in(tmp_path))
        assert dataset.missing() == ""
        assert dataset.sizes() == (40, 10)
