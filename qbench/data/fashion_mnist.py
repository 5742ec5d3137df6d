"""Fashion-MNIST, read from disk."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from qbench.data import Dataset, content_of, data_folder, standardised
from qbench.data.validation import select_tensors, stratified
from qbench.errors import QbenchError
from qbench.spec.recipe import Recipe

TRAINING, TEST = 60_000, 10_000
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
# SHA-256 of the files when they are not compressed.
_ORIGINAL = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_UNSIGNED_BYTES = b"\0\0\x08"  # begins an idx file of them; a byte with its number of axes follows
_FULL_SIZE = 28

Bytes = NDArray[np.uint8]


class FashionMNIST(Dataset):
    """Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747): ten kinds of clothes, grey, 28×28.

    The four idx files are read as they are or compressed (``.gz``), in the first of these folders
    that has them: ``FashionMNIST/raw`` in ``root``, where torchvision keeps them, or ``root``
    itself; without ``root``, the same in ``$QBENCH_DATA/fashion_mnist``, and then the folder of
    Debian's package ``dataset-fashion-mnist``.

    Items are uint8 images, (1, S, S), and int64 labels; `to_input` standardises them. Nothing is
    augmented. Both splits are held in memory.

    Args:
        root: Folder of the files. Defaults to ``$QBENCH_DATA/fashion_mnist`` or Debian's.
        image_size: S, height and width of an image in pixels: 28, or 14, for which 2×2 pixels are
            averaged.
        train_images: Number of training images, a fixed subset with every class in its proportion.
            By default all 60,000.

    Raises:
        QbenchError: The number of training images is out of range.
    """

    title = "Fashion-MNIST"
    source = "github.com/zalandoresearch/fashion-mnist"
    num_classes = 10
    mean: ClassVar[float] = 0.2860
    deviations: ClassVar[dict[int, float]] = {28: 0.3530, 14: 0.3303}
    full_precision_recipe = Recipe(
        epochs=12, batch_size=128, optimizer="sgd", lr=0.1, weight_decay=5e-4, schedule="cosine"
    )
    aligned_recipe = Recipe(
        epochs=12,
        batch_size=128,
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        schedule="cosine",
        gradient_clip=5.0,
        initialization="pretrained",
    )

    def __init__(
        self,
        root: str | None = None,
        image_size: Literal[28, 14] = 28,
        train_images: int | None = None,
    ) -> None:
        if train_images is not None and not 1 <= train_images <= TRAINING:
            raise QbenchError(
                f"fashion_mnist: data.train_images is from 1 to {TRAINING}, not {train_images}"
            )
        self._root = root
        self._size = image_size
        self._train_images = None if train_images == TRAINING else train_images
        self.image_shape = (1, image_size, image_size)

    @property
    def label(self) -> str:  # type: ignore[override]
        """Name of the data in headings, with what differs from the default; empty if nothing."""
        size, count = self._size, self._train_images
        parts = [f"{size}×{size}"] if size != _FULL_SIZE else []
        parts += [f"{count:,} training images"] if count else []
        return f"fashion_mnist, {', '.join(parts)}" if parts else ""

    def missing(self) -> str:
        """Say where the files were looked for and how to get them, or return an empty string."""
        if self._folder is not None:
            return ""
        looked = " and ".join(str(place) for place in self._places)
        root = self._base
        found = f"; {root} holds {content_of(root)}" if root is not None else ""
        return (
            f"fashion_mnist: there is no {FILES[0][0]} or {FILES[0][0]}.gz, or not all four files, "
            f"in {looked}{found}. Three ways to get it: `qbench data fashion-mnist DIR` downloads "
            "it, and --set data.root=DIR reads it; `apt-get install dataset-fashion-mnist`, on "
            "Debian and Ubuntu, and nothing to set; or copy the files of torchvision's "
            "FashionMNIST to $QBENCH_DATA/fashion_mnist"
        )

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of images, or those of the original if data are missing."""
        train, test = (TRAINING, TEST) if self.missing() else map(len, self._labels)
        return self._train_images or train, test

    def identity(self) -> dict[str, Any]:
        """Return the options that are not defaults and, of other files, their sizes and a hash."""
        own: dict[str, Any] = {}
        if self._size != _FULL_SIZE:
            own["image_size"] = self._size
        if self._train_images:
            own["train_images"] = self._train_images
        if self.missing():
            return own
        if not self._has_original_labels:
            contents = b"".join(labels.tobytes() for labels in self._labels)
            own |= dict(zip(("train", "test"), map(len, self._labels), strict=True))
            own["files"] = hashlib.sha256(contents).hexdigest()[:16]
        return own

    def train(self) -> TensorDataset:
        """Return the training images.

        Raises:
            QbenchError: Data are missing, malformed or damaged. The message names the file.
        """
        every = self._splits[0]
        count = self._train_images
        return every if count is None else select_tensors(every, np.arange(count))

    def unaugmented(self) -> TensorDataset:
        """Return the training images, and after them those that ``train_images`` leaves out."""
        return self._splits[0]

    def test(self) -> TensorDataset:
        """Return the test images."""
        return self._splits[1]

    def to_input(self, images: Tensor) -> Tensor:
        """Standardise bytes, (N, 1, S, S). Returns float32."""
        return standardised(images, [self.mean], [self.deviations[self._size]])

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Write noise images of ten classes, in files of the same format."""
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.RandomState(0)
        for names, count in zip(FILES, (200, 50), strict=True):
            images = random.randint(256, size=(count, _FULL_SIZE, _FULL_SIZE)).astype(np.uint8)
            labels = (np.arange(count) % self.num_classes).astype(np.uint8)
            for name, array in zip(names, (images, labels), strict=True):
                write_idx(folder / name, array)
        subset = {"train_images": 100} if self._train_images else {}
        return {"root": str(folder), **subset}

    @property
    def _base(self) -> Path | None:
        """Folder that the user names: by the option or by the environment."""
        if self._root:
            return Path(self._root)
        data = data_folder()
        return data / "fashion_mnist" if data else None

    @property
    def _places(self) -> list[Path]:
        base = self._base
        places = [base / "FashionMNIST" / "raw", base] if base is not None else []
        return places if self._root else [*places, DEBIAN]

    @property
    def _folder(self) -> Path | None:
        names = [name for pair in FILES for name in pair]
        has_all = (
            place for place in self._places if all(_stored(place, n).is_file() for n in names)
        )
        return next(has_all, None)

    @cached_property
    def _has_original_labels(self) -> bool:
        """Whether the labels are Fashion-MNIST's: other data in such files, as MNIST's, differ."""
        return all(_is_original(name, self._content(name)) for _, name in FILES)

    def _content(self, name: str) -> bytes:
        """Return the bytes of a file, uncompressed."""
        folder = self._folder
        if folder is None:
            raise QbenchError(self.missing())
        file = _stored(folder, name)
        try:
            content = file.read_bytes()
            return gzip.decompress(content) if file.suffix == ".gz" else content
        except (OSError, EOFError, zlib.error) as error:
            raise QbenchError(f"{file}: cannot be read: {error}") from error

    @cached_property
    def _labels(self) -> tuple[Bytes, Bytes]:
        train, test = (self._array(name, self._content(name), (None,)) for _, name in FILES)
        return train, test

    @cached_property
    def _splits(self) -> tuple[TensorDataset, TensorDataset]:
        """All training images, those of a subset first, and the test images."""
        parts = []
        for (name, _), labels in zip(FILES, self._labels, strict=True):
            content = self._content(name)
            if self._has_original_labels and not _is_original(name, content):
                raise QbenchError(f"{self._folder}/{name}: is damaged: its checksum is wrong")
            images = self._array(name, content, (len(labels), _FULL_SIZE, _FULL_SIZE))
            if self._size < _FULL_SIZE:
                images = _halved(images)
            parts.append(
                TensorDataset(
                    torch.from_numpy(images.copy()).unsqueeze(1),
                    torch.from_numpy(labels.astype(np.int64)),
                )
            )
        train, test = parts
        if self._train_images:
            first = self._subset(self._train_images)
            others = np.setdiff1d(np.arange(len(train)), first)
            train = select_tensors(train, np.concatenate([first, others]))
        return train, test

    def _subset(self, count: int) -> NDArray[np.int64]:
        labels, _ = self._labels
        if count > len(labels):
            raise QbenchError(
                f"fashion_mnist: data.train_images is {count}, and {self._folder} has "
                f"{len(labels)} training images"
            )
        return stratified(labels.astype(np.int64), count)

    def _array(self, name: str, content: bytes, shape: tuple[int | None, ...]) -> Bytes:
        """Read the content of an idx file of unsigned bytes.

        Args:
            name: Name of the file, for messages.
            content: Its bytes.
            shape: The shape that it should have; None for any length.

        Raises:
            QbenchError: It is malformed.
        """
        where = f"{self._folder}/{name}"
        if content[:3] != _UNSIGNED_BYTES or len(content) < 4 + 4 * content[3]:
            raise QbenchError(f"{where}: is no idx file of bytes")
        found = tuple(np.frombuffer(content, ">u4", content[3], offset=4).tolist())
        fits = len(found) == len(shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, found, strict=True)
        )
        if not fits:
            wanted = "×".join("N" if size is None else str(size) for size in shape)
            raise QbenchError(
                f"{where}: holds {'×'.join(map(str, found))} values, and should hold {wanted}"
            )
        start = 4 + 4 * len(found)
        if len(content) != start + math.prod(found):
            raise QbenchError(f"{where}: is cut off, or has bytes after its {found[0]} items")
        return np.frombuffer(content, np.uint8, offset=start).reshape(found)


def write_idx(file: Path, array: Bytes) -> None:
    """Write an idx file of unsigned bytes.

    Args:
        file: File to write.
        array: Values, of any shape.
    """
    sizes = np.array(array.shape, ">u4").tobytes()
    file.write_bytes(_UNSIGNED_BYTES + bytes([array.ndim]) + sizes + array.tobytes())


def _stored(folder: Path, name: str) -> Path:
    """Return the file of a name, compressed if there is no other. It need not exist."""
    file = folder / name
    return file if file.is_file() else folder / f"{name}.gz"


def _is_original(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == _ORIGINAL[name]


def _halved(images: Bytes) -> Bytes:
    """Average squares of 2×2 pixels, (N, H, W) to (N, H/2, W/2), and round half up."""
    count, height, width = images.shape
    squares = images.reshape(count, height // 2, 2, width // 2, 2)
    sums = squares.sum((2, 4), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)
