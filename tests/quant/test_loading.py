"""A full-precision checkpoint can be loaded into a model with quantizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from qbench.quant.attach import attach


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def images() -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(0)).relu()


@pytest.mark.parametrize("bits", ["4/32", "32/4", "4/4"])
@pytest.mark.parametrize("name", ["lsq", "ste", "dorefa"])
def test_a_float_state_becomes_the_latent_weights(name: str, bits: str) -> None:
    if name == "lsq" and bits == "32/4":
        pytest.skip("covered by the others")
    handle = attach(network(0), name, bits=bits, layers="all", calibration=[images()])
    quantizers = {
        key: value.clone()
        for key, value in handle.model.state_dict().items()
        if "quantizer" in key or "parametrizations.weight.0" in key
    }
    trained = network(1)
    handle.model.load_state_dict(trained.state_dict())
    state = handle.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in quantizers.items())
    assert torch.equal(handle.remove().get_parameter("3.weight"), trained.get_parameter("3.weight"))


def test_the_state_of_a_model_with_quantizers_is_loaded_as_it_is() -> None:
    first = attach(network(0), "lsq", bits="4/4", layers="all", calibration=[images()])
    second = attach(network(1), "lsq", bits="4/4", layers="all", calibration=[3 * images()])
    second.model.load_state_dict(first.model.state_dict())
    assert torch.equal(first.model.eval()(images()), second.model.eval()(images()))


def test_a_state_without_a_quantizer_is_incomplete() -> None:
    handle = attach(network(0), "lsq", bits="4/4", layers="all", calibration=[images()])
    state = handle.model.state_dict()
    del state["3.input_quantizer.step"]
    with pytest.raises(RuntimeError, match=r"Missing key.*3\.input_quantizer\.step"):
        handle.model.load_state_dict(state)


def test_what_is_no_state_of_the_model_is_refused_as_by_torch() -> None:
    handle = attach(network(0), "lsq", bits="4/32", layers="all")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        handle.model.load_state_dict({**network(1).state_dict(), "4.weight": torch.zeros(1)})


@pytest.mark.parametrize("kind", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("bits", ["4/32", "32/4", "4/4"])
def test_the_float_state_of_a_parametrized_layer_is_loaded(kind: Any, bits: str) -> None:
    model: Any = network(0)
    trained: Any = network(1)
    for each in (model, trained):
        kind(each[3])
    handle = attach(model, "ste", bits=bits, layers="all", calibration=[images()])
    handle.model.load_state_dict(trained.state_dict())
    handle.remove()
    assert torch.equal(model.eval()[3].weight, trained.eval()[3].weight)
