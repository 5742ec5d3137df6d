"""Networks to test, their inputs, and what their layers are called with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qbench import registry

SIZES = {
    "alexnet_bn": 64,
    "preact_resnet18": 64,
    "resnet20": 32,
    "resnet32": 32,
    "resnet44": 32,
    "resnet56": 32,
    "vgg_small": 32,
}


def build(name: str, classes: int = 10, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.build_model(name, classes, channels)


def images(name: str, count: int = 4, channels: int = 3) -> Tensor:
    size = SIZES[name]
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(count))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def calls(model: nn.Module, x: Tensor, watch: Callable[[nn.Module, Tensor], None]) -> None:
    """Run a model, telling which layer is given what."""
    hooks = [
        module.register_forward_pre_hook(lambda m, args: watch(m, args[0]))
        for module in model.modules()
        if not any(module.children())
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()


def order(model: nn.Module, x: Tensor) -> list[str]:
    """The classes of a model's layers, as they are called."""
    found: list[str] = []
    calls(model, x, lambda module, _: found.append(type(module).__name__))
    return found
