"""Deterministic tensors that tests quantize."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

SHAPE = (6, 4, 3, 3)
"""Shape of the weight of a small convolution: 6 filters of 36 weights."""


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Draw from N(0, scale²), in float64."""
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=random, dtype=torch.float64)


def normal32(*shape: int, seed: int = 0) -> Tensor:
    """Draw from N(0, 1), in float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian_quantiles(count: int) -> Tensor:
    """Return quantiles of N(0, 1): its distribution without the noise of a draw."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
