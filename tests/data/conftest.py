"""Trees of images that tests of datasets read."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.data.synthetic import imagenet_like, voc_like
from tests.helpers.voc_tree import Add, add_image, object_xml, picture


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as ImageNet's, with images of every kind that it has, one of them broken."""
    folder = tmp_path_factory.mktemp("data") / "imagenet"
    imagenet_like.write(folder, classes=3, per_class=6, size=48)
    return folder


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Add an image of 40×20 pixels to a split of a tree, which has one of each already."""

    def to_split(split: str, *objects: str, name: str = "", year: int = 2007) -> Path:
        name = name or f"{split}{len(list(tmp_path.rglob('*.xml')))}"
        return add_image(tmp_path, year, split, name, objects, picture())

    for year, split in ((2007, "trainval"), (2007, "test"), (2012, "trainval")):
        to_split(split, object_xml("dog", (1, 1, 20, 10)), year=year)
    return to_split


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of drawn shapes."""
    folder = tmp_path_factory.mktemp("drawn")
    voc_like.write(folder, train=40, test=10)
    return folder
