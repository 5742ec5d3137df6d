"""Datasets: what a trial trains and is measured on."""

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

from qbench.spec.recipe import Recipe


class UnreadableError(Exception):
    """An item cannot be read; the message names its file and says why."""


class Dataset(ABC):
    """A dataset with a fixed split, and the recipes that suit it.

    Keyword arguments of the constructor are options of a suite's ``data``. ``root``, where the
    files are, is one that no result depends on; all others are part of a trial's key. The
    constructor reads nothing: a suite can be planned where its data are not.

    Attributes:
        title: its name in tables.
        source: where its data come from.
        task: what is asked of a model: ``'classification'`` or ``'detection'``.
        loader_workers: CPU cores that load what a GPU trains on; more than one for data on disk.
        shown: the metrics that a table's cell shows, of those that the task measures.
        augmented: what is drawn anew for each training image, in a few words.
        published_as: what papers' numbers on it are filed under in `suites/published.csv`, beside
            its own name.
        num_classes: number of classes.
        image_shape: (channels, height, width) of one input image.
        classes: their names, where a picture tells them; label 1 is the first.
        full_precision_recipe: how a network is trained on it before quantization.
        aligned_recipe: the one recipe for every method, for ``recipe: aligned``.
    """

    title: ClassVar[str]
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
        """Without options."""

    @abstractmethod
    def train(self) -> TorchDataset[Any]:
        """The training split: pairs of an image, ``image_shape``, and an int64 label.

        What is drawn at random for an item comes from torch's global generator, which is seeded for
        each item by trial, epoch and index: numbers do not depend on who loads it. An item that
        cannot be read raises `UnreadableError`; it is left out of its batch, and named.
        """

    @abstractmethod
    def test(self) -> TorchDataset[Any]:
        """The test split, alike."""

    def missing(self) -> str:
        """Say what of the data is not there, where it was looked for, and what to do; '' if all is.

        Reads no more than folders and lists.
        """
        return ""

    def sizes(self) -> tuple[int, int]:
        """Numbers of training and of test items; where data are missing, those of the original."""
        return len(self.train()), len(self.test())  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """What of the data decides numbers and is not said by the dataset's name: for trials' keys.

        Empty for the original data with default options.
        """
        return {}

    def first(self, count: int) -> Any:
        """The first items of the test split that can be read, as a batch on the CPU.

        Its images are as `to_input` makes them. Raises UnreadableError where none can be read.
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
        """A batch of items of `train` or `test`: images stacked, and labels."""
        return torch.utils.data.default_collate(list(items))

    def to_input(self, images: Tensor) -> Tensor:
        """What the model is given of a batch of images, (N, C, H, W), on the model's device."""
        return images

    def stand_in(self, folder: Path) -> dict[str, Any]:
        """Write a small stand-in for the data, for rehearsals; the same one is not written again.

        Args:
            folder: where to; made if needed.

        Returns:
            Options of this dataset by which a rehearsal reads it.
        """
        return {}


def standardised(images: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Images of bytes, (N, C, H, W), scaled to 0–1 and standardised by channel: float32."""
    shape = (-1, 1, 1)
    centre = torch.tensor(mean, device=images.device).view(shape)
    return (images / 255 - centre) / torch.tensor(deviation, device=images.device).view(shape)


def content_of(folder: Path) -> str:
    """What is in a folder, in a few words, for messages of what was found instead."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        return f"nothing: {error.strerror}"
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
