"""Images of one's own, in one folder per class."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from qbench.data import Dataset, content_of, standardised
from qbench.data.duplicates import check_apart
from qbench.data.image_tree import Images, Index, by_classes, check_classes, index, scan
from qbench.data.imagenet import DEVIATION, MEAN, RESIZE
from qbench.errors import QbenchError
from qbench.spec.recipe import Recipe

_TEST_SPLITS = ("val", "valid", "validation", "test")  # the first one that exists
_MAX_TITLE_LENGTH = 60


class Folder(Dataset):
    """Any folder of images, for a network of ImageNet that is fine-tuned.

    The folder holds ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, or ``CLASS/*.jpg`` alone;
    ``valid``, ``validation`` and ``test`` are read where there is no ``val``. Lists ``train.txt``
    and ``val.txt`` are read as `qbench.data.imagenet.ImageNet` reads them. Without a split, a share
    of the images of each class tests: those whose path has the smallest hash, so that more images
    leave the others where they are.

    Images are turned upright as their EXIF orientation says. Training takes a random crop of at
    least half the area, resized, and a flip; evaluation the centre crop of the resized image. Items
    are uint8 images, (3, S, S), and labels; `to_input` standardises them as for ImageNet.

    Args:
        root: Folder of the images.
        title: Name of the data in tables, 60 characters at most. Defaults to the folder's name.
        image_size: S, height and width of an image in pixels, 1 or more.
        test_share: Share of the images of each class that test where there is no split, in (0, 1).

    Raises:
        QbenchError: An option is out of range.
    """

    augmented = "crop of half the area or more, resized; flip"
    source = "images of your own"
    loader_workers = 8
    shown = ("top1", "top5")
    full_precision_recipe = Recipe(
        epochs=30, batch_size=32, optimizer="sgd", lr=0.01, weight_decay=1e-4, schedule="cosine"
    )
    aligned_recipe = Recipe(
        epochs=20,
        batch_size=32,
        optimizer="sgd",
        lr=1e-3,
        weight_decay=1e-4,
        schedule="cosine",
        gradient_clip=5.0,
        initialization="pretrained",
    )

    def __init__(
        self,
        root: str | None = None,
        title: str = "",
        image_size: int = 224,
        test_share: float = 0.2,
    ) -> None:
        if image_size < 1:
            raise QbenchError(f"folder: data.image_size is 1 or more, not {image_size}")
        if not 0 < test_share < 1:
            raise QbenchError(f"folder: data.test_share is between 0 and 1, not {test_share}")
        if len(title) > _MAX_TITLE_LENGTH or not title.isprintable():
            raise QbenchError(
                f"folder: data.title is one line of at most {_MAX_TITLE_LENGTH} characters, "
                f"not {title!r}"
            )
        self._root = Path(root) if root else None
        self._title = title
        self._size = image_size
        self._test_share = test_share
        self.image_shape = (3, image_size, image_size)

    @property
    def title(self) -> str:  # type: ignore[override]
        """Name of the data in tables."""
        return self._title or (self._root.resolve().name if self._root else "") or "Folder"

    @property
    def label(self) -> str:  # type: ignore[override]
        """Name of the data in headings: the title."""
        return self.title

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes of the training images, or 2 if they are missing."""
        return 2 if self.missing() else self._splits[0].num_classes

    def missing(self) -> str:
        """Say which folder is missing, or return an empty string."""
        if self._root is None:
            return "folder: where are the images? Say --set data.root=FOLDER"
        if not self._root.is_dir():
            found = content_of(self._root.parent)
            return f"folder: there is no folder {self._root}; {self._root.parent} holds {found}"
        return ""

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of images, or 0 if they are missing."""
        if self.missing():
            return 0, 0
        train, test = self._splits
        return len(train.labels), len(test.labels)

    def identity(self) -> dict[str, Any]:
        """Return image size, numbers of classes and images, and a hash of paths and file sizes."""
        if self.missing():
            return {"image_size": self._size}
        train, test = self.sizes()
        return {
            "image_size": self._size,
            "classes": self.num_classes,
            "train": train,
            "test": test,
            "files": self._hash,
        }

    def train(self) -> TorchDataset[Any]:
        """Return the training images, each cropped and flipped at random."""
        crop = v2.RandomResizedCrop(self._size, scale=(0.5, 1), antialias=True)
        steps = [v2.PILToTensor(), crop, v2.RandomHorizontalFlip()]
        return Images(self._split(0), v2.Compose(steps), upright=True)

    def unaugmented(self) -> TorchDataset[Any]:
        """Return the training images, preprocessed like the test images."""
        return self._centred(0)

    def test(self) -> TorchDataset[Any]:
        """Return the test images."""
        return self._centred(1)

    def to_input(self, images: Tensor) -> Tensor:
        """Standardise bytes, (N, 3, S, S), by the channels of ImageNet. Returns float32."""
        return standardised(images, MEAN, DEVIATION)

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Write ten classes of small drawn images."""
        from qbench.data.synthetic import imagenet_like

        imagenet_like.write(folder, classes=10, per_class=20, size=96)
        return {"root": str(folder), "title": self.title, "image_size": min(64, self._size)}

    def _centred(self, place: int) -> Images:
        resize = v2.Resize(round(self._size * RESIZE), antialias=True)
        steps = [v2.PILToTensor(), resize, v2.CenterCrop(self._size)]
        return Images(self._split(place), v2.Compose(steps), upright=True)

    def _split(self, place: int) -> Index:
        if reason := self.missing():
            raise QbenchError(reason)
        return self._splits[place]

    @cached_property
    def _splits(self) -> tuple[Index, Index]:
        """Training and test images.

        Raises:
            QbenchError: The folder holds no classes, a class is too small to split, or an image is
                in both splits.
        """
        root = self._root or Path()
        train = root / "train"
        if (root / "train.txt").is_file() or (train.is_dir() and scan(train)):
            names = (n for n in _TEST_SPLITS if _exists(root, n))
            name = next(names, None)
            if name is None:
                _check_no_empty_split(root)
            first = index(root, "train")
            if name is None and first.listed:
                raise QbenchError(f"{root}: has a list train.txt, and needs a list val.txt too")
            splits = (first, index(root, name, first)) if name else self._by_hash(train, root)
        else:
            splits = self._by_hash(root, root)
        check_apart(*(map(split.folder.joinpath, _names(split)) for split in splits))
        return splits

    def _by_hash(self, base: Path, root: Path) -> tuple[Index, Index]:
        """Split the images in class folders: those of the smallest hashes test."""
        found = scan(base)
        if not found:
            raise QbenchError(
                f"{base}: should hold a folder of images for every class, and holds "
                f"{content_of(base)}"
            )
        check_classes(base, len(found))
        train, test = {}, {}
        for name, files in found.items():
            if len(files) < 2:
                raise QbenchError(
                    f"{base / name}: has one image; a class needs two, to train and to test"
                )
            count = min(len(files) - 1, max(1, math.floor(self._test_share * len(files) + 0.5)))
            tested = set(sorted(files, key=lambda file: _digest(f"{name}/{file}"))[:count])
            train[name] = [file for file in files if file not in tested]
            test[name] = [file for file in files if file in tested]
        classes = {name: label for label, name in enumerate(found)}
        split = "" if base == root else base.name
        parts: tuple[Mapping[str, list[str]], ...] = (train, test)
        first, second = (by_classes(root, split, part, classes) for part in parts)
        return first, second

    @cached_property
    def _hash(self) -> str:
        lines = []
        for split in self._splits:
            for name, label in zip(_names(split), split.labels.tolist(), strict=True):
                lines.append(f"{name} {(split.folder / name).stat().st_size} {label}")
            lines.append("")
        return _digest("\n".join(lines))[:16]


def _exists(root: Path, split: str) -> bool:
    folder = root / split
    return (root / f"{split}.txt").is_file() or (folder.is_dir() and bool(scan(folder)))


def _check_no_empty_split(root: Path) -> None:
    """Raise QbenchError if there is a test split whose class folders are all empty."""
    for folder in map(root.joinpath, _TEST_SPLITS):
        if folder.is_dir() and any(entry.is_dir() for entry in folder.glob("[!.]*")):
            raise QbenchError(
                f"{folder}: its folders hold no image; add the images, or remove {folder.name} to "
                "test on a share of the training images"
            )


def _names(split: Index) -> list[str]:
    return [os.fsdecode(path) for path in split.paths]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
