"""Trees of drawn files: the same bytes, written once, into a folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbench.data.synthetic import imagenet_like, voc_like
from qbench.errors import QbenchError
from tests.conftest import Qbench
from tests.helpers.drawn import Drawn, everything, unreadable, write_imagenet, write_voc


def test_the_same_arguments_give_the_same_bytes(
    imagenet: Drawn, voc: Drawn, tmp_path: Path
) -> None:
    write_imagenet(tmp_path / "imagenet")
    write_voc(tmp_path / "voc")
    assert everything(tmp_path / "imagenet") == everything(imagenet.folder)
    assert everything(tmp_path / "voc") == everything(voc.folder)


def test_what_is_there_is_not_written_again(imagenet: Drawn, qbench: Qbench) -> None:
    before = {path: path.stat().st_mtime_ns for path in imagenet.folder.rglob("*")}
    assert "is there already, and nothing was written" in qbench(*imagenet.command)
    assert {path: path.stat().st_mtime_ns for path in imagenet.folder.rglob("*")} == before


def test_an_interrupted_tree_is_completed(tmp_path: Path) -> None:
    def interrupt(paths: Any) -> Any:
        yield from paths[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imagenet_like.write(tmp_path / "stopped", 2, 15, 40, interrupt)
    whole = imagenet_like.write(tmp_path / "whole", 2, 15, 40)
    assert imagenet_like.write(tmp_path / "stopped", 2, 15, 40).files == whole.files - 20
    assert everything(tmp_path / "stopped") == everything(tmp_path / "whole")


def test_a_folder_that_holds_something_else_is_left_as_it_is(
    qbench: Qbench, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    output = qbench.fresh("data", "voc-like", tmp_path, code=2)
    assert f"{tmp_path} is not empty" in output
    assert "name a folder that is empty or not there yet" in output
    assert everything(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(QbenchError, match=r"notes\.txt: cannot write there"):
        imagenet_like.write(tmp_path / "notes.txt")


def test_a_tree_of_other_arguments_is_left_as_it_is(voc: Drawn) -> None:
    before = everything(voc.folder)
    with pytest.raises(QbenchError, match=r"holds another tree, by .*--train 90 .*name another"):
        voc_like.write(voc.folder, train=8)
    with pytest.raises(QbenchError, match="holds another tree, by `qbench data voc-like"):
        imagenet_like.write(voc.folder)
    assert everything(voc.folder) == before


@pytest.mark.parametrize(
    ("write", "option", "value", "message"),
    [
        (imagenet_like.write, "classes", 1, "--classes 1: can be 2 to 1000"),
        (imagenet_like.write, "classes", 1001, "ImageNet has 1000"),
        (imagenet_like.write, "per_class", 3, "--per-class 3: can be 4 to 1300"),
        (imagenet_like.write, "size", 15, "--size 15: can be 16 to 1000"),
        (voc_like.write, "classes", 21, "--classes 21: can be 2 to 20"),
        (voc_like.write, "train", 3, "--train 3: can be 4 to"),
        (voc_like.write, "test", 1, "--test 1: can be 2 to"),
        (voc_like.write, "size", 31, "--size 31: can be 32 to"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_made(
    tmp_path: Path, write: Callable[..., object], option: str, value: int, message: str
) -> None:
    with pytest.raises(QbenchError, match=message):
        write(tmp_path / "new", **{option: value})
    assert not (tmp_path / "new").exists()


def test_the_smallest_trees_can_be_drawn(tmp_path: Path) -> None:
    written = imagenet_like.write(tmp_path / "imagenet", 2, 4, 16)
    assert (written.train, written.val) == (8, 2)
    assert unreadable(tmp_path / "imagenet") == [written.broken]
    assert voc_like.write(tmp_path / "voc", 4, 2, 2, 32).trainval == (2, 2)
