"""Write drawn images in the layout of ImageNet, with its odd files, for rehearsals."""

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
_TURN_RIGHT = 6  # orientation value: turn right by 90° to view upright


@dataclass(frozen=True)
class WrittenImageNet:
    """Content of a written folder.

    Attributes:
        files: Number of files written by this call; 0 if all existed.
        train: Number of training images, including the broken one.
        val: Number of validation images.
        broken: Path of the training image that is cut off.
    """

    files: int
    train: int
    val: int
    broken: Path


class Look(NamedTuple):
    """Appearance of a class: a shape on a patterned background.

    Attributes:
        hue: Hue of the shape in degrees, 0 to 359.
        shape: Key of ``drawing.SHAPES``.
        pattern: Key of ``drawing.PATTERNS``.
        tint: Hue of the background in degrees, 0 to 359.
    """

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

    A list has one line ``path label`` per image, with paths relative to ``folder``, in the order of
    sorted folders. The code of arXiv:1911.09464 (aliyun/alibabacloud-quantization-networks) reads
    this format. A class is the colour of a shape, the shape, and the pattern behind it. Most images
    are RGB; as in ImageNet, some are greyscale or CMYK. One training image is a PNG, one is rotated
    by its EXIF orientation, and one is cut off, as a broken copy is. The same arguments and the
    same version of Pillow give the same bytes.

    Args:
        folder: Folder to write to. It is created if necessary.
        classes: Number of classes, 2 to 1000.
        per_class: Training images per class, 4 to 1300. There are a fifth as many validation images
            per class, at least 1.
        size: Typical shorter side in pixels, 16 to 1000. Actual ones are 0.3 to 1.7 times that.
        track: Wraps the paths while they are written, to show progress.

    Returns:
        Numbers of files and images, and the path of the broken one.

    Raises:
        QbenchError: An argument is out of range, or the folder holds something else or is not
            writable.
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
    """Return the name of a class's folder, in the form of ImageNet's and in the order of labels.

    Args:
        label: Label of the class, from 0.
    """
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
    """Return the appearance of a class; each of the 1,000 classes has its own.

    Args:
        label: Label of the class, 0 to 999.
    """
    hue, rest = 36 * (label % 10), label // 10
    shape = list(drawing.SHAPES)[(label + rest) % 5]
    pattern = list(drawing.PATTERNS)[(label // 2 + rest // 5) % 5]
    return Look(hue, shape, pattern, (hue + 72 * (1 + rest // 25)) % 360)


def _picture(label: int, random: np.random.Generator, width: int, height: int) -> Image.Image:
    own, short = look(label), min(width, height)
    tint = drawing.colour(own.tint + int(random.integers(-30, 31)), 40, 90)
    period = max(2, short // int(random.integers(6, 13)))
    pixels = drawing.backdrop(random, width, height, own.pattern, period, tint)
    # A smaller shape of another class comes first: the class's own shape may cover it.
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
        scan = content.rindex(b"\xff\xda")  # keep the header intact
        return content[: (scan + len(content)) // 2]
    return content
