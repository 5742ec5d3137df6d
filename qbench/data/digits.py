"""Digits: 1,797 handwritten digits of 8×8 pixels, included in scikit-learn."""

from __future__ import annotations

import functools

import torch
from torch.utils.data import TensorDataset

from qbench.data import Dataset
from qbench.spec.recipe import Recipe


class Digits(Dataset):
    """UCI's optical recognition of handwritten digits (Alpaydin, Kaynak, 1998), test part.

    A fixed, stratified split has 1,437 training images and 360 test images. Images are float32,
    (1, 8, 8), standardised by the mean and standard deviation of all training pixels; labels are
    int64. Nothing is augmented.
    """

    title = "Digits"
    source = "scikit-learn load_digits (UCI, Alpaydin & Kaynak, 1998)"
    num_classes = 10
    image_shape = (1, 8, 8)
    full_precision_recipe = Recipe(
        epochs=40, batch_size=64, optimizer="sgd", lr=0.1, weight_decay=5e-4, schedule="cosine"
    )
    aligned_recipe = Recipe(
        epochs=20,
        batch_size=64,
        optimizer="sgd",
        lr=0.02,
        weight_decay=1e-4,
        schedule="cosine",
        gradient_clip=5.0,
        initialization="pretrained",
    )

    def train(self) -> TensorDataset:
        """Return the 1,437 training images."""
        train, _ = self._parts
        return train

    def test(self) -> TensorDataset:
        """Return the 360 test images."""
        _, test = self._parts
        return test

    @functools.cached_property
    def _parts(self) -> tuple[TensorDataset, TensorDataset]:
        from sklearn.datasets import load_digits  # slow to import, and a plan needs no images
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        train_x, test_x, train_y, test_y = train_test_split(
            images, labels, test_size=360, stratify=labels, random_state=0
        )
        mean, std = train_x.mean(), train_x.std()
        return _tensors((train_x - mean) / std, train_y), _tensors((test_x - mean) / std, test_y)


def _tensors(images: object, labels: object) -> TensorDataset:
    x = torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)
    return TensorDataset(x, torch.as_tensor(labels, dtype=torch.int64))
