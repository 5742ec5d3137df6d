"""The primitive that a quantizer could use is found from what the quantizer computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qbench.functional import fake_quantize
from qbench.lab.primitives import advice, advice_for
from qbench.lab.profile import every_method
from qbench.method import Quantizer
from qbench.quant.attach import attach
from qbench.registry import method_class


def slowly(y: Tensor) -> Tensor:
    """Return y after as many operations as a quantizer of torch's functions has."""
    for _ in range(5):
        y = y + 0
    return y


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "fake_quantize": lambda x: (x / 0.3).clamp(-4, 3).round() * 0.3,
    "binarize": lambda x: torch.where(x >= 0, 0.7, -0.7),
    "two_levels": lambda x: torch.where(x >= 0.4, 1.0, -0.5),
    "ternarize": lambda x: x.sign() * (x.abs() > 0.9) * 0.6,
    "to_levels": lambda x: x.sign() * torch.where(x.abs() > 1, 0.8, 0.2),
}


class Slow(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return slowly(self.function(x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_primitive_has_the_levels_and_thresholds_of_the_quantizer(name: str) -> None:
    x = torch.randn(8, 60, generator=torch.Generator().manual_seed(0))
    line = advice("weights", Slow(FUNCTIONS[name]), x)
    assert line is not None
    assert line.startswith("weights: ")
    assert line.endswith(f"; {name} makes one")


def test_a_quantizer_may_have_levels_of_each_row() -> None:
    x = torch.randn(8, 60, generator=torch.Generator().manual_seed(0))
    scale = 1 + torch.arange(8.0)[:, None]
    line = advice("weights", Slow(lambda x: (x / scale).sign() * scale), x)
    assert line is not None
    assert line.endswith("; binarize makes one")


@pytest.mark.parametrize(
    "quantizer",
    [
        Slow(torch.cos),  # falls
        Slow(torch.tanh),  # has no levels
        Slow(torch.zeros_like),  # has one
        Slow(torch.log),  # is not finite
        nn.Identity(),
    ],
)
def test_there_is_no_advice_where_no_primitive_has_the_values(quantizer: nn.Module) -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    assert advice("activations", quantizer, x) is None


def test_a_level_may_have_no_value() -> None:
    x = torch.tensor([-0.6, -0.25, 0.05, 0.3, 0.9, 1.2])
    line = advice("weights", Slow(FUNCTIONS["fake_quantize"]), x)
    assert line is not None
    assert line.endswith("; fake_quantize makes one")


def test_a_quantizer_of_primitives_gets_no_advice() -> None:
    class Fast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fake_quantize(x, x.detach().abs().mean(), -2, 1)

    assert advice("weights", Fast(), torch.randn(100)) is None


def test_activations_are_those_that_arrive_and_a_class_is_named_once() -> None:
    class Rounded(Quantizer):
        def forward(self, x: Tensor) -> Tensor:
            return slowly((x / 0.1).clamp(0, 15).round() * 0.1)

    torch.manual_seed(0)
    first, second = Rounded(), Rounded()
    model = nn.Sequential(nn.Linear(3, 5), first, nn.Linear(5, 5), second)
    found = [("activations", q, None) for q in (first, second)]
    (line,) = advice_for(model, found, torch.randn(50, 3))
    assert line.endswith("; fake_quantize makes one")
    assert not first._forward_pre_hooks


def test_no_method_of_the_project_could_use_another_primitive() -> None:
    for name, bits in every_method():
        if method_class(name).library is not None:
            continue
        model = nn.Sequential(
            nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3),
            nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2),
        )  # fmt: skip
        handle = attach(model, name, bits=bits, calibration=[torch.randn(8, 3, 10, 10)])
        handle.on_epoch_start(2, 2, 1)
        handle.model.train()
        for layer in handle.layers:
            if layer.weight_quantizer is not None:
                found = advice("weights", layer.weight_quantizer, layer.latent_weight)
                assert found is None, f"{name}: {found}"
            if layer.activation_quantizer is not None:
                x = torch.randn(8, 64, 8, 8).relu()
                found = advice("activations", layer.activation_quantizer, x)
                assert found is None, f"{name}: {found}"
