"""ImageNet: 1.28 million photographs of 1,000 classes, from a folder on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets, transforms

from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.recipe import Recipe


class ImageNet(Dataset):
    """ILSVRC 2012 (Russakovsky et al., 2015, arXiv:1409.0575): training and validation images.

    Reads ``$QBENCH_DATA/imagenet/train`` and ``…/val``, each with a folder of images for every
    class. Preprocessing is that of arXiv:1911.09464: the shorter side to 256 pixels; a random crop
    of 224 and a horizontal flip in training, the centre crop in evaluation; standardised.

    Raises:
        QbenchError: ``QBENCH_DATA`` is not set, or a folder is not there.
    """

    title = "ImageNet"
    source = "image-net.org, ILSVRC 2012"
    image_shape = (3, 224, 224)
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

    def __init__(self) -> None:
        root = os.environ.get("QBENCH_DATA")
        if not root:
            raise QbenchError(
                "imagenet: set QBENCH_DATA to the folder that holds imagenet/train and imagenet/val"
            )
        self._folder = Path(root) / "imagenet"
        train = self._folder / "train"
        if not train.is_dir():
            raise QbenchError(f"imagenet: there is no folder {train}; QBENCH_DATA is {root}")
        self.num_classes = sum(1 for entry in os.scandir(train) if entry.is_dir())

    def train(self) -> _Images:
        """The training images."""
        crop = [transforms.RandomCrop(224), transforms.RandomHorizontalFlip()]
        return _images(self._folder / "train", crop)

    def test(self) -> _Images:
        """The validation images, whose labels are public."""
        return _images(self._folder / "val", [transforms.CenterCrop(224)])


class _Images(datasets.ImageFolder):
    """A folder of images for every class; batches are fetched by a list of indices."""

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        if isinstance(index, list):
            images, labels = zip(*(super(_Images, self).__getitem__(i) for i in index), strict=True)
            return torch.stack(images), torch.tensor(labels)
        image, label = super().__getitem__(index)
        return image, torch.tensor(label)


def _images(folder: Path, crop: Sequence[Any]) -> _Images:
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    standardise = [transforms.ToTensor(), transforms.Normalize(mean, deviation)]
    try:
        return _Images(
            str(folder), transforms.Compose([transforms.Resize(256), *crop, *standardise])
        )
    except (OSError, RuntimeError) as error:
        raise QbenchError(
            f"imagenet: {folder} should hold a folder of images for every class: {error}"
        ) from error
