"""Write drawn images in the layout of Pascal VOC, with exact boxes, for rehearsals."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from qbench.data.synthetic.scene import Object, Scene, appearance, compose
from qbench.data.synthetic.tree import Track, Tree, require
from qbench.data.voc.classes import VOC_CLASSES


@dataclass(frozen=True)
class WrittenVOC:
    """Content of a written folder.

    Attributes:
        files: Number of files written by this call; 0 if all existed.
        trainval: Numbers of training images of VOC2007 and of VOC2012.
        test: Number of test images, all of VOC2007.
        classes: Names of the drawn classes, which are those of VOC.
        drawn: What the objects of these classes look like.
    """

    files: int
    trainval: tuple[int, int]
    test: int
    classes: tuple[str, ...]
    drawn: tuple[str, ...]


def write(
    folder: Path,
    train: int = 400,
    test: int = 100,
    classes: int = 5,
    size: int = 96,
    track: Track = iter,
) -> WrittenVOC:
    """Write ``VOCdevkit/VOC2007`` and ``VOCdevkit/VOC2012``.

    `torchvision.datasets.VOCDetection` reads them, with ``folder`` as its root. All test images
    belong to VOC2007. Each year has one half of the training images, which alternate between
    ``train.txt`` and ``val.txt``. A class is a shape and a colour. An image has 1 to 4 objects that
    do not overlap; every twentieth image has none. A box bounds the drawn pixels tightly. The same
    arguments and the same version of Pillow give the same bytes.

    Args:
        folder: Folder to write to. It is created if necessary.
        train: Number of training images, 4 to 99,999.
        test: Number of test images, 2 to 99,999.
        classes: Number of classes, 2 to 20: the first of VOC's.
        size: Longer side of an image in pixels, 32 to 1000. VOC's is 500.
        track: Wraps the paths while they are written, to show progress.

    Returns:
        Numbers of files and images, and the names of the drawn classes.

    Raises:
        QbenchError: An argument is out of range, or the folder holds something else or is not
            writable.
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
    return WrittenVOC(
        written,
        (first, train // 2),
        test,
        VOC_CLASSES[:classes],
        tuple(map(appearance, range(classes))),
    )


def scene(year: str, name: str, classes: int, size: int) -> Scene:
    """Compose the scene of an image, as in ``scene('VOC2007', '000005', 5, 96)``.

    Args:
        year: Folder of the year.
        name: Name of the image, ending in six digits. Every twentieth image is empty.
        classes: Number of classes, 2 to 20.
        size: Longer side in pixels.
    """
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
