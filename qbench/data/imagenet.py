"""ImageNet, or any data laid out as it is, from the user's disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from qbench.data import Dataset, UnreadableError, content_of, standardised
from qbench.errors import QbenchError
from qbench.spec.recipe import Recipe

IMAGENET_CLASSES, IMAGENET_TRAINING, IMAGENET_TEST = 1000, 1_281_167, 50_000
_MEAN, _DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_RESIZE = 256 / 224  # the shorter side over the crop


class ImageNet(Dataset):
    """ILSVRC 2012 (Russakovsky et al., 2015, arXiv:1409.0575): training and validation images.

    Two layouts are read: folders ``train`` and ``val`` with a folder of images for every class, as
    torchvision has them; or lists ``train.txt`` and ``val.txt``, a line ``path label`` for every
    image, as arXiv:1911.09464's code has them. They lie in ``root``, or in
    ``$QBENCH_DATA/imagenet``.

    Preprocessing is that of arXiv:1911.09464: the shorter side to 256 pixels; a random crop of 224
    and a horizontal flip in training, the centre crop in evaluation; standardised. Images travel as
    bytes and are standardised on the device.

    Args:
        root: the folder with ``train`` and ``val``, or one that holds it as ``imagenet``.
        image_size: height and width of the crop; the shorter side is 256/224 of it.
    """

    title = "ImageNet"
    augmented = "crop of the resized image, flip"
    source = "image-net.org, ILSVRC 2012"
    loader_workers = 8
    shown = ("top1", "top5")
    full_precision_recipe = Recipe(
        epochs=90,
        batch_size=256,
        optimizer="sgd",
        lr=0.1,
        weight_decay=1e-4,
        schedule="step",
        milestones=(30, 60),
    )
    aligned_recipe = Recipe(
        epochs=55,
        batch_size=256,
        optimizer="sgd",
        lr=1e-3,
        weight_decay=1e-4,
        schedule="step",
        milestones=(30, 45),
        gradient_clip=5.0,
        initialization="pretrained",
    )

    def __init__(self, root: str | None = None, image_size: int = 224) -> None:
        self._root = root
        self._size = image_size
        self.image_shape = (3, image_size, image_size)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Classes of the training images; of ImageNet where they are missing."""
        return IMAGENET_CLASSES if self.missing() else int(self._train.labels.max()) + 1

    def missing(self) -> str:
        """Where images should be and are not."""
        try:
            folder = self._folder
            for name in ("train", "val"):
                if not (folder / name).is_dir() and not (folder / f"{name}.txt").is_file():
                    return (
                        f"imagenet: {folder} has neither a folder '{name}' nor a list "
                        f"'{name}.txt'; it has {content_of(folder)}"
                    )
        except QbenchError as error:
            return str(error)
        return ""

    def sizes(self) -> tuple[int, int]:
        """Numbers of images; of ImageNet where they are missing."""
        if self.missing():
            return IMAGENET_TRAINING, IMAGENET_TEST
        return len(self._train.labels), len(self._test.labels)

    def identity(self) -> dict[str, Any]:
        """What is not as in ImageNet: the size of the crop, the numbers of classes and images."""
        own = {"image_size": self._size, "classes": self.num_classes}
        own |= dict(zip(("train", "test"), self.sizes(), strict=True))
        original = {
            "image_size": 224,
            "classes": IMAGENET_CLASSES,
            "train": IMAGENET_TRAINING,
            "test": IMAGENET_TEST,
        }
        return {name: value for name, value in own.items() if value != original[name]}

    def train(self) -> TorchDataset[Any]:
        """The training images."""
        crop = [v2.RandomCrop(self._size), v2.RandomHorizontalFlip()]
        return Images(self._train, v2.Compose([*self._resized, *crop]))

    def test(self) -> TorchDataset[Any]:
        """The validation images, whose labels are public."""
        crop = v2.CenterCrop(self._size)
        return Images(self._test, v2.Compose([*self._resized, crop]))

    def to_input(self, images: Tensor) -> Tensor:
        """Bytes standardised by the channels' means and deviations."""
        return standardised(images, _MEAN, _DEVIATION)

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Ten classes of small images, of every kind that ImageNet has."""
        from qbench.data.synthetic import imagenet_like

        imagenet_like.write(folder, classes=10, per_class=20, size=96)
        return {"root": str(folder), "image_size": 64}

    @property
    def _resized(self) -> list[v2.Transform]:
        """To bytes first: torch resizes them faster than PIL."""
        return [v2.PILToTensor(), v2.Resize(round(self._size * _RESIZE), antialias=True)]

    @cached_property
    def _folder(self) -> Path:
        root = self._root or os.environ.get("QBENCH_DATA")
        if not root:
            raise QbenchError(
                "imagenet: where is it? Set QBENCH_DATA to the folder that holds imagenet/train "
                "and imagenet/val, or say --set data.root=FOLDER. `qbench data imagenet-like "
                "FOLDER` writes a small one to try things out"
            )
        places = [Path(root) / "imagenet", Path(root)]
        for place in places:
            if (place / "train").is_dir() or (place / "train.txt").is_file():
                return place
        looked = f"{places[0]} or {places[1]}"
        raise QbenchError(
            f"imagenet: expected a folder 'train' or a list 'train.txt' in {looked}; "
            f"found {content_of(Path(root))}. `qbench data imagenet-like FOLDER` writes a small "
            "tree to try things out"
        )

    @cached_property
    def _train(self) -> Index:
        return _index(self._folder, "train")

    @cached_property
    def _test(self) -> Index:
        found = _index(self._folder, "val")
        if int(found.labels.max()) > int(self._train.labels.max()):
            raise QbenchError(f"imagenet: {self._folder}: 'val' has classes that 'train' has not")
        return found


@dataclass(frozen=True)
class Index:
    """The images of a split: compact arrays, which processes that load can share.

    Attributes:
        folder: that paths are relative to.
        paths: bytes, one for each image.
        labels: int64, one for each image.
    """

    folder: Path
    paths: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]


class Images(TorchDataset[tuple[Any, int]]):
    """Images of an index, transformed, and their labels.

    Args:
        index: which.
        transform: from a PIL image to a uint8 tensor, (3, H, W).
    """

    def __init__(self, index: Index, transform: v2.Transform) -> None:
        self._index = index
        self._transform = transform

    def __len__(self) -> int:
        return len(self._index.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        name = os.fsdecode(self._index.paths[i])
        try:
            with Image.open(self._index.folder / name) as file:
                image = file.convert("RGB")  # some are grey or CMYK
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableError(f"{name} ({error})") from error
        return self._transform(image), int(self._index.labels[i])


def _index(folder: Path, split: str) -> Index:
    """The images of a split, by its list where there is no folder for every class."""
    base = folder / split
    classes = sorted(e.name for e in os.scandir(base) if e.is_dir()) if base.is_dir() else []
    listed = folder / f"{split}.txt"
    if classes:
        pairs = [
            (f"{split}/{name}/{file}", label)
            for label, name in enumerate(classes)
            for file in sorted(os.listdir(base / name))
            if file.lower().endswith(IMG_EXTENSIONS)
        ]
    elif listed.is_file():
        pairs = list(_listed(listed))
    else:
        raise QbenchError(
            f"imagenet: {base} should hold a folder of images for every class, and holds "
            f"{content_of(base)}; or list its images in {listed}, a line `path label` for each"
        )
    if not pairs:
        raise QbenchError(f"imagenet: {base} has {len(classes)} folders and no image in them")
    paths, labels = zip(*pairs, strict=True)
    return Index(folder, np.array([os.fsencode(p) for p in paths]), np.array(labels, np.int64))


def _listed(path: Path) -> Iterator[tuple[str, int]]:
    """The images that a list names, relative to its folder or to the split's folder beside it."""
    prefix = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdigit():
            raise QbenchError(f"{path}:{number}: expected `path label`, found {line.strip()!r}")
        if prefix is None:
            prefixes = ("", f"{path.stem}/")
            prefix = next((p for p in prefixes if (path.parent / p / name).exists()), None)
        if prefix is None:
            raise QbenchError(f"{path}:{number}: there is no image {path.parent / name}")
        yield prefix + name.strip(), int(label)
