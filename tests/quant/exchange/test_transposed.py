"""Transposed convolutions with output channels first compute what torch computes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from qbench.method import PerChannel
from qbench.quant.attach import attach
from qbench.quant.exchange.modules import exchange, is_exchanged, restore
from qbench.quant.exchange.transposed import output_first

CLASSES = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", CLASSES)
def test_outputs_and_states_are_those_of_torch(kind: Any, groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(4, 6, 3, 2, 1, output_padding=1, groups=groups))
    exchanged = copy.deepcopy(model)
    exchange(exchanged)
    assert exchanged[0].get_parameter("weight").shape[:2] == (6, 4 // groups)
    x = torch.randn(2, 4, *[5] * CLASSES.index(kind), 5)
    assert torch.equal(model(x), exchanged(x))
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    for each in (model, exchanged):
        each.load_state_dict(state)
    assert torch.equal(model(x), exchanged(x))
    assert torch.equal(exchanged.state_dict()["0.weight"], state["0.weight"])
    restore(exchanged)
    assert type(exchanged[0]) is kind
    assert torch.equal(exchanged[0].get_parameter("weight"), model[0].get_parameter("weight"))


def test_the_size_of_the_output_may_be_given() -> None:
    model = nn.ConvTranspose2d(2, 3, 3, 2, 1)
    exchanged = copy.deepcopy(model)
    exchange(exchanged)
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(model(x, [8, 8]), exchanged(x, [8, 8]))


@pytest.mark.parametrize("groups", [1, 2])
def test_an_output_channel_has_levels_of_its_own(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    assert len(output_first(model, model.weight)) == 6
    layer = nn.Sequential(model)
    handle = attach(layer, "bwn", bits="1/32", layers="all")
    assert handle.layers[0].weight_levels.granularity == PerChannel()  # type: ignore[union-attr]
    layer = handle.harden()  # type: ignore[assignment]
    assert type(layer[0]) is nn.ConvTranspose2d
    weight = layer[0].weight.detach()
    # Output channel c of group g reads the inputs of that group: weight[in of g, c].
    inside = weight.unflatten(0, (groups, 4 // groups))
    for group in range(groups):
        for channel in range(6 // groups):
            assert len(inside[group, :, channel].abs().unique()) == 1
    assert len(weight.abs().unique()) == 6


@pytest.mark.parametrize(
    ("method", "bits"),
    [("lsq", "2/2"), ("admm", "2/32"), ("inq", "2/32"), ("quantization_networks", "2/2")],
)
def test_a_transposed_convolution_trains_and_hardens(method: str, bits: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.Conv2d(6, 2, 1)
    )
    float_state = copy.deepcopy(model.state_dict())
    x = torch.randn(4, 1, 6, 6)
    handle = attach(model, method, bits=bits, calibration=[x])
    assert [layer.name for layer in handle.layers] == ["2"]
    groups = handle.parameter_groups(0.1, 0.0)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    handle.attach_optimizer(optimizer)
    handle.on_epoch_start(1, 1, 2)
    for _ in range(2):
        optimizer.zero_grad()
        (handle.model(x).square().mean() + handle.regularization_loss()).backward()
        optimizer.step()
    handle.model.load_state_dict(float_state, strict=False)
    expected = handle.model.eval()(x)
    hardened = handle.harden().eval()
    assert type(hardened[2]) is nn.ConvTranspose2d  # type: ignore[index]
    assert torch.allclose(hardened(x), expected, atol=1e-6)


def test_a_weight_that_is_computed_or_shared_stays() -> None:
    normed = nn.Sequential(weight_norm(nn.ConvTranspose2d(2, 2, 3)))
    shared = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ConvTranspose2d(2, 2, 3))
    shared[1].weight = shared[0].weight
    for model in (normed, shared):
        exchange(model)
        assert not any(is_exchanged(module) for module in model.modules())


def test_removing_the_quantizers_restores_the_module() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 3, groups=2))
    before = copy.deepcopy(model.state_dict())
    attach(model, "bwn", bits="1/32", layers="all").remove()
    assert type(model[0]) is nn.ConvTranspose2d
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
