"""Datasets that trials train on and are measured on.

To add a dataset, subclass `Dataset` in a file of its own in this package and register it in
``pyproject.toml`` as an entry point of the group ``qbench.datasets``. A package outside the
repository does the same. A dataset needs its class attributes, `Dataset.train` and `Dataset.test`;
a dataset that reads files also overrides `Dataset.missing`, `Dataset.sizes` and `Dataset.identity`,
and one that augments its training images `Dataset.unaugmented`.
Data that are not for classification need a task too: see `qbench.tasks`.

Example:
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from qbench.data import Dataset
    >>> from qbench.spec.recipe import Recipe
    >>> recipe = Recipe(
    ...     epochs=1, batch_size=8, optimizer="sgd", lr=0.1, weight_decay=0.0, schedule="cosine"
    ... )
    >>> class Stripes(Dataset):
    ...     title = "Stripes"
    ...     source = "made up"
    ...     num_classes = 2
    ...     image_shape = (1, 8, 8)
    ...     full_precision_recipe = aligned_recipe = recipe
    ...
    ...     def train(self):
    ...         labels = torch.arange(16) % 2
    ...         return TensorDataset(labels.float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8), labels)
    ...
    ...     test = train
    >>> images, labels = Stripes().first(3)
    >>> images.shape, labels.tolist()
    (torch.Size([3, 1, 8, 8]), [0, 1, 0])
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from qbench.files import expanded
from qbench.spec.recipe import Recipe


class UnreadableError(Exception):
    """Raised if an item cannot be read. The message names its file and says why."""


class Dataset(ABC):
    """A dataset with a fixed split, and the recipes that suit it.

    Keyword arguments of the constructor are options of a suite's ``data``. No result depends on
    the option ``root``, the folder of the files; all other options are part of a trial's key. The
    constructor reads nothing, so that a suite can be planned on a machine without the data.

    Attributes:
        title: Name of the data.
        label: Name of the data in headings of tables. Empty: the dataset's name in suites.
        source: Where the data come from.
        task: Name of the task: ``'classification'`` or ``'detection'``.
        loader_workers: CPU cores that load the data of one GPU. Above 1 for data on disk.
        shown: Metrics that a table shows, of those that the task measures.
        augmented: What is drawn at random for each training image, in a few words.
        published_as: Names under which ``suites/published.csv`` files papers' numbers on this
            dataset, in addition to its own name.
        num_classes: Number of classes. In detection, the background is one of them.
        image_shape: (channels, height, width) of one input image, in pixels.
        classes: Names of the classes for figures of detections; the first has label 1.
        full_precision_recipe: Recipe that trains a network before quantization.
        aligned_recipe: Recipe of every method under ``recipe: aligned``.
    """

    title: ClassVar[str]
    label: ClassVar[str] = ""
    source: ClassVar[str]
    task: ClassVar[str] = "classification"
    loader_workers: ClassVar[float] = 1
    shown: ClassVar[tuple[str, ...]] = ("top1",)
    augmented: ClassVar[str] = "none"
    published_as: ClassVar[tuple[str, ...]] = ()
    num_classes: int
    image_shape: tuple[int, int, int]
    classes: ClassVar[tuple[str, ...]] = ()
    full_precision_recipe: ClassVar[Recipe]
    aligned_recipe: ClassVar[Recipe]

    def __init__(self) -> None:  # noqa: B027  # of datasets that have none of their own
        """Take no options."""

    @abstractmethod
    def train(self) -> TorchDataset[Any]:
        """Return the training split.

        Draw random numbers for an item from torch's global generator. It is seeded for each item by
        trial, epoch and index, so numbers do not depend on the process that loads the item. An item
        that cannot be read raises `UnreadableError`; it is left out of its batch and reported.

        Returns:
            Dataset with a length. For classification, an item is an image of ``image_shape``, in
            any dtype that `to_input` accepts, and an int64 label from 0 to ``num_classes`` − 1. For
            detection, see `qbench.data.voc.voc.VOC`.

        Raises:
            QbenchError: Data are missing or malformed.
        """

    @abstractmethod
    def test(self) -> TorchDataset[Any]:
        """Return the test split, with items like those of `train` and without augmentation."""

    def unaugmented(self) -> TorchDataset[Any]:
        """Return the items of `train` in the same order, in the form of those of `test`.

        Validation items are taken from these. Items that `train` leaves out may follow; then those
        are taken first. By default these are the items of `train` themselves, which suits a dataset
        without augmentation. If the split has an attribute ``targets`` with the label of each item,
        no item is read to find its class.
        """
        return self.train()

    def splits(self, validation: int = 0) -> tuple[TorchDataset[Any], TorchDataset[Any]]:
        """Return the items to train on, and those to measure on.

        Args:
            validation: Number of validation items to measure on, so that something can be selected
                by the result. 0: measure on the test split.

        Returns:
            `train` and `test`. With validation items, the training items without them, and the
            validation items, which are the same for every seed and have every class in its
            proportion. The test split is then not opened.

        Raises:
            QbenchError: Data are missing or malformed, or there are too few training items.
        """
        if not validation:
            return self.train(), self.test()
        from qbench.data.validation import hold_out  # imports this module

        return hold_out(self.train(), self.unaugmented(), validation)

    def missing(self) -> str:
        """Check whether the data are there, by folders and lists alone.

        Returns:
            What is missing, where it was looked for, and what to do; an empty string if nothing is
            missing.
        """
        return ""

    def sizes(self) -> tuple[int, int]:
        """Return the numbers of training and test items, of the original if data are missing."""
        return len(self.train()), len(self.test())  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """Return what results depend on besides the dataset's name.

        Returns:
            Values for a trial's key, as JSON can hold them; empty for the original data with
            default options.
        """
        return {}

    def first(self, count: int) -> Any:
        """Return the first readable items of the test split as a batch on the CPU.

        Args:
            count: Number of items, 1 or more. The batch has fewer if the split does.

        Returns:
            Batch as `collate` makes it, with images as `to_input` returns them.

        Raises:
            UnreadableError: No item can be read.
        """
        split, items = self.test(), []
        for index in range(len(split)):  # type: ignore[arg-type]
            with contextlib.suppress(UnreadableError):
                items.append(split[index])
            if len(items) == count:
                break
        if not items:
            raise UnreadableError(f"no item of the test split of {self.title} can be read")
        images, *rest = self.collate(items)
        return (self.to_input(images), *rest)

    def collate(self, items: Sequence[Any]) -> Any:
        """Combine items of `train` or `test` into a batch.

        Args:
            items: Items, at least one.

        Returns:
            Images, stacked to (N, C, H, W), and int64 labels, (N,).
        """
        return torch.utils.data.default_collate(list(items))

    def to_input(self, images: Tensor) -> Tensor:
        """Convert the images of a batch to the input of a model.

        Args:
            images: Images of a batch, (N, C, H, W), on the model's device, in the dtype of `train`.

        Returns:
            Input of the model, floating-point, same shape. By default the images themselves.
        """
        return images

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Write small synthetic data for rehearsals. Files that exist already are kept.

        Args:
            folder: Folder to write to. It is created if necessary.

        Returns:
            Options of this dataset that make it read the synthetic data.
        """
        return {}


def standardised(images: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Scale images of bytes to [0, 1] and standardise them by channel.

    Args:
        images: Images, uint8, (N, C, H, W).
        mean: Mean of each channel, in [0, 1].
        deviation: Standard deviation of each channel, on the same scale.

    Returns:
        Standardised images, float32, (N, C, H, W), on the same device.
    """
    shape = (-1, 1, 1)
    centre = torch.tensor(mean, device=images.device).view(shape)
    return (images / 255 - centre) / torch.tensor(deviation, device=images.device).view(shape)


def data_folder() -> Path | None:
    """Return the folder that the variable QBENCH_DATA names, with ``~`` expanded, or None."""
    named = os.environ.get("QBENCH_DATA")
    return expanded(named) if named else None


def content_of(folder: Path) -> str:
    """Describe the content of a folder in a few words, for error messages.

    Args:
        folder: Folder; it may not exist.

    Returns:
        Up to three names and the number of others, or ``nothing`` with the reason.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        return f"nothing: {error.strerror}"
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
