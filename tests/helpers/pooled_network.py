"""A small network with max-pooling, for tests of the order of pooling and normalization."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def network(*, norm_first: bool = True, relu: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return two convolutions, the first pooled over windows of nine, and a linear layer."""
    torch.manual_seed(0)
    pooled = [nn.BatchNorm2d(8), relu(), nn.MaxPool2d(3, 2)]
    if not norm_first:
        pooled = [pooled[2], pooled[0], pooled[1]]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        *pooled,
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 7 * 7, 4),
    )


def images() -> Tensor:
    return torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def kinds(model: nn.Module) -> list[str]:
    assert isinstance(model, nn.Sequential)
    return [type(module).__name__ for module in model]
