"""Models of somebody else, which do what models may do, and what they should not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench import registry


class Branched(nn.Module):
    """A network with an auxiliary classifier, which only training uses."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.begin = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.side = nn.Linear(4, num_classes)
        self.end = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Any:
        x = self.begin(x)
        scores = self.end(self.pool(self.middle(x)))
        return (scores, self.side(self.pool(x))) if self.training else scores


class LooksAtValues(nn.Sequential):
    """A network whose path depends on values, which a network without storage does not have."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = super().forward(x)
        return scores if bool(scores.sum() > 0) else scores + 1


def flat(num_classes: int, in_channels: int) -> nn.Sequential:
    """A classifier of digits."""
    conv = nn.Conv2d(in_channels, 4, 3)
    return nn.Sequential(
        conv, nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, num_classes)
    )


def lazy(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.LazyLinear(8), nn.Linear(8, num_classes)
    )


def raises(num_classes: int, in_channels: int) -> nn.Module:
    raise KeyError("width")


class FailsInTraining(nn.Sequential):
    """A network that only evaluation can run."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise AttributeError("no such thing")
        scores: Tensor = super().forward(x)
        return scores


class Wrapped(nn.Module):
    """A network whose output is a dictionary."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.inner(x)}


FOREIGN: Mapping[str, Callable[[int, int], nn.Module]] = {
    "branched": Branched,
    "looks_at_values": lambda n, c: LooksAtValues(*flat(n, c)),
    "lazy": lazy,
    "raises": raises,
    "fails_in_training": lambda n, c: FailsInTraining(*flat(n, c)),
    "wrapped": lambda n, c: Wrapped(flat(n, c)),
    "too_few_scores": lambda n, c: flat(n - 1, c),
}


@pytest.fixture
def foreign_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `FOREIGN` beside the known models."""
    build, check = registry.build_model, registry.check_model_name

    def build_any(name: str, num_classes: int, in_channels: int) -> nn.Module:
        if name in FOREIGN:
            return FOREIGN[name](num_classes, in_channels)
        return build(name, num_classes, in_channels)

    def check_any(name: str) -> None:
        if name not in FOREIGN:
            check(name)

    monkeypatch.setattr(registry, "build_model", build_any)
    monkeypatch.setattr(registry, "check_model_name", check_any)
    torch.manual_seed(0)
