"""Digits of scikit-learn."""

from __future__ import annotations

import torch

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


def test_nothing_but_the_name_determines_it() -> None:
    dataset = registry.build_dataset("digits")
    assert dataset.identity() == {}
    assert dataset.missing() == ""
    assert dataset.label == ""
