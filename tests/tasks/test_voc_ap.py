"""Average precision as VOC's development kit has it, on cases worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from qbench.tasks.voc_ap import Rule, area, eleven_point, mean_average_precision
from tests.helpers.boxes import FAR, A, B, Image, found, objects


def both(detections: list[Image], targets: list[Image]) -> tuple[float, float]:
    """By 11 points, and by area."""
    rules: tuple[Rule, Rule] = ("11_point", "area")
    first, second = (mean_average_precision(detections, targets, rule) for rule in rules)
    return first, second


def test_true_ones_false_ones_and_one_found_twice() -> None:
    # Ranked:   A        A again  first of 2nd  nothing  B
    #           true     false    true          false    true
    # recall    1/3      1/3      2/3           2/3      1
    # precision 1        1/2      2/3           1/2      3/5
    # 11 points: 1 at 0, .1, .2, .3; 2/3 at .4, .5, .6; 3/5 at .7, .8, .9, 1
    # area: a third each of 1, 2/3 and 3/5
    detections = [found((A, 0.9), (A, 0.8), (B, 0.5)), found((FAR, 0.6), (A, 0.7))]
    eleven, by_area = both(detections, [objects(A, B), objects(A)])
    assert eleven == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    assert by_area == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_a_difficult_object_counts_for_nothing_found_or_not() -> None:
    # B is difficult. Detections of it, however many, are neither true nor false: A alone counts.
    once = [found((A, 0.5), (B, 0.9), (B, 0.8))]
    assert both(once, [objects(A, B, difficult=(1,))]) == pytest.approx((1, 1))
    never = [found((A, 0.5))]
    assert both(never, [objects(A, B, difficult=(1,))]) == pytest.approx((1, 1))
    # Were it not, the second of B would be false: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1,
    # so 1 at six of the points and 2/3 at five, and an area of ½ + ½ · 2/3.
    assert both(once, [objects(A, B)]) == pytest.approx(((6 + 5 * 2 / 3) / 11, 5 / 6))


def test_a_detection_whose_best_object_is_taken_is_false_where_coco_gives_it_the_next() -> None:
    # Objects at x 0…10 and 2…12. The second detection, at 0.5…10.5, overlaps the first object by
    # 95/105 and the second by 85/115 > ½. VOC: false, so recall ½ at precision 1. COCO: true.
    other = [2, 0, 12, 10]
    detections = [found((A, 0.9), ([0.5, 0, 10.5, 10], 0.8))]
    targets = [objects(A, other)]
    assert both(detections, targets) == pytest.approx((6 / 11, 1 / 2))
    coco = MeanAveragePrecision(iou_thresholds=[0.5], rec_thresholds=[i / 10 for i in range(11)])
    coco.update(detections, targets)
    assert float(coco.compute()["map"]) == pytest.approx(1)


def test_an_overlap_of_a_half_is_enough() -> None:
    targets = [objects(A)]
    assert both([found(([0, 0, 10, 5], 0.9))], targets) == (1, 1)  # 50 / 100
    assert both([found(([0, 0, 10, 4.99], 0.9))], targets) == (0, 0)
    assert mean_average_precision([found(([0, 0, 10, 5], 0.9))], targets, "area", 0.6) == 0


def test_a_recall_of_three_tenths_reaches_the_level_of_three_tenths() -> None:
    # In floating point 3 · 0.1 > 3/10.
    ten = [[20.0 * i, 0, 20 * i + 10, 10] for i in range(10)]
    detections = [found(*((box, 0.9) for box in ten[:3]))]
    assert both(detections, [objects(*ten)]) == pytest.approx((4 / 11, 3 / 10))


def test_the_curve_is_made_to_fall() -> None:
    recall, precision = np.array([0.25, 0.5, 0.75]), np.array([0.5, 0.8, 0.6])
    # 0.8 up to recall ½, 0.6 up to ¾, then nothing: levels 0…0.5, 0.6…0.7, 0.8…1
    assert eleven_point(recall, precision) == pytest.approx((6 * 0.8 + 2 * 0.6) / 11)
    assert area(recall, precision) == pytest.approx(0.5 * 0.8 + 0.25 * 0.6)


def test_the_mean_is_over_classes_that_have_objects() -> None:
    # Class 1 is found, class 2 taken for class 3, of which there is none.
    detections = [found((A, 0.9)), found((A, 0.9), label=3)]
    targets = [objects(A), objects(A, label=2)]
    assert both(detections, targets) == pytest.approx((1 / 2, 1 / 2))
    # A class whose objects are all difficult is none to find.
    assert both(detections[:1], [objects(A, difficult=(0,))]) == pytest.approx(
        (math.nan, math.nan), nan_ok=True
    )


def test_an_image_without_objects_has_only_false_detections() -> None:
    # Ranked: false, true: precision ½ at recall 1.
    detections = [found((FAR, 0.9)), found((A, 0.8))]
    assert both(detections, [objects(), objects(A)]) == pytest.approx((1 / 2, 1 / 2))
    assert both([found(), found()], [objects(), objects(A)]) == (0, 0)


def average_precision(detections: list[Image], targets: list[Image], label: int) -> float:
    """Area by VOC2010's rule, one detection after the other."""
    ranked = sorted(
        (
            (-float(each["scores"][j]), i, j)
            for i, each in enumerate(detections)
            for j in range(len(each["labels"]))
            if each["labels"][j] == label
        ),
    )
    wanted = sum(int(((t["labels"] == label) & ~t["difficult"]).sum()) for t in targets)
    taken: set[Any] = set()
    true = false = 0
    curve = []
    for _, i, j in ranked:
        best, most = -1, 0.0
        for k in range(len(targets[i]["labels"])):
            overlap = box_iou(detections[i]["boxes"][j : j + 1], targets[i]["boxes"][k : k + 1])
            if targets[i]["labels"][k] == label and float(overlap) > most:
                best, most = k, float(overlap)
        if most >= 0.5 and targets[i]["difficult"][best]:
            continue
        if most >= 0.5 and (i, best) not in taken:
            taken.add((i, best))
            true += 1
        else:
            false += 1
        curve.append((true / wanted, true / (true + false)))
    total, before = 0.0, 0.0
    for n, (recall, _) in enumerate(curve):
        total += (recall - before) * max(precision for _, precision in curve[n:])
        before = recall
    return total


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_one_detection_after_the_other_gives(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> Tensor:
        corner = 20 * torch.rand(count, 2, generator=draw)
        return torch.cat([corner, corner + 8 + 8 * torch.rand(count, 2, generator=draw)], 1)

    detections, targets = [], []
    for _ in range(10):
        n, m = (int(k) for k in torch.randint(0, 6, (2,), generator=draw))
        labels = torch.randint(1, 3, (n + m,), generator=draw)
        near = boxes(m)
        guesses = torch.cat([boxes(n), near + 1])
        detections.append(
            {"boxes": guesses, "scores": torch.rand(n + m, generator=draw), "labels": labels}
        )
        difficult = torch.rand(m, generator=draw) < 0.3
        targets.append({"boxes": near, "labels": labels[n:], "difficult": difficult})
    expected = np.mean([average_precision(detections, targets, label) for label in (1, 2)])
    assert 0.1 < expected < 0.95
    assert mean_average_precision(detections, targets, "area") == pytest.approx(expected)
