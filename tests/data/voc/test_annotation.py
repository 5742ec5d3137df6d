"""Annotations of Pascal VOC."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.errors import QbenchError
from tests.helpers.voc_tree import Add, object_xml, voc


def test_parts_of_objects_are_no_objects(tmp_path: Path, add: Add) -> None:
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part></object>"
    add("test", object_xml("person", (1, 1, 9, 9)).replace("</object>", part))
    assert voc(tmp_path).test()[1][1]["labels"].tolist() == [15]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (object_xml("dgo", (1, 1, 9, 9)), "no class is named 'dgo'; did you mean 'dog'"),
        (object_xml("dog", (9, 1, 3, 9)), "the box of a dog ends before it begins"),
        (object_xml("dog", (1, 1, float("nan"), 9)), "the box of a dog ends before it begins"),
        ("<object><name>dog</name></object>", "should have four numbers"),
        ("<object>", "this annotation is no XML"),
    ],
)
def test_an_annotation_that_is_none_is_refused_by_its_name(
    tmp_path: Path, add: Add, written: str, reason: str
) -> None:
    file = add("test", written)
    with pytest.raises(QbenchError, match=reason) as error:
        voc(tmp_path).test()
    assert str(error.value).startswith(f"{file}: ")


def test_an_annotation_that_is_not_there_is_named(tmp_path: Path, add: Add) -> None:
    file = add("trainval")
    file.unlink()
    with pytest.raises(QbenchError, match=f"{file}: cannot read this annotation: No such file"):
        voc(tmp_path).train()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("annotation>", "html>", "is no annotation of Pascal VOC: its outermost element is <html>"),
        ("annotation>", "x:annotation xmlns:x='y'>", "this annotation is no XML|is no annotation"),
        ("object>", "Object>", "has an object that is not directly in <annotation>"),
        ("  <object>", "<objects><object>", "has an object that is not|is no XML"),
        (".jpg</filename>", "0.jpg</filename>", r"is the annotation of other0\.jpg, by its <file"),
        ("<width>40", "<width>wide", "<size> should have two whole numbers"),
    ],
)
def test_what_an_annotation_says_of_itself_is_checked(
    tmp_path: Path, add: Add, old: str, new: str, reason: str
) -> None:
    file = add("test", object_xml("dog", (1, 1, 9, 9)), name="other")
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(QbenchError, match=reason):
        voc(tmp_path).test()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<size><width>40</width><height>20</height><depth>3</depth></size>", ""),
        ("<width>40</width><height>20</height>", "<width>0</width><height>0</height>"),
        ("<filename>other.jpg</filename>", ""),
        ("other.jpg", "other.png"),
        ("other.jpg", "other"),
    ],
)
def test_an_annotation_need_not_say_its_size_and_its_suffix(
    tmp_path: Path, add: Add, old: str, new: str
) -> None:
    file = add("test", object_xml("dog", (1, 1, 9, 9)), name="other")
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert len(voc(tmp_path).test()) == 2
