"""Pascal VOC, or other data in its layout, read from disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from qbench.data import Dataset, content_of, data_folder
from qbench.data.voc.classes import VOC_CLASSES
from qbench.data.voc.images import (
    Item,
    Target,
    VOCImages,
    drop_boxes_without_area,
    list_of,
    listed,
)
from qbench.errors import QbenchError
from qbench.spec.recipe import Recipe
from qbench.spec.words import counted

_MEAN_COLOUR = (123.0, 117.0, 104.0)  # of ImageNet; fills the border of an image that is zoomed out
_PARTS = ("Annotations", "JPEGImages")


class VOC(Dataset):
    """VOC2007 and VOC2012 trainval for training, VOC2007 test (Everingham et al., IJCV 2010).

    The files are in ``VOCdevkit/VOC2007`` and ``VOCdevkit/VOC2012``. An item is an image, uint8,
    (3, S, S), and a dict of ``boxes``, float32, (n, 4), in pixels of that image as x1 y1 x2 y2;
    ``labels``, int64, (n,), from 1, as 0 is the background; and ``difficult``, bool, (n,). A batch
    is the stacked images and a list of the dicts.

    Training images are augmented as in SSD (Liu et al., ECCV 2016, arXiv:1512.02325, Section 2.2):
    colours are distorted, images zoomed out, cropped around objects and flipped. All images are
    stretched to S×S. Training leaves out difficult objects, and images without other objects. Test
    targets keep them, and the metric ignores them. Boxes are clipped to their image, and left out
    if they have no area.

    Args:
        root: Folder that holds ``VOCdevkit`` or ``voc/VOCdevkit``, or ``VOCdevkit`` itself.
            Defaults to ``$QBENCH_DATA``.
        image_size: S, height and width of an image in pixels, 1 or more. 300 by default.
        years: Years whose trainval images to train on: 2007, 2012 or both.

    Attributes:
        folder: Name of the dataset's folder in ``$QBENCH_DATA``.
        annotated: Names of the classes in annotations, in the order of their labels.
        size: Default of ``image_size``.
        training: Number of training images of the original data, by year.
        testing: Number of test images of the original data.

    Raises:
        QbenchError: The image size or a year is out of range.
    """

    title = "Pascal VOC"
    augmented = "SSD's: colour, zoom out, crop around objects, flip"
    published_as = ("voc07",)
    source = "host.robots.ox.ac.uk/pascal/VOC, 2007 and 2012"
    task = "detection"
    loader_workers = 8
    shown = ("map50_voc07",)
    folder: ClassVar[str] = "voc"
    classes: ClassVar[tuple[str, ...]] = VOC_CLASSES
    annotated: ClassVar[tuple[str, ...]] = VOC_CLASSES
    size: ClassVar[int] = 300
    training: ClassVar[dict[int, int]] = {2007: 5_011, 2012: 11_540}
    testing: ClassVar[int] = 4_952
    full_precision_recipe = Recipe(  # of SSD300: 120,000 steps
        epochs=232,
        batch_size=32,
        optimizer="sgd",
        lr=1e-3,
        weight_decay=5e-4,
        schedule="step",
        milestones=(155, 194),
    )
    aligned_recipe = Recipe(  # of Quantization Networks
        epochs=100,
        batch_size=16,
        optimizer="sgd",
        lr=1e-5,
        other_lr=1e-7,
        weight_decay=5e-4,
        schedule="step",
        milestones=(70, 90),
        gradient_clip=20.0,
        initialization="pretrained",
    )

    def __init__(
        self,
        root: str | None = None,
        image_size: int | None = None,
        years: Sequence[int] = (2007, 2012),
    ) -> None:
        image_size = self.size if image_size is None else image_size
        if image_size < 1:
            raise QbenchError(f"{self.folder}: data.image_size is 1 or more, not {image_size}")
        if not years or not set(years) <= set(self.training):
            raise QbenchError(f"{self.folder}: data.years are 2007 and 2012, not {list(years)}")
        self._root = root or data_folder()
        self.years = tuple(sorted(set(years)))
        self.num_classes = len(self.classes) + 1
        self.image_shape = (3, image_size, image_size)

    def missing(self) -> str:
        """Say which list or folder is missing, or return an empty string."""
        try:
            for year, split in self._splits:
                for path in (
                    list_of(self._year(year), split),
                    *(self._year(year) / p for p in _PARTS),
                ):
                    if not path.exists():
                        return f"{self.folder}: expected {path}; found {content_of(path.parent)}"
        except QbenchError as error:
            return str(error)
        return ""

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of images in the lists, or of the original if data are missing."""
        if self.missing():
            return self._original_sizes
        *training, test = self._read_lists()
        return sum(map(len, training)), len(test)

    def identity(self) -> dict[str, Any]:
        """Return what differs from the original: image size, years, numbers of images."""
        own: dict[str, Any] = {"image_size": self.image_shape[1], "years": list(self.years)}
        own |= dict(zip(("train", "test"), self.sizes(), strict=True))
        original = {"image_size": self.size, "years": list(self.training)}
        original |= dict(zip(("train", "test"), self._original_sizes, strict=True))
        return {name: value for name, value in own.items() if value != original[name]}

    def train(self) -> ConcatDataset[Item]:
        """Return the images that have an object to train on, augmented.

        Raises:
            QbenchError: Data are missing or malformed. The message names the file.
        """
        steps = [*self.augmentation(), self._stretch, drop_boxes_without_area()]
        return self._training(steps, difficult=False)

    def unaugmented(self) -> ConcatDataset[Item]:
        """Return the images of `train` as `test` returns its images."""
        return self._training([self._stretch])

    def test(self) -> VOCImages:
        """Return the images of VOC2007 test, with their difficult objects.

        Raises:
            QbenchError: Data are missing or malformed. The message names the file.
        """
        return self._images(*self._splits[-1], [self._stretch], train=False)

    def augmentation(self) -> list[v2.Transform]:
        """Return the transforms of training images that precede the stretch to S×S."""
        return [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill={tv_tensors.Image: _MEAN_COLOUR, "others": 0}),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
        ]

    def collate(self, items: Sequence[Item]) -> tuple[Tensor, list[Target]]:
        """Stack the images of a batch to uint8, (N, 3, S, S), and list their targets."""
        images, targets = zip(*items, strict=True)
        return torch.stack(images), list(targets)

    def to_input(self, images: Tensor) -> Tensor:
        """Scale bytes to [0, 1], float32. Detectors standardise images themselves."""
        return images / 255

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Write drawn images, with every kind of object that VOC has."""
        from qbench.data.synthetic import voc_like

        voc_like.write(folder, train=40, test=10)
        return {"root": str(folder)}

    @property
    def _original_sizes(self) -> tuple[int, int]:
        return sum(self.training[year] for year in self.years), self.testing

    def _read_lists(self) -> list[list[str]]:
        """Return the names of the images of each split, and check that none trains and tests.

        Raises:
            QbenchError: A list is not valid, or a test image is a training image.
        """
        files = [list_of(self._year(year), split) for year, split in self._splits]
        names = [listed(file) for file in files]
        for (year, _), training in zip(self._splits[:-1], names, strict=False):
            shared = set(training).intersection(names[-1]) if year == 2007 else set()
            if shared:
                raise QbenchError(
                    f"{files[-1]}: {min(shared)} is a training image too, in {files[0]}, one of "
                    f"{counted(len(shared), 'such image')}"
                )
        return names

    @property
    def _stretch(self) -> v2.Transform:
        return v2.Resize(self.image_shape[1:], antialias=True)

    @cached_property
    def _devkit(self) -> Path:
        draws = "`qbench data voc-like FOLDER` draws a small tree to try things out"
        if not self._root:
            raise QbenchError(
                f"{self.folder}: where is it? Set QBENCH_DATA to the folder that holds "
                f"{self.folder}/VOCdevkit, or say --set data.root=FOLDER. {draws}"
            )
        root = Path(self._root)
        places = [root / self.folder / "VOCdevkit", root / "VOCdevkit"]
        for place in [*places, root]:
            if place.name == "VOCdevkit" and place.is_dir():
                return place
        raise QbenchError(
            f"{self.folder}: expected a folder {places[0]} or {places[1]}; "
            f"found {content_of(root)}. {draws}"
        )

    @property
    def _splits(self) -> list[tuple[int, str]]:
        return [*((year, "trainval") for year in self.years), (2007, "test")]

    def _year(self, year: int) -> Path:
        return self._devkit / f"VOC{year}"

    def _training(self, steps: list[v2.Transform], difficult: bool = True) -> ConcatDataset[Item]:
        parts = self._splits[:-1]
        return ConcatDataset([self._images(*part, steps, True, difficult) for part in parts])

    def _images(
        self,
        year: int,
        split: str,
        steps: list[v2.Transform],
        train: bool,
        difficult: bool = True,
    ) -> VOCImages:
        if reason := self.missing():
            raise QbenchError(reason)
        self._read_lists()
        return VOCImages(self._year(year), split, self.annotated, steps, train, difficult)
