"""Average precision as the Pascal VOC development kit computes it (Everingham et al., IJCV 2010).

Detections of a class are sorted by descending score. Each is assigned the object of that class in
its image that it overlaps most. If the overlap is below the threshold, the detection is false.
Otherwise it is ignored if the object is difficult, true if no earlier detection was assigned the
object, and false if one was. Recall counts the objects that are not difficult.

COCO's rule differs: a detection whose best object is taken may match the next best, and its overlap
with a crowd is relative to its own area.
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
    """Average the precision over the classes that have objects which are not difficult.

    Args:
        detections: For each image ``boxes``, float, (n, 4), in pixels as x1 y1 x2 y2; ``scores``,
            float, (n,); and ``labels``, int64, (n,). All on the CPU.
        targets: For each image ``boxes``, float, (m, 4), ``labels``, int64, (m,), and
            ``difficult``, bool, (m,). All on the CPU.
        rule: ``11_point``, of VOC2007, or ``area``, of VOC2010 and later.
        overlap: Smallest intersection over union that finds an object, in (0, 1].

    Returns:
        Mean average precision from 0 to 1; NaN if no class has such an object.
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
    """Average, over recalls 0, 0.1, …, 1, the best precision at that recall or above.

    Args:
        recall: Recall after each detection by descending score, float64, (n,), in [0, 1].
        precision: Precision after each detection, likewise.

    Returns:
        Average precision, from 0 to 1.
    """
    levels = np.arange(11) / 10
    return float(np.mean([precision[recall >= level].max(initial=0.0) for level in levels]))


def area(recall: Floats, precision: Floats) -> float:
    """Integrate the decreasing envelope of the curve: ∫ max{precision at recall r' ≥ r} dr.

    Args:
        recall: Recall after each detection by descending score, float64, (n,), in [0, 1].
        precision: Precision after each detection, likewise.

    Returns:
        Average precision, from 0 to 1.
    """
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))


def _given_objects(
    detections: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]], overlap: float
) -> NDArray[np.int64]:
    """Return the index, over all images, of the object each detection overlaps most, or −1."""
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
