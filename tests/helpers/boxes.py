"""Boxes, detections and objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Image = dict[str, Tensor]


Box = Sequence[float]


A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def found(*detections: tuple[Box, float], label: int = 1) -> Image:
    """Detections of an image: boxes and scores."""
    return {
        "boxes": torch.tensor([box for box, _ in detections], dtype=torch.float32).view(-1, 4),
        "scores": torch.tensor([score for _, score in detections]),
        "labels": torch.full((len(detections),), label),
    }


def objects(*boxes: Box, difficult: tuple[int, ...] = (), label: int = 1) -> Image:
    """Objects of an image, some of them difficult by their number."""
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.full((len(boxes),), label),
        "difficult": torch.tensor([i in difficult for i in range(len(boxes))], dtype=torch.bool),
    }
