"""Drawn images in the layout of Pascal VOC."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection

from tests.helpers.drawn import VOC_SIZE, Drawn


@pytest.mark.parametrize(
    ("year", "split", "count"),
    [
        *(("2007", "train", 23), ("2007", "val", 22), ("2007", "trainval", 45)),
        *(("2007", "test", 30), ("2012", "train", 23), ("2012", "val", 22)),
        ("2012", "trainval", 45),
    ],
)
def test_torchvision_reads_vocs_splits(voc: Drawn, year: str, split: str, count: int) -> None:
    found = VOCDetection(str(voc.folder), year=year, image_set=split)
    assert len(found) == count
    for image, target in found:
        annotation = target["annotation"]
        assert annotation["folder"] == f"VOC{year}"
        assert annotation["segmented"] == "0"
        size = annotation["size"]
        assert (int(size["width"]), int(size["height"]), size["depth"]) == (*image.size, "3")
        assert max(image.size) == VOC_SIZE
        assert len(annotation["object"]) <= 4


def test_vocs_splits_share_no_image(voc: Drawn) -> None:
    main = voc.folder / "VOCdevkit/VOC2007/ImageSets/Main"
    train, val, trainval, test = (
        (main / f"{split}.txt").read_text(encoding="utf-8").split()
        for split in ("train", "val", "trainval", "test")
    )
    assert sorted(train + val) == trainval
    assert not set(train) & set(val)
    assert not set(trainval) & set(test)
    images = (voc.folder / "VOCdevkit/VOC2007/JPEGImages").iterdir()
    assert {path.stem for path in images} == {*trainval, *test}
    assert not (voc.folder / "VOCdevkit/VOC2012/ImageSets/Main/test.txt").exists()


def annotated(voc: Drawn) -> list[tuple[Image.Image, list[dict[str, Any]]]]:
    return [
        (image, target["annotation"]["object"])
        for year in ("2007", "2012")
        for image, target in VOCDetection(str(voc.folder), year=year, image_set="trainval")
    ]


def corners(found: dict[str, Any]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = (int(found["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax"))
    return x0, y0, x1, y1


def test_vocs_objects_are_flagged_as_they_lie(voc: Drawn) -> None:
    flags: Counter[str] = Counter()
    for image, objects in annotated(voc):
        width, height = image.size
        flags["empty"] += not objects
        for found in objects:
            x0, y0, x1, y1 = corners(found)
            assert 1 <= x0 <= x1 <= width
            assert 1 <= y0 <= y1 <= height
            flags[found["name"]] += 1
            if found["truncated"] == "1":
                flags["truncated"] += 1
                assert x0 == 1 or y0 == 1 or x1 == width or y1 == height
            small = min(x1 - x0, y1 - y0) + 1 < VOC_SIZE / 8
            assert found["difficult"] == str(int(small))
            flags["difficult"] += small
    assert flags["empty"] == 4
    assert all(flags[name] > 20 for name in ("aeroplane", "bicycle", "bird", "boat"))
    assert all(flags[name] > 5 for name in ("truncated", "difficult"))
    assert len(flags) == 7


def test_boxes_fit_what_the_jpegs_show(voc: Drawn) -> None:
    off = []
    for image, objects in annotated(voc):
        pixels = np.pad(np.asarray(image).astype(int), ((4, 4), (4, 4), (0, 0)))
        vivid = pixels.max(2) - pixels.min(2) > 80  # more than any background is
        for found in objects:
            x0, y0, x1, y1 = corners(found)
            if found["difficult"] == "0":
                rows, columns = vivid[y0 - 1 : y1 + 8, x0 - 1 : x1 + 8].nonzero()
                shown = columns.min(), rows.min(), columns.max(), rows.max()
                off.append(np.subtract(shown, (4, 4, x1 - x0 + 4, y1 - y0 + 4)))
    assert np.median(off, axis=0).tolist() == [0, 0, 0, 0]
