"""Folders that `qbench data` writes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from qbench.data.synthetic import imagenet_like, voc_like
from tests.conftest import Qbench

IMAGENET_SIZE, VOC_SIZE = 100, 80

write_imagenet = partial(imagenet_like.write, classes=10, per_class=30, size=IMAGENET_SIZE)

write_voc = partial(voc_like.write, train=90, test=30, classes=4, size=VOC_SIZE)


@dataclass
class Drawn:
    """A folder that the command line wrote, and what it printed."""

    folder: Path
    command: list[str | Path]
    output: str


def draw(qbench: Qbench, kind: str, folder: Path, write: partial[Any]) -> Drawn:
    options = write.keywords.items()
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options]
    command: list[str | Path] = ["data", kind, folder, *itertools.chain(*words)]
    return Drawn(folder, command, qbench(*command))


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def unreadable(folder: Path) -> list[Path]:
    """The images that PIL cannot load."""
    found = []
    for path in sorted(folder.rglob("*.JPEG")):
        try:
            Image.open(path).load()
        except OSError:
            found.append(path)
    return found
