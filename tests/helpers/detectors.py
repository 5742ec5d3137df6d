"""A small detector, and a batch for it."""

from __future__ import annotations

import torch

from qbench.tasks import detection

TINY = [
    *("backbone.stem.3", "backbone.stem.6", "backbone.eighth.0", "backbone.eighth.3"),
    *("backbone.sixteenth.0", "backbone.sixteenth.3"),
]


def batch(size: int = 96, count: int = 2) -> detection.DetectionBatch:
    """Images of noise; a box of a third of the image in each, and a smaller one."""
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    boxes = size / 96 * torch.tensor([[10.0, 10, 42, 42], [50, 50, 70, 75]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 5]), "difficult": torch.zeros(2) > 0}
    return images, [target] * count
