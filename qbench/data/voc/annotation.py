"""Annotations of Pascal VOC: one XML file per image, with its objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor

from qbench.errors import QbenchError, nearest

_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Annotation:
    """Annotation of an image.

    Attributes:
        objects: ``boxes``, float32, (n, 4), in pixels as x1 y1 x2 y2; ``labels``, int64, (n,), from
            1; and ``difficult``, bool, (n,).
        size: Width and height of the image in pixels, as the annotation has them. None if it does
            not say.
    """

    objects: dict[str, Tensor]
    size: tuple[int, int] | None


def read_annotation(file: Path, classes: Sequence[str]) -> Annotation:
    """Read the annotation of an image.

    VOC counts pixels from 1, and a box includes its last pixel. Here a box is (xmin − 1, ymin − 1,
    xmax, ymax), so that the length of a side is its number of pixels. Boxes without area are left
    out.

    Args:
        file: Annotation, which has the name of its image.
        classes: Names of the classes. The first has label 1.

    Raises:
        QbenchError: The file is missing, is not a valid annotation, or is that of another image.
            The message names it.
    """
    try:
        annotation = ElementTree.parse(file).getroot()  # noqa: S314 — the user's own file
    except ElementTree.ParseError as error:
        raise QbenchError(f"{file}: this annotation is no XML: {error}") from error
    except OSError as error:
        raise QbenchError(f"{file}: cannot read this annotation: {error.strerror}") from error
    if annotation.tag != "annotation":
        raise QbenchError(
            f"{file}: is no annotation of Pascal VOC: its outermost element is "
            f"<{annotation.tag}>, not <annotation>"
        )
    items = annotation.findall("object")
    tags = [element.tag for element in annotation.iter() if isinstance(element.tag, str)]
    if sum(tag.lower().rpartition("}")[2] == "object" for tag in tags) != len(items):
        raise QbenchError(f"{file}: has an object that is not directly in <annotation> as <object>")
    filename = annotation.findtext("filename", "").strip()
    if filename and Path(filename).stem != file.stem and filename != file.stem:
        raise QbenchError(f"{file}: is the annotation of {filename}, by its <filename>")
    boxes, labels, difficult = [], [], []
    for item in items:
        name = item.findtext("name", "").strip()
        if name not in classes:
            raise QbenchError(f"{file}: no class is named '{name}'{nearest(name, classes)}")
        x1, y1, x2, y2 = box = _box(file, name, item)
        if x1 == x2 or y1 == y2:
            continue
        boxes.append(box)
        labels.append(1 + classes.index(name))
        difficult.append(item.findtext("difficult", "0").strip() == "1")
    objects = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "difficult": torch.tensor(difficult, dtype=torch.bool),
    }
    return Annotation(objects, _size(file, annotation))


def _size(file: Path, annotation: ElementTree.Element) -> tuple[int, int] | None:
    """Read the size of the image. Some tools leave it out, or write 0."""
    texts = [annotation.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    if not any(text.strip("0") for text in texts):
        return None
    try:
        width, height = map(int, texts)
    except ValueError as error:
        raise QbenchError(f"{file}: <size> should have two whole numbers, not {texts}") from error
    return width, height


def _box(file: Path, name: str, item: ElementTree.Element) -> tuple[float, ...]:
    """Read the box of an object as x1 y1 x2 y2."""
    texts = [item.findtext(f"bndbox/{side}", "") for side in _SIDES]
    try:
        x1, y1, x2, y2 = map(float, texts)  # a few of VOC2012 are not whole numbers
    except ValueError as error:
        raise QbenchError(
            f"{file}: the box of a {name} should have four numbers, {', '.join(_SIDES)}, "
            f"and has {texts}"
        ) from error
    box = (x1 - 1, y1 - 1, x2, y2)
    if not (box[0] <= x2 and box[1] <= y2):
        raise QbenchError(f"{file}: the box of a {name} ends before it begins: {texts}")
    return box
