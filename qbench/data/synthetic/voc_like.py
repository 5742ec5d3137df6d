"""A folder of drawn images in the shape of Pascal VOC, with exact boxes, to rehearse with."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from qbench.data.synthetic.scene import Object, Scene, compose
from qbench.data.synthetic.tree import Track, Tree, require
from qbench.data.voc.classes import VOC_CLASSES


@dataclass(frozen=True)
class WrittenVOC:
    """What a folder holds.

    Attributes:
        files: how many of its files were written now; 0 if all were there.
        trainval: numbers of training images, of VOC2007 and of VOC2012.
        test: number of test images, of VOC2007.
        classes: the names of what is drawn.
    """

    files: int
    trainval: tuple[int, int]
    test: int
    classes: tuple[str, ...]


def write(
    folder: Path,
    train: int = 400,
    test: int = 100,
    classes: int = 5,
    size: int = 96,
    track: Track = iter,
) -> WrittenVOC:
    """Write ``VOCdevkit/VOC2007`` and ``VOCdevkit/VOC2012``.

    `torchvision.datasets.VOCDetection` reads them, with ``folder`` as its root. The test images are
    VOC2007's; of the training images each year has one half, which ``train.txt`` and ``val.txt``
    share in turn. A class is a shape and a colour. An image has 1 to 4 objects, none over another;
    every twentieth has none. A box is the tight one of the pixels that are drawn. The same
    arguments and the same Pillow give the same bytes.

    Args:
        folder: where to; made if need be.
        train: training images, 4 at least.
        test: test images, 2 at least.
        classes: how many of VOC's 20, in their order, 2 at least.
        size: the longer side of an image in pixels, 32 to 1000; VOC's is 500.
        track: passes the paths on as they are written, to show how far it is.

    Raises:
        QbenchError: an argument is out of range; the folder holds something else, or cannot be
            written to.
    """
    require("--train", train, 4, 99_999, "each year's half has images to train and to validate")
    require("--test", test, 2, 99_999, "one alone may be an image that shows nothing")
    require("--classes", classes, 2, len(VOC_CLASSES), f"Pascal VOC has {len(VOC_CLASSES)}")
    require("--size", size, 32, 1000, "VOC's is 500; in fewer than 32 pixels no object shows")
    first = train - train // 2
    of_2007 = [f"{i:06d}" for i in range(1, first + 1)]
    of_test = [f"{i:06d}" for i in range(first + 1, first + test + 1)]
    of_2012 = [f"2012_{i:06d}" for i in range(1, train // 2 + 1)]
    files: dict[str, Callable[[], bytes]] = {}
    for year, names in (("VOC2007", of_2007 + of_test), ("VOC2012", of_2012)):
        for name in names:
            image = partial(_image, year, name, classes, size)
            files[f"VOCdevkit/{year}/JPEGImages/{name}.jpg"] = image
            annotation = partial(_annotation, year, name, classes, size)
            files[f"VOCdevkit/{year}/Annotations/{name}.xml"] = annotation
    for year, lists in (
        ("VOC2007", {**_lists(of_2007), "test": of_test}),
        ("VOC2012", _lists(of_2012)),
    ):
        for split, names in lists.items():
            text = "".join(f"{name}\n" for name in names)
            files[f"VOCdevkit/{year}/ImageSets/Main/{split}.txt"] = text.encode
    arguments = f"--train {train} --test {test} --classes {classes} --size {size}"
    written = Tree(f"qbench data voc-like DIR {arguments}", files).write(folder, track)
    return WrittenVOC(written, (first, train // 2), test, VOC_CLASSES[:classes])


def scene(year: str, name: str, classes: int, size: int) -> Scene:
    """What an image shows, as ``scene('VOC2007', '000005', 5, 96)``; every twentieth is empty."""
    return compose(f"{year}/{name}", classes, size, empty=int(name[-6:]) % 20 == 0)


def _lists(names: list[str]) -> dict[str, list[str]]:
    return {"train": names[::2], "val": names[1::2], "trainval": names}


def _image(year: str, name: str, classes: int, size: int) -> bytes:
    file = io.BytesIO()
    scene(year, name, classes, size).picture().save(file, "JPEG", quality=90)
    return file.getvalue()


def _annotation(year: str, name: str, classes: int, size: int) -> bytes:
    shown = scene(year, name, classes, size)
    root = ElementTree.Element("annotation")
    fields = {
        "folder": year,
        "filename": f"{name}.jpg",
        "source": {"database": "qbench data voc-like", "image": "drawn"},
        "size": {"width": shown.width, "height": shown.height, "depth": 3},
        "segmented": 0,
        "object": [_fields(found) for found in shown.objects()],
    }
    _fill(root, fields)
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root) + b"\n"


def _fields(found: Object) -> dict[str, Any]:
    return {
        "name": VOC_CLASSES[found.label],
        "pose": "Unspecified",
        "truncated": int(found.truncated),
        "difficult": int(found.difficult),
        "bndbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), found.box, strict=True)),
    }


def _fill(parent: ElementTree.Element, fields: dict[str, Any]) -> None:
    for tag, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            child = ElementTree.SubElement(parent, tag)
            if isinstance(one, dict):
                _fill(child, one)
            else:
                child.text = str(one)
