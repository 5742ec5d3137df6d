"""Trees in VOC's format, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qbench.data.voc.voc import VOC

Add = Callable[..., Path]
Box = tuple[float, float, float, float]

XML = """<annotation>
  <filename>{name}.jpg</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>
"""
OBJECT = """  <object>
    <name>{label}</name>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  </object>
"""


def object_xml(label: str, box: Box, difficult: int = 0) -> str:
    """One object; its box in VOC's pixels, counted from 1, the last included."""
    return OBJECT.format(*box, label=label, difficult=difficult)


def add_image(
    root: Path, year: int, split: str, name: str, objects: Sequence[str], image: Image.Image
) -> Path:
    """Add an image to a split of a tree; returns its annotation's file."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    image.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
    with (folder / "ImageSets" / "Main" / f"{split}.txt").open("a", encoding="utf-8") as names:
        names.write(f"{name}\n")
    annotation = folder / "Annotations" / f"{name}.xml"
    text = XML.format(name=name, width=image.width, height=image.height, objects="".join(objects))
    annotation.write_text(text, encoding="utf-8")
    return annotation


def picture(width: int = 40, height: int = 20) -> Image.Image:
    """Return an image of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def voc(root: Path, **options: Any) -> VOC:
    """Return the dataset of a tree, with images of 20×20 pixels."""
    return VOC(root=str(root), **{"image_size": 20, **options})
