"""ImageNet, or other images in its layout, read from disk."""

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
_RESIZE = 256 / 224  # shorter side / crop


class ImageNet(Dataset):
    """ILSVRC 2012 (Russakovsky et al., 2015, arXiv:1409.0575): training and validation images.

    Two layouts are read: folders ``train`` and ``val`` with one folder of images per class, as in
    torchvision; or lists ``train.txt`` and ``val.txt`` with one line ``path label`` per image, as
    in the code of arXiv:1911.09464.

    Preprocessing is that of arXiv:1911.09464. The shorter side is resized to 256 pixels. Training
    takes a random crop of 224 pixels and a horizontal flip, evaluation the centre crop. Items are
    uint8 images, (3, S, S), and labels; `to_input` standardises them on the device.

    Args:
        root: Folder with ``train`` and ``val``, or a folder that holds it as ``imagenet``. Defaults
            to ``$QBENCH_DATA``.
        image_size: S, height and width of the crop in pixels. The shorter side is 256/224 of it.
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
        """Number of classes of the training images, or ImageNet's 1000 if they are missing."""
        return IMAGENET_CLASSES if self.missing() else int(self._train.labels.max()) + 1

    def missing(self) -> str:
        """Say which folder or list is missing, or return an empty string."""
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
        """Return the numbers of images, or those of ImageNet if images are missing."""
        if self.missing():
            return IMAGENET_TRAINING, IMAGENET_TEST
        return len(self._train.labels), len(self._test.labels)

    def identity(self) -> dict[str, Any]:
        """Return what differs from ImageNet: size of the crop, numbers of classes and images."""
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
        """Return the training images, each cropped and flipped at random."""
        crop = [v2.RandomCrop(self._size), v2.RandomHorizontalFlip()]
        return Images(self._train, v2.Compose([*self._resized, *crop]))

    def test(self) -> TorchDataset[Any]:
        """Return the validation images; the labels of ImageNet's test images are not public."""
        crop = v2.CenterCrop(self._size)
        return Images(self._test, v2.Compose([*self._resized, crop]))

    def to_input(self, images: Tensor) -> Tensor:
        """Standardise bytes, (N, 3, S, S), by channel. Returns float32."""
        return standardised(images, _MEAN, _DEVIATION)

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Write ten classes of small images, with every kind of file that ImageNet has."""
        from qbench.data.synthetic import imagenet_like

        imagenet_like.write(folder, classes=10, per_class=20, size=96)
        return {"root": str(folder), "image_size": 64}

    @property
    def _resized(self) -> list[v2.Transform]:
        """First steps of both splits. They convert to a tensor: torch resizes faster than PIL."""
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
    """Images of a split, in compact arrays that loader processes share.

    Attributes:
        folder: Folder that paths are relative to.
        paths: Path of each image, bytes, (N,).
        labels: Label of each image, int64, (N,), from 0.
    """

    folder: Path
    paths: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]


class Images(TorchDataset[tuple[Any, int]]):
    """Images of an index, transformed, and their labels.

    An item is a uint8 image, (3, H, W), and its label. An image that cannot be decoded raises
    `UnreadableError`.

    Args:
        index: Paths and labels of the images.
        transform: Transform of an RGB PIL image to a uint8 tensor, (3, H, W).
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
                image = file.convert("RGB")  # some are greyscale or CMYK
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableError(f"{name} ({error})") from error
        return self._transform(image), int(self._index.labels[i])


def _index(folder: Path, split: str) -> Index:
    """List the images of a split by its class folders, or by its list if it has none."""
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
    """Yield the images of a list: paths relative to its folder or to the split's folder."""
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
