"""Average precision as the Pascal VOC development kit computes it (Everingham et al., IJCV 2010).

Detections of a class, most certain first, are each given the object of that class in their image
that they overlap most. Where the overlap is less than the threshold the detection is false. Where
it is not, the detection is left out of account if the object is difficult, true if no detection
before it was given the object, and false if one was. Recall counts objects that are not difficult.

COCO's rule differs: a detection whose best object is taken may have the next best, and what lies in
a crowd is excused by the share of its own area.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

Rule = Literal["11_point", "area"]
Floats = NDArray[np.float64]


def mean_average_precision(
    detections: Sequence[dict[str, Tensor]],
    targets: Sequence[dict[str, Tensor]],
    rule: Rule,
    overlap: float = 0.5,
) -> float:
    """The mean over classes that have objects which are not difficult.

    Args:
        detections: of each image ``boxes``, (n, 4), as x1 y1 x2 y2, ``scores``, (n,), and
            ``labels``, (n,).
        targets: of each image ``boxes``, (m, 4), ``labels``, (m,), and ``difficult``, bool (m,).
        rule: ``11_point``, of VOC2007, or ``area``, of VOC2010 and later.
        overlap: the smallest intersection over union that finds an object.

    Returns:
        From 0 to 1; not a number where no class has such an object.
    """
    given = _given_objects(detections, targets, overlap)
    labels, scores = (
        torch.cat([each[key] for each in detections]).numpy() for key in ("labels", "scores")
    )
    truths, difficult = (
        torch.cat([each[key] for each in targets]).numpy() for key in ("labels", "difficult")
    )
    average = eleven_point if rule == "11_point" else area
    values = []
    for label in np.unique(truths[~difficult]):
        mine = np.flatnonzero(labels == label)
        ranked = given[mine[np.argsort(-scores[mine], kind="stable")]]
        ranked = ranked[(ranked < 0) | ~difficult[ranked]]
        true = np.zeros(len(ranked), dtype=bool)
        found, first = np.unique(ranked, return_index=True)
        true[first[found >= 0]] = True
        hits = true.cumsum()
        recall = hits / ((truths == label) & ~difficult).sum()
        values.append(average(recall, hits / np.arange(1, len(hits) + 1)))
    return float(np.mean(values)) if values else float("nan")


def eleven_point(recall: Floats, precision: Floats) -> float:
    """The mean, over recalls 0, 0.1, …, 1, of the best precision at that recall or above.

    Args:
        recall: after each detection, most certain first, (n,).
        precision: likewise.
    """
    levels = np.arange(11) / 10
    return float(np.mean([precision[recall >= level].max(initial=0.0) for level in levels]))


def area(recall: Floats, precision: Floats) -> float:
    """The area under the curve, made to fall: ∫ max{precision at recall r' ≥ r} dr.

    Args:
        recall: after each detection, most certain first, (n,).
        precision: likewise.
    """
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))


def _given_objects(
    detections: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]], overlap: float
) -> NDArray[np.int64]:
    """The object that each detection overlaps most, counted through all images, or −1."""
    given, before = [], 0
    for each, target in zip(detections, targets, strict=True):
        if len(target["labels"]):
            same = each["labels"][:, None] == target["labels"]
            best = (box_iou(each["boxes"], target["boxes"]) * same).max(dim=1)
            given.append(torch.where(best.values >= overlap, best.indices + before, -1))
        else:
            given.append(torch.full_like(each["labels"], -1))
        before += len(target["labels"])
    return torch.cat(given).numpy()
