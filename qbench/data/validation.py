"""Validation split: images that are held out of training, by a fixed rule.

Whoever selects anything (a learning rate, an option, an epoch) measures on this split. The rule
draws nothing at random, so the split is the same for every seed, method and machine.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from qbench.data import Dataset, UnreadableError
from qbench.errors import QbenchError

Indices = NDArray[np.int64]


def without_test(dataset: Dataset) -> Dataset:
    """Return a copy of a dataset whose test split raises, for trials that select something.

    Args:
        dataset: The dataset.
    """
    closed = copy.copy(dataset)
    closed.test = _closed  # type: ignore[method-assign]
    # Neither tells what a test item is, and a dataset may open its splits for them.
    closed.sizes, closed.identity = dataset.sizes, dataset.identity  # type: ignore[method-assign]
    return closed


def _closed() -> TorchDataset[Any]:
    raise QbenchError("a trial that is measured on validation images must not open the test split")


def hold_out(
    train: TorchDataset[Any], candidates: TorchDataset[Any], count: int
) -> tuple[TorchDataset[Any], TorchDataset[Any]]:
    """Split off validation items.

    Items that do not train are taken if there are enough of them. Otherwise the validation items
    are taken from the training items, which become fewer.

    Args:
        train: The training split.
        candidates: The same items without augmentation, in the same order, and after them any items
            that the training split leaves out.
        count: Number of validation items, 1 or more.

    Returns:
        The items to train on, and the validation items.

    Raises:
        QbenchError: The validation split would take more than half of the training items.
    """
    trained = len(train)  # type: ignore[arg-type]
    classes = classes_of(candidates)
    if len(classes) - trained >= count:
        chosen = trained + stratified(classes[trained:], count)
        return train, select(candidates, chosen)
    if 2 * count > trained:
        raise QbenchError(
            f"a validation split of {count} images leaves too few of the {trained} training "
            f"images; it has {trained // 2} at most"
        )
    chosen = stratified(classes[:trained], count)
    rest = np.setdiff1d(np.arange(trained), chosen)
    return select(train, rest), select(candidates, chosen)


def stratified(classes: Sequence[int] | Indices, count: int) -> Indices:
    """Choose items of every class, in proportion to the size of the class.

    The items are sorted by class, in their order within a class, and chosen at equal distances.

    Args:
        classes: Class of each item, integers, (N,).
        count: Number of items to choose, 1 to N.

    Returns:
        Indices of the items, (count,), ascending.

    Example:
        >>> stratified([0, 1, 0, 1, 0, 1, 0, 1], 4).tolist()
        [2, 3, 6, 7]
    """
    order = np.argsort(classes, kind="stable")
    middles = (2 * np.arange(count) + 1) * len(order) // (2 * count)
    chosen: Indices = np.sort(order[middles])
    return chosen


def classes_of(split: TorchDataset[Any]) -> Indices:
    """Return the class of each item of a split.

    The classes are the labels of a `TensorDataset`, or ``split.targets``, which torchvision's
    datasets have. Of other splits every item is read. An item with several objects has the class of
    the first. Items without objects, and items that cannot be read, have the class −1.

    Args:
        split: The split, which has a length.

    Returns:
        Classes, (N,).
    """
    if isinstance(split, TensorDataset):
        return split.tensors[1].numpy()
    if isinstance(split, ConcatDataset):
        return np.concatenate([classes_of(part) for part in split.datasets])
    targets = getattr(split, "targets", None)
    if targets is None:
        targets = [_class_of(split, i) for i in range(len(split))]  # type: ignore[arg-type]
    return np.asarray(targets, np.int64)


def _class_of(split: TorchDataset[Any], index: int) -> int:
    try:
        _, target = split[index]
    except UnreadableError:
        return -1
    return first_label(target["labels"]) if isinstance(target, dict) else int(target)


def first_label(labels: Tensor) -> int:
    """Return the first label of an image with objects, or −1 if it has none."""
    return int(labels[0]) if len(labels) else -1


def select(split: TorchDataset[Any], indices: Indices) -> TorchDataset[Any]:
    """Return some items of a split. Those of tensors in memory stay tensors in memory.

    Args:
        split: The split.
        indices: Indices of the items, (n,).
    """
    if isinstance(split, TensorDataset):
        return select_tensors(split, indices)
    return Subset(split, indices.tolist())


def select_tensors(split: TensorDataset, indices: Indices) -> TensorDataset:
    """Return some items of tensors in memory. Arguments are those of `select`."""
    part = copy.copy(split)
    part.tensors = tuple(each[torch.from_numpy(indices)] for each in split.tensors)
    return part
