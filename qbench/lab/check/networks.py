"""The small networks that methods are checked on, and a method attached to one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qbench.method import Method
from qbench.quant.attach import Handle, attach
from qbench.quant.options import build_method

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
    """

    method: str
    options: Mapping[str, Any]
    network: str
    bits: str

    def model(self) -> nn.Module:
        """Build the network.

        Its weights are always the same: Gaussian, scaled so that the largest of each layer is 1.
        """
        torch.manual_seed(0)
        model = NETWORKS[self.network]()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight)
                module.weight.data /= module.weight.data.abs().max()
        return model

    def attach(self, dtype: torch.dtype = torch.float32, method: Method | None = None) -> Handle:
        """Attach the method to all layers of the network and start the first epoch.

        Args:
            dtype: Floating-point type of the network and of its calibration data.
            method: The method, if it is already built.
        """
        built = method or build_method(self.method, self.options)
        model = self.model().to(dtype)
        calibration = [images(seed).to(dtype) for seed in (0, 1)]
        handle = attach(model, built, bits=self.bits, layers="all", calibration=calibration)
        handle.on_epoch_start(1, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
        return handle


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


def _block(inputs: int, outputs: int, size: int = 3, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    network.__name__: network for network in (convolutional, depthwise, linear, mixed)
}


ALL_NETWORKS = ("convolutional", "depthwise", "linear")
QUICK_NETWORKS = ("mixed",)


def images(seed: int = 0) -> Tensor:
    """Draw eight images of Gaussian noise, (8, 3, 6, 6) in float32."""
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
