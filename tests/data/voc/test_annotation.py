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
