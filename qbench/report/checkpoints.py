"""Comparison of what two trained networks predict for the same images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr

from qbench.spec.predictions import Predictions


@dataclass(frozen=True)
class Agreement:
    """Agreement of two networks on the same images. It says nothing about their methods.

    Attributes:
        images: Number of images.
        same: Number of images for which both predict the same class.
        right_a: Number of images that A gets right. None if the true classes are not known.
        right_b: Number of images that B gets right. None if the true classes are not known.
        only_a: Number of images that only A gets right. None if the true classes are not known.
        only_b: Number of images that only B gets right. None if the true classes are not known.
        p: p-value of McNemar's exact test, two-sided: whether these two networks are equally often
            right on images like these. None if the true classes are not known.
    """

    images: int
    same: int
    right_a: int | None = None
    right_b: int | None = None
    only_a: int | None = None
    only_b: int | None = None
    p: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the attributes as plain values."""
        return asdict(self)


def agreement(a: Predictions, b: Predictions, labels: Predictions | None) -> Agreement:
    """Compare what two networks predict.

    Args:
        a: Predictions of the first network.
        b: Predictions of the second one, for the same images.
        labels: True classes of the images. None if they are not known.

    Raises:
        ValueError: The numbers of images differ.
    """
    sizes = {each.count for each in (a, b, labels) if each is not None}
    if len(sizes) > 1:
        raise ValueError(f"the predictions are of {sorted(sizes)} images")
    ours, theirs = (np.asarray(each.values) for each in (a, b))
    same = int((ours == theirs).sum())
    if labels is None:
        return Agreement(a.count, same)
    truth = np.asarray(labels.values)
    right_a, right_b = ours == truth, theirs == truth
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    return Agreement(a.count, same, int(right_a.sum()), int(right_b.sum()), only_a, only_b, p)
