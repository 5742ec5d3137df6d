"""Observing the modules of a model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qbench.quant.attach import attach
from qbench.quant.hooks import bypassed, observed, observed_inputs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_inputs_and_outputs_are_observed_in_every_pass_until_the_end() -> None:
    model, seen = network(), []
    with observed({"last": model[2]}, lambda *found: seen.append(found)):
        for scale in (1.0, 2.0):
            model(torch.full((3, 4), scale))
    model(torch.zeros(3, 4))
    assert [name for name, _, _ in seen] == ["last", "last"]
    for _, x, y in seen:
        assert torch.equal(model[2](x), y)


class Residual(nn.Module):
    """A layer and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + x
        return y


def test_what_an_observer_adds_is_not_quantized_as_an_addition_of_the_model() -> None:
    x, sums = torch.rand(8, 2, 3, 3), []
    block = Residual()
    model = nn.Sequential(block, nn.Conv2d(2, 2, 1))
    attach(
        model, "ste", bits="2/2", layers="all", placement="after_activation_and_add",
        calibration=[x],
    )  # fmt: skip
    with observed({"0": block.layer}, lambda name, x, y: sums.append((x + x, 2 * x))):
        model(x)
    assert torch.equal(*sums[0])


def test_the_hooks_of_a_pass_that_fails_are_removed_too() -> None:
    model = network()
    with pytest.raises(RuntimeError), observed(dict(model.named_children()), lambda *_: None):
        model(torch.zeros(3, 5))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_input_of_a_layer_is_observed_as_its_quantizer_leaves_it() -> None:
    x = torch.rand(64, 4)
    handle = attach(network(), "ste", bits="2/2", layers="all", calibration=[x])
    seen: dict[str, Tensor] = {}
    with observed_inputs(handle.layers, seen.__setitem__):
        handle.model(x)
    for layer in handle.layers:
        assert len(seen[layer.name].unique()) <= 4


def test_layers_compute_at_full_precision_while_their_quantizers_are_bypassed() -> None:
    x = torch.rand(64, 4)
    model = network()
    expected = model(x)
    handle = attach(model, "ste", bits="2/2", layers="all", calibration=[x])
    quantized = handle.model.eval()(x)
    assert not torch.equal(quantized, expected)
    with bypassed(handle.layers):
        assert torch.equal(handle.model(x), expected)
    assert torch.equal(handle.model(x), quantized)


def test_the_quantizers_of_weights_alone_can_be_bypassed() -> None:
    x = torch.rand(64, 4)
    handle = attach(network(), "lsq", bits="2/2", layers="all", calibration=[x])
    seen: dict[str, Tensor] = {}
    with (
        bypassed(handle.layers, activations=False),
        observed_inputs(handle.layers, seen.__setitem__),
    ):
        handle.model(x)
        for layer in handle.layers:
            assert torch.equal(layer.module.weight, layer.latent_weight)  # type: ignore[arg-type]
    for layer in handle.layers:
        assert len(seen[layer.name].unique()) <= 4
        assert len(layer.module.weight.unique()) <= 4  # type: ignore[operator]
