"""Any folder of images: its layouts, its split, its name, and what is part of a key."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from qbench import registry
from qbench.benchmark.benchmark import Benchmark
from qbench.data.folder import Folder
from qbench.errors import QbenchError
from qbench.suite.grid import expand
from qbench.suite.rehearsal import rehearsed
from tests.helpers.suites import load

SUITE = """\
name: mine
dataset: folder
data: {root: FOLDER, title: "Birds & bees", image_size: 32}
models: [resnet18]
bits: [2/2]
methods: [ste]
seeds: [0]
"""


def photograph(path: Path, seed: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Ten photographs of each of three classes, without a split."""
    root = tmp_path / "birds"
    for label, name in enumerate(("crow", "owl", "wren")):
        for i in range(10):
            photograph(root / name / f"{i}.jpg", 10 * label + i)
    return root


def folder(root: Path, **options: Any) -> Folder:
    built = registry.build_dataset("folder", {"root": str(root), "image_size": 32, **options})
    assert isinstance(built, Folder)
    return built


def names(dataset: Folder) -> tuple[set[str], set[str]]:
    train, test = ({os.fsdecode(path) for path in split.paths} for split in dataset._splits)
    return train, test


# Splits -------------------------------------------------------------------------------------------


def test_a_share_of_each_class_tests_where_there_is_no_split(photographs: Path) -> None:
    dataset = folder(photographs)
    assert dataset.num_classes == 3
    assert dataset.sizes() == (24, 6)
    assert [dataset.test()[i][1] for i in range(6)] == [0, 0, 1, 1, 2, 2]
    train, test = names(dataset)
    assert not train & test
    assert names(folder(photographs)) == (train, test)
    assert folder(photographs, test_share=0.5).sizes() == (15, 15)
    assert folder(photographs, test_share=0.01).sizes() == (27, 3)
    assert folder(photographs, test_share=0.99).sizes() == (3, 27)


def test_more_images_leave_most_others_where_they_are(photographs: Path) -> None:
    train, test = names(folder(photographs))
    for i in range(10, 12):
        photograph(photographs / "owl" / f"{i}.jpg", 100 + i)
    later, tested = names(folder(photographs))
    assert len((train & tested) | (test & later)) <= 2


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_a_split_that_is_there_is_used(photographs: Path, name: str) -> None:
    (photographs / "train").mkdir()
    for each in ("crow", "owl", "wren"):
        (photographs / each).rename(photographs / "train" / each)
    photograph(photographs / name / "wren" / "a.png", 99)
    dataset = folder(photographs)
    assert dataset.sizes() == (30, 1)
    assert dataset.test()[0][1] == 2


def test_training_images_are_split_where_nothing_else_is_there(photographs: Path) -> None:
    train, test = names(folder(photographs))
    (photographs / "train").mkdir()
    for each in ("crow", "owl", "wren"):
        (photographs / each).rename(photographs / "train" / each)
    within = tuple({f"train/{name}" for name in split} for split in (train, test))
    assert names(folder(photographs)) == within


def test_a_split_whose_class_folders_are_empty_is_named(photographs: Path) -> None:
    (photographs / "train").mkdir()
    for name in ("crow", "owl", "wren"):
        (photographs / name).rename(photographs / "train" / name)
        (photographs / "valid" / name).mkdir(parents=True)
    with pytest.raises(QbenchError, match="valid: its folders hold no image; add the images"):
        folder(photographs).sizes()


def test_a_class_may_be_called_train(photographs: Path) -> None:
    (photographs / "crow").rename(photographs / "train")
    assert folder(photographs).sizes() == (24, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (["a.jpg"], r"should hold a folder of images for every class, and holds a\.jpg"),
        (["crow/a.jpg", "crow/b.jpg"], "has one class; a classifier needs two or more"),
        (["crow/a.jpg", "crow/b.jpg", "owl/a.jpg"], "owl: has one image; a class needs two"),
        (["crow/a.jpg", "owl/a.heic"], r"owl: holds no image, only \.heic"),
        (["train/crow/a.jpg", "train/owl/b.jpg", "val/wren/c.jpg"], "no training images are of a"),
    ],
)
def test_a_folder_that_cannot_be_split_is_named(
    tmp_path: Path, make: list[str], message: str
) -> None:
    for i, name in enumerate(make):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes([i]))
    with pytest.raises(QbenchError, match=message):
        folder(tmp_path).identity()


def test_an_image_that_trains_and_tests_is_named(photographs: Path) -> None:
    train, test = names(folder(photographs))
    trained, tested = photographs / min(train), photographs / min(test)
    shutil.copy(trained, tested)
    with pytest.raises(QbenchError, match=f"{tested}: is the same image as {trained}"):
        folder(photographs).identity()


# Images -------------------------------------------------------------------------------------------


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn right by 90° to view upright
    for name in ("crow", "owl"):
        for i in range(2):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            half = np.zeros((32, 32, 3), np.uint8)
            half[:, :16] = 100 + i + (name == "owl") * 10  # the left half is bright
            Image.fromarray(half).save(path, exif=exif)
    image, _ = folder(tmp_path).test()[0]
    assert image.shape == (3, 32, 32)
    assert image[:, :12].min() > 90  # the upper half is
    assert image[:, -12:].max() < 10


def test_training_images_are_of_one_size_and_inputs_are_standardised(photographs: Path) -> None:
    dataset = folder(photographs)
    images, labels = dataset.collate([dataset.train()[i] for i in range(24)])
    assert (images.shape, images.dtype) == ((24, 3, 32, 32), torch.uint8)
    assert labels.unique().tolist() == [0, 1, 2]
    inputs = dataset.to_input(images)
    assert inputs.dtype == torch.float32
    assert -3 < float(inputs.min()) < float(inputs.max()) < 3


# Names and keys -----------------------------------------------------------------------------------


def test_tables_name_the_data(photographs: Path, tmp_path: Path) -> None:
    assert folder(photographs).title == "birds"
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE.replace("FOLDER", str(photographs)))
    trials = Benchmark.open(path, tmp_path / "results").trials()
    assert set(trials["dataset"]) == {"Birds & bees"}


def test_a_key_depends_on_the_images_and_not_on_their_place_and_title(
    photographs: Path, tmp_path: Path
) -> None:
    here = folder(photographs).identity()
    assert here == {"image_size": 32, "classes": 3, "train": 24, "test": 6, "files": here["files"]}
    shutil.copytree(photographs, tmp_path / "copy")
    assert folder(tmp_path / "copy", title="Other").identity() == here
    photograph(tmp_path / "copy" / "owl" / "3.jpg", 3, quality=30)
    assert folder(tmp_path / "copy").identity()["files"] != here["files"]
    assert folder(photographs, test_share=0.3).identity()["files"] != here["files"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "data.image_size is 1 or more, not 0"),
        ({"test_share": 1}, "data.test_share is between 0 and 1, not 1"),
        ({"title": "two\nlines"}, "data.title is one line of at most 60 characters"),
        ({"titel": "x"}, "no option 'titel' of data; did you mean 'title'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(QbenchError, match=message):
        registry.build_dataset("folder", options)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "Say --set data.root=FOLDER" in registry.build_dataset("folder").missing()
    dataset = folder(tmp_path / "nowhere")
    expected = f"there is no folder {tmp_path / 'nowhere'}; {tmp_path} holds nothing"
    assert expected in dataset.missing()
    assert dataset.sizes() == (0, 0)
    with pytest.raises(QbenchError, match="there is no folder"):
        dataset.train()


def test_a_suite_is_planned_without_the_images_and_rehearsed(tmp_path: Path) -> None:
    suite = load(tmp_path, SUITE.replace("FOLDER", str(tmp_path / "nowhere")))
    assert [each.unsupported for each in expand(suite)] == ["", ""]
    short = rehearsed(suite, tmp_path / "stand-in")
    dataset = registry.build_dataset("folder", short.data)
    assert dataset.title == "Birds & bees"
    assert (dataset.num_classes, dataset.image_shape) == (10, (3, 32, 32))
