"""Annotations of Pascal VOC: one XML file per image, with its objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor

from qbench.errors import QbenchError, nearest

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_objects(file: Path, classes: Sequence[str]) -> dict[str, Tensor]:
    """Read the objects of an image.

    VOC counts pixels from 1, and a box includes its last pixel. Here a box is (xmin − 1, ymin − 1,
    xmax, ymax), so that the length of a side is its number of pixels. Boxes without area are left
    out.

    Args:
        file: Annotation.
        classes: Names of the classes. The first has label 1.

    Returns:
        ``boxes``, float32, (n, 4), in pixels as x1 y1 x2 y2; ``labels``, int64, (n,), from 1; and
        ``difficult``, bool, (n,).

    Raises:
        QbenchError: The file is missing or is not a valid annotation. The message names it.
    """
    try:
        annotation = ElementTree.parse(file).getroot()  # noqa: S314 — the user's own file
    except ElementTree.ParseError as error:
        raise QbenchError(f"{file}: this annotation is no XML: {error}") from error
    except OSError as error:
        raise QbenchError(f"{file}: cannot read this annotation: {error.strerror}") from error
    boxes, labels, difficult = [], [], []
    for item in annotation.findall("object"):
        name = item.findtext("name", "").strip()
        if name not in classes:
            raise QbenchError(f"{file}: no class is named '{name}'{nearest(name, classes)}")
        x1, y1, x2, y2 = box = _box(file, name, item)
        if x1 == x2 or y1 == y2:
            continue
        boxes.append(box)
        labels.append(1 + classes.index(name))
        difficult.append(item.findtext("difficult", "0").strip() == "1")
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "difficult": torch.tensor(difficult, dtype=torch.bool),
    }


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
