"""CIFAR-10 and CIFAR-100, read from disk."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset
from torchvision import datasets
from torchvision.transforms import v2

from qbench.data import Dataset, data_folder, standardised
from qbench.errors import QbenchError
from qbench.spec.recipe import Recipe

CIFAR_TRAINING, CIFAR_TEST = 50_000, 10_000


class CIFAR10(Dataset):
    """CIFAR-10 (Krizhevsky, 2009): 32×32 colour images, in the files that torchvision stores.

    Training images are padded by 4 pixels, cropped at random and flipped (He et al., CVPR 2016,
    §4.2). Items are uint8 images, (3, 32, 32), and int64 labels; `to_input` standardises them.

    Args:
        root: Folder that holds ``cifar-10-batches-py``. Defaults to ``$QBENCH_DATA/cifar10``.
        synthetic: Number of noise images that replace each split in rehearsals. By default 0: the
            real images are read.

    Attributes:
        folder: Name of the dataset's folder in ``$QBENCH_DATA``.
        stored: Class of torchvision that reads the files.
        mean: Mean of each channel, in [0, 1].
        deviation: Standard deviation of each channel, on the same scale.
    """

    title = "CIFAR-10"
    augmented = "crop of 32 after padding by 4, flip"
    source = "cs.toronto.edu/~kriz/cifar.html"
    loader_workers = 2
    image_shape = (3, 32, 32)
    num_classes = 10
    folder: ClassVar[str] = "cifar10"
    stored: ClassVar[Any] = datasets.CIFAR10
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    deviation: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)
    full_precision_recipe = Recipe(
        epochs=200,
        batch_size=128,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        schedule="cosine",
    )
    aligned_recipe = Recipe(
        epochs=100,
        batch_size=128,
        optimizer="sgd",
        lr=0.01,
        weight_decay=1e-4,
        schedule="cosine",
        gradient_clip=5.0,
        initialization="pretrained",
    )

    def __init__(self, root: str | None = None, synthetic: int = 0) -> None:
        self._root = root
        self._synthetic = synthetic

    def missing(self) -> str:
        """Say which folder is missing, or return an empty string."""
        if self._synthetic:
            return ""
        name = self.stored.__name__
        try:
            folder = self._folder
        except QbenchError as error:
            return str(error)
        if (folder / self.stored.base_folder).is_dir():
            return ""
        return (
            f"{self.folder}: there is no folder {folder / self.stored.base_folder}; "
            f"`torchvision.datasets.{name}('{folder}', download=True)` brings it"
        )

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of images of both splits."""
        return (
            (self._synthetic, self._synthetic) if self._synthetic else (CIFAR_TRAINING, CIFAR_TEST)
        )

    def identity(self) -> dict[str, Any]:
        """Return the number of noise images, if images are noise."""
        return {"synthetic": self._synthetic} if self._synthetic else {}

    def train(self) -> TorchDataset[Any]:
        """Return the 50,000 training images, each cropped and flipped at random."""
        crop = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
        return _Augmented(self._read[0], crop)

    def unaugmented(self) -> TensorDataset:
        """Return the 50,000 training images as they are."""
        return self._read[0]

    def test(self) -> TensorDataset:
        """Return the 10,000 test images."""
        return self._read[1]

    def to_input(self, images: Tensor) -> Tensor:
        """Standardise bytes, (N, 3, 32, 32), by channel. Returns float32."""
        return standardised(images, self.mean, self.deviation)

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Choose noise images; nothing is written."""
        return {"synthetic": 64}

    @property
    def _folder(self) -> Path:
        if self._root:
            return Path(self._root)
        data = data_folder()
        if not data:
            raise QbenchError(
                f"{self.folder}: where is it? Set QBENCH_DATA to the folder that holds "
                f"{self.folder}/{self.stored.base_folder}, or say --set data.root=FOLDER"
            )
        return data / self.folder

    @cached_property
    def _read(self) -> tuple[TensorDataset, TensorDataset]:
        if self._synthetic:
            return self._noise(0), self._noise(1)
        if reason := self.missing():
            raise QbenchError(reason)
        try:  # torchvision compares checksums before it unpickles anything
            splits = [self.stored(str(self._folder), train=train) for train in (True, False)]
        except RuntimeError as error:
            raise QbenchError(f"{self.folder}: {self._folder}: {error}") from error
        train, test = (
            TensorDataset(
                torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(),
                torch.tensor(split.targets),
            )
            for split in splits
        )
        return train, test

    def _noise(self, seed: int) -> TensorDataset:
        random = torch.Generator().manual_seed(seed)
        shape = (self._synthetic, *self.image_shape)
        images = torch.randint(256, shape, generator=random, dtype=torch.uint8)
        labels = torch.arange(self._synthetic) % self.num_classes
        return TensorDataset(images, labels)


class CIFAR100(CIFAR10):
    """CIFAR-100 (Krizhevsky, 2009). Like `CIFAR10`, in ``root`` or ``$QBENCH_DATA/cifar100``."""

    title = "CIFAR-100"
    num_classes = 100
    folder = "cifar100"
    stored = datasets.CIFAR100
    mean = (0.5071, 0.4865, 0.4409)
    deviation = (0.2673, 0.2564, 0.2762)


class _Augmented(TorchDataset[Any]):
    """Images in memory, transformed at random on access."""

    def __init__(self, images: TensorDataset, transform: v2.Transform) -> None:
        self._images = images
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image, label = self._images[i]
        return self._transform(image), label
