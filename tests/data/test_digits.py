"""Digits of scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from qbench import registry


def test_the_split_is_fixed_stratified_and_standardised() -> None:
    dataset = registry.build_dataset("digits")
    assert dataset.sizes() == (1437, 360)
    images, labels = dataset.collate([dataset.train()[i] for i in range(1437)])
    assert images.shape == (1437, *dataset.image_shape)
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 1e-6
    assert abs(float(images.std(correction=0)) - 1) < 1e-6
    test = torch.tensor([dataset.test()[i][1] for i in range(360)])
    shares = torch.bincount(labels) / 1437 - torch.bincount(test) / 360
    assert shares.abs().max() < 0.005


def test_images_and_split_are_those_of_scikit_learn() -> None:
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    mean, deviation = parts[0].mean(), parts[0].std()
    dataset = registry.build_dataset("digits")
    for split, x, y in ((dataset.train(), *parts[::2]), (dataset.test(), *parts[1::2])):
        expected = ((x - mean) / deviation).astype(np.float32).reshape(-1, 1, 8, 8)
        assert torch.equal(split.tensors[0], torch.from_numpy(expected))
        assert torch.equal(split.tensors[1], torch.from_numpy(y))


def test_nothing_but_the_name_determines_it() -> None:
    dataset = registry.build_dataset("digits")
    assert dataset.identity() == {}
    assert dataset.missing() == ""
    assert dataset.label == ""
