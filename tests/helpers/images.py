"""A small tree of images like ImageNet's, and how loaders read it."""

from __future__ import annotations

from pathlib import Path

import torch

from qbench import registry
from qbench.data.imagenet import ImageNet
from qbench.spec.recipe import Recipe

CPU = torch.device("cpu")

RECIPE = Recipe(epochs=1, batch_size=4, optimizer="sgd", lr=0.01)

SIZE = 32


def imagenet(tree: Path) -> ImageNet:
    dataset = registry.build_dataset("imagenet", {"root": str(tree), "image_size": SIZE})
    assert isinstance(dataset, ImageNet)
    return dataset


def order(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
