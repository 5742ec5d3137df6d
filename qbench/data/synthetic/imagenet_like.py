"""A folder of drawn images in the shape of ImageNet, oddities included, to rehearse with."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from qbench.data.synthetic import drawing
from qbench.data.synthetic.tree import Track, Tree, require

MOST_CLASSES = 1000
ODDITIES = ["broken", "png", "on_its_side", "grey", "cmyk"]
_ORIENTATION = 0x0112  # the EXIF tag
_TURN_RIGHT = 6  # a quarter, to be upright


@dataclass(frozen=True)
class WrittenImageNet:
    """What a folder holds.

    Attributes:
        files: how many of its files were written now; 0 if all were there.
        train: number of training images, the broken one included.
        val: number of validation images.
        broken: the training image that is cut off.
    """

    files: int
    train: int
    val: int
    broken: Path


class Look(NamedTuple):
    """How a class looks: a shape and its hue, before a pattern with a tint; hues in degrees."""

    hue: int
    shape: str
    pattern: str
    tint: int


@dataclass(frozen=True)
class _Entry:
    path: str
    label: int
    kind: str


def write(
    folder: Path, classes: int = 10, per_class: int = 50, size: int = 160, track: Track = iter
) -> WrittenImageNet:
    """Write ``train/WNID/*.JPEG``, ``val/WNID/*.JPEG``, and the lists ``train.txt``, ``val.txt``.

    A list has a line ``path label`` for each image, paths relative to ``folder``, as the code of
    arXiv:1911.09464 reads them (aliyun/alibabacloud-quantization-networks), in the order that
    sorted folders give. A class is the colour of a shape, the shape, and the pattern behind it.
    Most images are RGB; as in ImageNet, some are greyscale or CMYK, and of the training images one
    is a PNG and one is on its side by its EXIF orientation. One more is cut off, as a broken copy
    is. The same arguments and the same Pillow give the same bytes.

    Args:
        folder: where to; made if need be.
        classes: how many, 2 to 1000.
        per_class: training images of each, 4 to 1300; a fifth as many, at least 1, to validate.
        size: the typical shorter side in pixels, 16 to 1000; they have from 0.3 to 1.7 times that.
        track: passes the paths on as they are written, to show how far it is.

    Raises:
        QbenchError: an argument is out of range; the folder holds something else, or cannot be
            written to.
    """
    require("--classes", classes, 2, MOST_CLASSES, f"ImageNet has {MOST_CLASSES}")
    require("--per-class", per_class, 4, 1300, "ImageNet has 1300; fewer than 4 leave out odd ones")
    require("--size", size, 16, 1000, "ImageNet's are around 375; in fewer than 16 no shape shows")
    splits = {
        "train": _entries("train", classes, per_class, ODDITIES),
        "val": _entries("val", classes, max(1, per_class // 5), []),
    }
    files: dict[str, Callable[[], bytes]] = {}
    for name, split in splits.items():
        files.update({entry.path: partial(_image, entry, size) for entry in split})
        text = "".join(f"{entry.path} {entry.label}\n" for entry in split)
        files[f"{name}.txt"] = text.encode
    arguments = f"--classes {classes} --per-class {per_class} --size {size}"
    written = Tree(f"qbench data imagenet-like DIR {arguments}", files).write(folder, track)
    (broken,) = (entry.path for entry in splits["train"] if entry.kind == "broken")
    return WrittenImageNet(written, len(splits["train"]), len(splits["val"]), folder / broken)


def wordnet_id(label: int) -> str:
    """The name of a class' folder, in the form of ImageNet's and in the order of labels."""
    return f"n{1440764 + 2773 * label:08d}"


def _entries(split: str, classes: int, count: int, oddities: list[str]) -> list[_Entry]:
    labels: dict[str, int] = {}
    for label in range(classes):
        name = wordnet_id(label)
        if split == "train":
            stems = [f"{name}_{i}" for i in range(count)]
        else:
            stems = [f"ILSVRC2012_val_{i * classes + label + 1:08d}" for i in range(count)]
        labels.update({f"{split}/{name}/{stem}.JPEG": label for stem in sorted(stems)})
    total = len(labels)
    kinds = [*oddities, *["grey"] * (total // 40), *["cmyk"] * (total // 100)]
    kinds += ["rgb"] * (total - len(kinds))
    order = drawing.generator(f"{split} {classes} {count}").permutation(total)
    return [_Entry(path, labels[path], kinds[i]) for path, i in zip(labels, order, strict=True)]


def _image(entry: _Entry, size: int) -> bytes:
    random = drawing.generator(entry.path)
    short = size if entry.kind == "broken" else size * int(random.integers(30, 171)) // 100
    long = short * int(random.integers(100, 201)) // 100
    width, height = (short, long) if random.integers(3) == 0 else (long, short)
    picture = _picture(entry.label, random, max(width, 8), max(height, 8))
    return _encode(picture, entry.kind, int(random.integers(75, 96)))


def look(label: int) -> Look:
    """What the images of a class have in common; each of the 1,000 has a look of its own."""
    hue, rest = 36 * (label % 10), label // 10
    shape = list(drawing.SHAPES)[(label + rest) % 5]
    pattern = list(drawing.PATTERNS)[(label // 2 + rest // 5) % 5]
    return Look(hue, shape, pattern, (hue + 72 * (1 + rest // 25)) % 360)


def _picture(label: int, random: np.random.Generator, width: int, height: int) -> Image.Image:
    own, short = look(label), min(width, height)
    tint = drawing.colour(own.tint + int(random.integers(-30, 31)), 40, 90)
    period = max(2, short // int(random.integers(6, 13)))
    pixels = drawing.backdrop(random, width, height, own.pattern, period, tint)
    # Something of another class, smaller, and partly hidden by what counts.
    other = look(int(random.integers(MOST_CLASSES)))
    for thing, least, most in ((other, 15, 30), (own, 40, 80)):
        side = max(3, short * int(random.integers(least, most + 1)) // 100)
        x, y = random.integers(0, (width - side + 1, height - side + 1))
        hue, saturation, value = random.integers((-25, 60, 55), (26, 101, 101)).tolist()
        ink = drawing.colour(thing.hue + hue, saturation, value)
        pixels[y : y + side, x : x + side][drawing.stamp(thing.shape, side, side)] = ink
    return drawing.grain(random, pixels, 25)


def _encode(picture: Image.Image, kind: str, quality: int) -> bytes:
    file = io.BytesIO()
    if kind == "png":
        picture.save(file, "PNG")
    elif kind == "on_its_side":
        exif = Image.Exif()
        exif[_ORIENTATION] = _TURN_RIGHT
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        picture.save(file, "JPEG", quality=quality, exif=exif)
    else:
        picture = picture.convert({"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB"))
        picture.save(file, "JPEG", quality=quality)
    content = file.getvalue()
    if kind == "broken":
        scan = content.rindex(b"\xff\xda")  # the header stays whole
        return content[: (scan + len(content)) // 2]
    return content
