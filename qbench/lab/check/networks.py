"""The small networks that methods are checked on, and a method attached to one of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from qbench.method import Method
from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from qbench.spec.placement import Placement

EPOCHS_OF_CHECK = 3
STEPS_OF_CHECK = 100
OUTPUTS = 4


@dataclass(frozen=True)
class Case:
    """One method at one pair of bit-widths on one network.

    Attributes:
        method: Name of the method.
        options: Options of the method that differ from the defaults.
        network: Name of one of `NETWORKS`.
        bits: Bit-widths as ``W/A``.
        granularity: Value of the option ``granularity``; empty: that of ``options``.
        placement: Where activation quantizers sit; None: where the method has them.
        shares: Smallest share of ``weights`` and of ``inputs`` that have a gradient, over the
            layers. The check of gradients sets it.
    """

    method: str
    options: Mapping[str, Any]
    network: str
    bits: str
    granularity: str = ""
    placement: Placement | None = None
    shares: dict[str, float] = field(default_factory=dict, compare=False)
    _kept: dict[str, tuple[Handle, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __str__(self) -> str:
        granularity = f", granularity: {self.granularity}" if self.granularity else ""
        placement = f", placement: {self.placement}" if self.placement else ""
        return f"{self.network} {self.bits}{granularity}{placement}"

    def on(self, network: str) -> Case:
        """Return the case on another network."""
        return replace(self, network=network)

    def model(self, seed: int = 0) -> nn.Module:
        """Build the network.

        Its weights are Gaussian, scaled so that the largest of each layer is 1.

        Args:
            seed: Seed of the weights.
        """
        seed_cpu(seed)
        model = NETWORKS[self.network]()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight)
                module.weight.data /= module.weight.data.abs().max()
        return model

    @torch.enable_grad()
    def attach(
        self,
        *,
        dtype: torch.dtype = torch.float32,
        method: Method | None = None,
        model: nn.Module | None = None,
        layers: list[str] | None = None,
        seed: int = 0,
    ) -> Handle:
        """Attach the method to the network and start the first epoch.

        Args:
            dtype: Floating-point type of the network and of its calibration data.
            method: The method, if it is already built.
            model: The network, if it is already built.
            layers: Names of the layers to quantize; None: all.
            seed: Seed of the network's weights, and of the calibration data.
        """
        options = {**self.options} | ({"granularity": self.granularity} if self.granularity else {})
        built = method or build_method(self.method, options)
        model = (model or self.model(seed)).to(dtype)
        calibration = [images(2 * seed + half).to(dtype) for half in (0, 1)]
        handle = attach(
            model,
            built,
            bits=self.bits,
            layers=layers or "all",
            placement=self.placement,
            calibration=calibration,
        )
        handle.on_epoch_start(1, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
        return handle

    def attached(self) -> Handle:
        """Return a deep copy of the method attached to the network.

        To attach it takes longer than to copy it. Checks that do not depend on how a method is
        attached use copies.
        """
        return self.keep("attached", self.attach)

    def keep(self, name: str, make: Callable[[], Handle]) -> Handle:
        """Make a handle once, and return a deep copy of it each time.

        The state of torch's random generator is what it is after the handle is made.

        Args:
            name: What is kept.
            make: Makes it.
        """
        if name not in self._kept:
            self._kept[name] = make(), torch.get_rng_state()
        handle, state = self._kept[name]
        torch.set_rng_state(state)
        try:
            return copy.deepcopy(handle)
        except Exception:  # the check of copies reports it
            return make()


def convolutional() -> nn.Module:
    """Build three convolutions with batch normalisation, and a linear layer."""
    return nn.Sequential(
        *_block(3, 8), *_block(8, 8), *_block(8, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, OUTPUTS),
    )  # fmt: skip


def depthwise() -> nn.Module:
    """Build a depthwise convolution, with filters of nine weights, between two pointwise ones."""
    return nn.Sequential(
        *_block(3, 8, size=1), *_block(8, 8, groups=8), *_block(8, 8, size=1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, OUTPUTS),
    )  # fmt: skip


def linear() -> nn.Module:
    """Build three linear layers with biases and without batch normalisation."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(108, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(),
        nn.Linear(16, OUTPUTS),
    )  # fmt: skip


def mixed() -> nn.Module:
    """Build a network with something of each of the others."""
    return nn.Sequential(
        *_block(3, 8), *_block(8, 8, groups=8), *_block(8, 8, size=1), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, OUTPUTS),
    )  # fmt: skip


def odd() -> nn.Module:
    """Build a network of unusual shapes: drawn ones, one channel, one weight, a large layer."""
    a, b, c = (2 * torch.randint(2, 7, (3,)) + 1).tolist()
    return nn.Sequential(
        *_block(3, a, size=5), *_block(a, 1), *_block(1, b, size=1),
        *_block(b, c), nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(64 * c, 64), nn.ReLU(),
        nn.Linear(64, 1), nn.Linear(1, 1), nn.Linear(1, OUTPUTS),
    )  # fmt: skip


def residual() -> nn.Module:
    """Build a residual block that calls one ReLU twice, between a pooling and a linear layer."""
    return nn.Sequential(
        *_block(3, 8), nn.MaxPool2d(2), _Residual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, OUTPUTS),
    )  # fmt: skip


class _Residual(nn.Module):
    """Two convolutions and a shortcut around them.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.norm, self.relu = _block(channels, channels)
        self.second = _block(channels, channels)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, height, width) to the same shape."""
        y: Tensor = self.relu(self.norm(self.first(x)))
        out: Tensor = self.relu(self.second(y) + x)
        return out


def tied() -> nn.Module:
    """Build a network in which two linear layers share a weight."""
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    return nn.Sequential(
        nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), first, nn.ReLU(), second, nn.ReLU(),
        nn.Linear(16, OUTPUTS),
    )  # fmt: skip


def _block(inputs: int, outputs: int, size: int = 3, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    network.__name__: network
    for network in (convolutional, depthwise, linear, mixed, odd, residual, tied)
}


ALL_NETWORKS = ("convolutional", "depthwise", "linear")
QUICK_NETWORKS = ("mixed",)


def seed_cpu(seed: int) -> None:
    """Seed the generator of the CPU; to look up all accelerators takes longer than a step."""
    torch.default_generator.manual_seed(seed)


def images(seed: int = 0, height: int = 6, width: int = 6) -> Tensor:
    """Draw eight images of Gaussian noise, (8, 3, height, width) in float32."""
    return torch.randn(8, 3, height, width, generator=torch.Generator().manual_seed(seed))
