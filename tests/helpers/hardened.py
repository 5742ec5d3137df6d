"""Small hardened networks to deploy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.spec.placement import Placement


def convnet() -> nn.Sequential:
    """Two convolutions, one of them depthwise, and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def images(count: int = 32, seed: int = 0, channels: int = 1, size: int = 6) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=random)


def trained(
    method: Any,
    bits: str,
    model: nn.Module | None = None,
    x: Tensor | None = None,
    layers: Any = "all",
    placement: Placement | None = None,
    steps: int = 3,
    **options: Any,
) -> Handle:
    """Attach a method, train it for a few steps, and harden the network."""
    torch.manual_seed(0)
    model = convnet() if model is None else model
    x = images() if x is None else x
    handle = attach(
        *(model, method),
        bits=bits, calibration=[x], layers=layers, placement=placement, **options,
    )  # fmt: skip
    if handle.method.trains:
        optimizer = torch.optim.SGD(handle.parameter_groups(0.02, 1e-4), lr=0.02, momentum=0.9)
        handle.attach_optimizer(optimizer)
        handle.on_epoch_start(1, 1, steps)
        handle.model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            output = handle.model(x)
            target = torch.arange(len(x)) % output.shape[1]
            (F.cross_entropy(output, target) + handle.regularization_loss()).backward()
            optimizer.step()
    handle.harden().eval()
    return handle
