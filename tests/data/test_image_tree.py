"""Class folders and lists of images: which images they hold, and with which labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from qbench.data import UnreadableError
from qbench.data.image_tree import Images, Index, index, scan
from qbench.data.imagenet import ImageNet
from qbench.errors import QbenchError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def both(folder: Path) -> tuple[Index, Index]:
    train = index(folder, "train")
    return train, index(folder, "val", train)


def labels(split: Index) -> dict[str, int]:
    names = map(os.fsdecode, split.paths)
    return dict(zip(names, split.labels.tolist(), strict=True))


TRAIN = ("train/cat/1.jpg", "train/dog/1.jpg", "train/owl/1.jpg")


# Class folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        "train/.ipynb_checkpoints/1-checkpoint.jpg",
        "train/.DS_Store",
        "train/__MACOSX/._1.jpg",
        "train/@eaDir/1.jpg",
        "train/cat/.hidden.jpg",
        "train/cat/@eaDir/1.jpg/thumb.jpg",
        "val/.ipynb_checkpoints/1.jpg",
        "val/dog/._1.jpg",
    ],
)
def test_what_is_hidden_is_no_class_and_no_image(tmp_path: Path, other: str) -> None:
    touch(tmp_path, *TRAIN, "val/dog/2.jpg", "val/owl/2.jpg", other)
    train, val = both(tmp_path)
    assert labels(train) == dict(zip(TRAIN, (0, 1, 2), strict=True))
    assert labels(val) == {"val/dog/2.jpg": 1, "val/owl/2.jpg": 2}


def test_an_empty_folder_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, *TRAIN, "val/owl/2.jpg")
    (tmp_path / "train" / "bat").mkdir()
    (tmp_path / "val" / "emu").mkdir()
    train, val = both(tmp_path)
    assert train.num_classes == 3
    assert labels(val) == {"val/owl/2.jpg": 2}


def test_a_class_may_be_without_validation_images(tmp_path: Path) -> None:
    touch(tmp_path, *TRAIN, "val/cat/2.jpg", "val/owl/2.jpg")
    assert labels(both(tmp_path)[1]) == {"val/cat/2.jpg": 0, "val/owl/2.jpg": 2}
    dataset = ImageNet(root=str(tmp_path))
    assert dataset.num_classes == 3
    assert dataset.identity()["classes_without_test"] == 1  # its labels were once others


def test_images_in_folders_of_a_class_belong_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "cat/2020/b.jpg", "cat/a.PNG", "cat/notes.txt", "dog/x.webp")
    assert scan(tmp_path) == {"cat": ["2020/b.jpg", "a.PNG"], "dog": ["x.webp"]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["val/dgo/1.jpg"], r"val/dgo: no training images are of a class 'dgo'; did you mean"),
        (["val/cat/1.heic"], r"val/cat: holds no image, only \.heic; images are \.jpg"),
        (["train/bat/a.gif", "val/cat/1.jpg"], r"train/bat: holds no image, only \.gif"),
        (["val/.hidden/1.jpg"], r"val should hold a folder of images for every class"),
    ],
)
def test_a_folder_that_cannot_be_a_class_is_named(
    tmp_path: Path, files: list[str], message: str
) -> None:
    touch(tmp_path, *TRAIN, *files)
    with pytest.raises(QbenchError, match=message):
        both(tmp_path)


def test_one_class_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg")
    with pytest.raises(QbenchError, match=r"train: has one class; a classifier needs two or more"):
        both(tmp_path)


def test_training_images_do_not_validate(tmp_path: Path) -> None:
    touch(tmp_path, *TRAIN)
    (tmp_path / "val").symlink_to("train")
    with pytest.raises(QbenchError, match=r"val: is the folder of the training images, .*train"):
        both(tmp_path)


# Lists --------------------------------------------------------------------------------------------


def test_lists_name_images_and_labels(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/2.jpg")
    (tmp_path / "train.txt").write_bytes("\ufeffcat/1.jpg 0\r\ndog/1.jpg 1\r\n".encode())
    write(tmp_path / "val.txt", "", "dog/2.jpg 1")
    train, val = both(tmp_path)
    assert labels(train) == {"cat/1.jpg": 0, "dog/1.jpg": 1}
    assert labels(val) == {"dog/2.jpg": 1}


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (["a.jpg 1", "b.jpg 2"], ["c.jpg 1"], r"train\.txt: its labels are from 1 to 2; .*from 0"),
        (["a.jpg 0", "b.jpg 0"], ["c.jpg 0"], r"train\.txt: has one class"),
        ([], ["c.jpg 0"], r"train\.txt: it lists no image"),
        (["a.jpg 0", "b.jpg 1"], [""], r"val\.txt: it lists no image"),
        (["a.jpg 0", "b.jpg 1"], ["c.jpg 0", "d.jpg 2"], r"val\.txt:2: no training image has the"),
        (["a.jpg 0", "b.jpg 1"], ["", "b.jpg 1"], r"val\.txt:2: b\.jpg is a training image too"),
        (["a.jpg 0", "a.jpg 1"], ["c.jpg 0"], r"train\.txt:2: a\.jpg is in line 1 already"),
        (
            ["a.jpg 0", "b.jpg 1"],
            ["c.jpg 0", "c.jpg 0"],
            r"val\.txt:2: c\.jpg is in line 1",
        ),
        (["a.jpg -1", "b.jpg 1"], ["c.jpg 1"], r"train\.txt:1: expected `path label`"),
        (
            ["a.jpg 0", f"b.jpg {10**30}"],
            ["c.jpg 0"],
            r"train\.txt:2: a label is 1,000,000 at",
        ),
        (["a.jpg ²", "b.jpg 1"], ["c.jpg 1"], r"train\.txt:1: expected `path label`"),
    ],
)
def test_a_list_that_contradicts_itself_is_named(
    tmp_path: Path, train: list[str], val: list[str], message: str
) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    write(tmp_path / "train.txt", *train)
    write(tmp_path / "val.txt", *val)
    with pytest.raises(QbenchError, match=message):
        both(tmp_path)


def test_a_list_beside_class_folders_is_numbered_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, *TRAIN, "val/dog/2.jpg", "flat/2.jpg")
    (tmp_path / "val").rename(tmp_path / "other")
    write(tmp_path / "val.txt", "flat/2.jpg 2", "other/dog/2.jpg 1")
    assert labels(both(tmp_path)[1]) == {"flat/2.jpg": 2, "other/dog/2.jpg": 1}
    write(tmp_path / "val.txt", "flat/2.jpg 2", "other/dog/2.jpg 2")
    with pytest.raises(QbenchError, match=r"val\.txt:2: the label of 'dog' is 2, and 1 among the"):
        both(tmp_path)


def test_class_folders_beside_a_list_have_its_labels(tmp_path: Path) -> None:
    touch(tmp_path, "images/cat/1.jpg", "images/dog/1.jpg", "val/cat/2.jpg")
    write(tmp_path / "train.txt", "images/dog/1.jpg 0", "images/cat/1.jpg 1")
    assert labels(both(tmp_path)[1]) == {"val/cat/2.jpg": 1}
    touch(tmp_path, "images/cat/2.jpg")
    write(tmp_path / "train.txt", "images/dog/1.jpg 0", "images/cat/1.jpg 1", "images/cat/2.jpg 0")
    with pytest.raises(QbenchError, match=r"val: the training images are in a list .*list these"):
        both(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train/cat/1.jpg 0", "train/dog/1.jpg 1"], r"train\.txt: lists 2 images, .* hold 3, not"),
        ([f"{path} {label}" for label, path in enumerate(TRAIN[::-1])], r"1: the label of .* is 0"),
        ([f"{path} {label}" for label, path in enumerate(TRAIN, 1)], r"train\.txt:1: the label of"),
    ],
)
def test_a_list_that_contradicts_the_class_folders_beside_it_is_named(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    touch(tmp_path, *TRAIN)
    write(tmp_path / "train.txt", *lines)
    with pytest.raises(QbenchError, match=message):
        index(tmp_path, "train")


@pytest.mark.parametrize(
    "lines",
    [
        [f"{path} {label}" for label, path in enumerate(TRAIN)],
        [f"./{path.removeprefix('train/')} {label}" for label, path in enumerate(TRAIN)],
        ["Photographs of the first year."],
        ["000001", "000002"],
        [],
    ],
)
def test_a_text_beside_class_folders_may_be_their_list_or_no_list(
    tmp_path: Path, lines: list[str]
) -> None:
    touch(tmp_path, *TRAIN)
    write(tmp_path / "train.txt", *lines)
    assert labels(index(tmp_path, "train")) == dict(zip(TRAIN, range(3), strict=True))


# Pixels -------------------------------------------------------------------------------------------


def read(folder: Path, upright: bool = False) -> Images:
    one = Index(folder, np.array([b"a.png"]), np.array([0]))
    return Images(one, v2.PILToTensor(), upright)


def test_an_orientation_is_heeded_where_images_are_to_be_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90° to view upright
    Image.new("RGB", (4, 2)).save(tmp_path / "a.png", exif=exif)
    assert read(tmp_path)[0][0].shape == (3, 2, 4)
    assert read(tmp_path, upright=True)[0][0].shape == (3, 4, 2)


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", np.uint16), ("I", np.int32)])
def test_an_image_of_more_than_8_bits_is_not_clipped_to_white(
    tmp_path: Path, mode: str, dtype: type
) -> None:
    Image.fromarray(np.full((2, 2), 1000, dtype)).save(tmp_path / "a.png", format="TIFF")
    with pytest.raises(UnreadableError, match=r"a\.png \(more than 8 bits per channel"):
        read(tmp_path)[0]
