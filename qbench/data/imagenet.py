"""ImageNet, or other images in its layout, read from disk."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from qbench.data import Dataset, content_of, data_folder, standardised
from qbench.data.image_tree import Images, Index, index
from qbench.errors import QbenchError
from qbench.spec.recipe import Recipe

IMAGENET_CLASSES, IMAGENET_TRAINING, IMAGENET_TEST = 1000, 1_281_167, 50_000
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RESIZE = 256 / 224  # shorter side / crop


class ImageNet(Dataset):
    """ILSVRC 2012 (Russakovsky et al., 2015, arXiv:1409.0575): training and validation images.

    Two layouts are read: folders ``train`` and ``val`` with one folder of images per class, as in
    torchvision; or lists ``train.txt`` and ``val.txt`` with one line ``path label`` per image, as
    in the code of arXiv:1911.09464. Classes are those of the training images: a class may be
    without validation images. An EXIF orientation is ignored, as in the code of published results.

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
    def label(self) -> str:  # type: ignore[override]
        """Name of data without the 1000 classes of ImageNet; empty for those with them."""
        if self.num_classes == IMAGENET_CLASSES:
            return ""
        return f"{self.num_classes} classes in ImageNet's layout"

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes of the training images, or ImageNet's 1000 if they are missing."""
        return IMAGENET_CLASSES if self.missing() else self._train.num_classes

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
        """Return what differs from ImageNet: size of the crop, numbers of classes and images.

        Class folders without validation images are counted, too.
        """
        own = {"image_size": self._size, "classes": self.num_classes}
        own |= dict(zip(("train", "test"), self.sizes(), strict=True))
        original = {
            "image_size": 224,
            "classes": IMAGENET_CLASSES,
            "train": IMAGENET_TRAINING,
            "test": IMAGENET_TEST,
        }
        differing = {name: value for name, value in own.items() if value != original[name]}
        if self.missing() or self._test.listed:
            return differing
        untested = np.setdiff1d(self._train.labels, self._test.labels).size
        return differing | ({"classes_without_test": untested} if untested else {})

    def train(self) -> TorchDataset[Any]:
        """Return the training images, each cropped and flipped at random."""
        crop = [v2.RandomCrop(self._size), v2.RandomHorizontalFlip()]
        return Images(self._train, v2.Compose([*self._resized, *crop]))

    def unaugmented(self) -> TorchDataset[Any]:
        """Return the training images, preprocessed like the validation images."""
        return self._centred(self._train)

    def test(self) -> TorchDataset[Any]:
        """Return the validation images; the labels of ImageNet's test images are not public."""
        return self._centred(self._test)

    def to_input(self, images: Tensor) -> Tensor:
        """Standardise bytes, (N, 3, S, S), by channel. Returns float32."""
        return standardised(images, MEAN, DEVIATION)

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Write ten classes of small images, with every kind of file that ImageNet has."""
        from qbench.data.synthetic import imagenet_like

        imagenet_like.write(folder, classes=10, per_class=20, size=96)
        return {"root": str(folder), "image_size": 64}

    def _centred(self, images: Index) -> Images:
        return Images(images, v2.Compose([*self._resized, v2.CenterCrop(self._size)]))

    @property
    def _resized(self) -> list[v2.Transform]:
        """First steps of both splits. They convert to a tensor: torch resizes faster than PIL."""
        return [v2.PILToTensor(), v2.Resize(round(self._size * RESIZE), antialias=True)]

    @cached_property
    def _folder(self) -> Path:
        root = self._root or data_folder()
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
        return index(self._folder, "train")

    @cached_property
    def _test(self) -> Index:
        return index(self._folder, "val", self._train)
