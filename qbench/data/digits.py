"""Digits: 1,797 handwritten digits of 8×8 pixels, included in scikit-learn."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.spec.recipe import Recipe

_TEST = 360  # images


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
        pixels = _table()
        train, test = _split(pixels[:, -1].astype(int))
        images, labels = pixels[:, :-1], pixels[:, -1]
        train_x, test_x, train_y, test_y = images[train], images[test], labels[train], labels[test]
        mean, std = train_x.mean(), train_x.std()
        return _tensors((train_x - mean) / std, train_y), _tensors((test_x - mean) / std, test_y)


def _table() -> NDArray[np.float64]:
    """Return the images and labels of scikit-learn, (1797, 65).

    Its file is read without it: to import scikit-learn takes longer than to train for an epoch.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise QbenchError("the dataset digits is a file of scikit-learn, which is not installed")
    return np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")


def _split(labels: NDArray[np.int_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return the indices of the training images and of the 360 test images, in their order.

    The split is that of ``train_test_split(test_size=360, stratify=labels, random_state=0)`` of
    scikit-learn, with the numbers that it draws. NumPy keeps the stream of `RandomState` for good.
    """
    draw, counts = np.random.RandomState(0), np.bincount(labels)
    of_train = _shares(counts, len(labels) - _TEST, draw)
    of_test = _shares(counts - of_train, _TEST, draw)
    train, test = [], []
    for digit, (first, second) in enumerate(zip(of_train, of_test, strict=True)):
        shuffled = np.flatnonzero(labels == digit)[draw.permutation(counts[digit])]
        train.append(shuffled[:first])
        test.append(shuffled[first : first + second])
    return draw.permutation(np.concatenate(train)), draw.permutation(np.concatenate(test))


def _shares(counts: NDArray[np.int_], total: int, draw: np.random.RandomState) -> NDArray[np.int_]:
    """Return how many of each class are taken, in proportion; equal remainders are drawn."""
    exact = counts / counts.sum() * total
    taken = np.floor(exact)
    for remainder in np.unique(exact - taken)[::-1]:
        if (missing := int(total - taken.sum())) == 0:
            break
        (classes,) = np.nonzero(exact - np.floor(exact) == remainder)
        taken[draw.choice(classes, size=min(len(classes), missing), replace=False)] += 1
    return taken.astype(int)


def _tensors(images: object, labels: object) -> TensorDataset:
    x = torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)
    return TensorDataset(x, torch.as_tensor(labels, dtype=torch.int64))
