"""Networks and quantizers for tests of placements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qbench.quant.calibration import evaluation_mode
from qbench.quant.layers import select_layers
from qbench.quant.placement.find import FoundPlaces, find_places
from qbench.quant.placement.insert import Insertion
from qbench.spec.bits import BitWidth, BitWidths
from qbench.spec.placement import Placement
from qbench.spec.policies import LayerPolicy


class Unchanged(nn.Module):
    """Quantizer that changes nothing, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, any shape, as a new tensor."""
        self.seen.append(x.detach().clone())
        return x * 1


class Block(nn.Module):
    """Residual block that calls one ReLU twice, as torchvision's do."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, height, width) to the same shape."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


def residual_network(blocks: int = 2) -> nn.Sequential:
    """Build a stem with a pooling, residual blocks, a pooling, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        *(Block() for _ in range(blocks)), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def find(
    model: nn.Module,
    x: Any,
    placement: Placement = "after_activation",
    bits: str = "2/2",
    layers: LayerPolicy = "skip_first_last",
    replaces: bool = False,
) -> FoundPlaces:
    """Find the places of a model."""
    widths = BitWidths.parse(bits)
    selected = [m for m in select_layers(model, layers, widths) if not m.activation_bits.is_float]
    with evaluation_mode(model):
        return find_places(model, selected, placement, widths.activations, x, replaces)


def insert_unchanged(model: nn.Module, found: FoundPlaces) -> tuple[Insertion, list[Unchanged]]:
    """Insert a quantizer that changes nothing at every place, and return them."""
    quantizers = [Unchanged() for _ in found.places]
    of_point: dict[Any, nn.Module] = {
        point: quantizer
        for quantizer, points in zip(quantizers, found.points_of, strict=True)
        for point in points
    }
    return Insertion(model, found.sites, of_point), quantizers


def gradients(model: nn.Module, x: Tensor) -> list[Tensor | None]:
    """Return the output of a model and the gradients of its parameters for a fixed loss."""
    model.zero_grad()
    torch.manual_seed(0)
    output = model(x)
    output.square().sum().backward()
    return [output.detach(), *(p.grad for p in model.parameters())]


TWO = BitWidth(2)
