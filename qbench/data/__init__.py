"""Datasets: what a trial trains and is measured on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch.utils.data import Dataset as TorchDataset

from qbench.recipe import Recipe


class Dataset(ABC):
    """A dataset with a fixed split, and the recipes that suit it.

    Attributes:
        title: its name in tables.
        source: where its data come from.
        task: what is asked of a model: ``'classification'``.
        num_classes: number of classes.
        image_shape: (channels, height, width) of one input image.
        full_precision_recipe: how a network is trained on it before quantization.
        aligned_recipe: the one recipe for every method, for ``recipe: aligned``.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    task: ClassVar[str] = "classification"
    num_classes: int
    image_shape: tuple[int, int, int]
    full_precision_recipe: ClassVar[Recipe]
    aligned_recipe: ClassVar[Recipe]

    @abstractmethod
    def train(self) -> TorchDataset[object]:
        """The training split: pairs of a float32 image, ``image_shape``, and an int64 label."""

    @abstractmethod
    def test(self) -> TorchDataset[object]:
        """The test split, alike."""
