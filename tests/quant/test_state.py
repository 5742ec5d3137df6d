"""A model is quantized as it is, or refused with the layer's name and with advice."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from qbench.errors import QbenchError
from qbench.quant.attach import attach


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def images() -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def refusal(model: nn.Module, bits: str = "4/4", **options: object) -> str:
    """Return why a model is refused."""
    with pytest.raises(QbenchError) as refused:
        attach(model, "lsq", bits=bits, calibration=[images()], **options)  # type: ignore[arg-type]
    return str(refused.value)


@pytest.mark.parametrize("bits", ["4/32", "32/4", "4/4"])
def test_a_second_attach_is_refused_with_advice(bits: str) -> None:
    model = network()
    attach(model, "lsq", bits=bits, calibration=[images()])
    assert refusal(model, "2/2").startswith("'3' has quantizers already: call handle.remove()")


def test_an_attach_after_hardening_with_quantized_activations_is_refused() -> None:
    model = network()
    attach(model, "lsq", bits="8/8", calibration=[images()]).harden()
    assert "'3' has quantizers already" in refusal(model)
    assert "'3' has quantizers already" in refusal(copy.deepcopy(model))


def test_after_removal_a_second_attach_is_as_a_fresh_one() -> None:
    model = network()
    fresh = copy.deepcopy(model)
    attach(model, "lsq", bits="8/8", calibration=[images()]).remove()
    second = attach(model, "lsq", bits="4/4", calibration=[images()]).model.eval()
    first = attach(fresh, "lsq", bits="4/4", calibration=[images()]).model.eval()
    assert torch.equal(first(images()), second(images()))


def test_hardened_weights_without_activations_can_be_quantized_again() -> None:
    model = network()
    attach(model, "lsq", bits="8/32").harden()
    hardened = attach(model, "lsq", bits="2/32").harden()
    assert len(hardened.get_parameter("3.weight").unique()) <= 4


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), "leaves all of '0', '1' at full"),
        (nn.LSTM(6, 3), "no convolution and no linear layer"),
    ],
    ids=["two layers", "lstm"],
)
def test_an_attach_that_quantizes_nothing_is_refused(model: nn.Module, words: str) -> None:
    assert words in refusal(model, "4/32")


def test_an_empty_list_of_layers_is_refused() -> None:
    assert "nothing to quantize" in refusal(network(), "4/32", layers=[])


def test_full_precision_needs_no_layer() -> None:
    assert attach(nn.LSTM(6, 3), "fp32", bits="32/32").layers == []


def test_a_lazy_layer_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LazyLinear(8), nn.Linear(8, 3))
    assert refusal(model, layers="all").startswith("'1.weight' is not initialized: run the model")


def test_a_lazy_normalization_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LazyBatchNorm1d(), nn.Linear(8, 3))
    assert "'1.weight' is not initialized" in refusal(model, layers="all")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["3.weight", "0.bias", "1.running_var", "1.weight"])
def test_values_that_are_not_finite_are_named(name: str, value: float) -> None:
    model = network()
    state = model.state_dict()
    state[name].view(-1)[0] = value
    assert refusal(model).startswith(f"'{name}' has values that are not finite")


def old_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (old_weight_norm, "use torch.nn.utils.parametrizations.weight_norm"),
        (nn.utils.spectral_norm, "use torch.nn.utils.parametrizations.spectral_norm"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "torch.nn.utils.prune.remove"),
    ],
    ids=["weight_norm", "spectral_norm", "pruning"],
)
def test_weights_that_hooks_compute_are_refused_by_name(
    change: Callable[[nn.Module], object], advice: str
) -> None:
    model = network()
    change(model[3])
    message = refusal(model)
    assert message.startswith("the weight of '3' is computed by torch.nn.utils.")
    assert advice in message


def test_pruning_made_permanent_is_quantized() -> None:
    model = network()
    prune.l1_unstructured(model[3], "weight", 0.5)
    prune.remove(model[3], "weight")
    assert attach(model, "lsq", bits="4/32").layers


def test_removal_keeps_a_parametrization_of_the_users() -> None:
    model = network()
    parametrizations.spectral_norm(model[3])
    layer: Any = model.eval()[3]
    before = layer.weight.clone()
    handle = attach(model, "lsq", bits="2/32")
    assert not torch.equal(layer.weight, before)
    handle.remove()
    assert type(layer.parametrizations.weight[0]).__name__ == "_SpectralNorm"
    assert torch.equal(layer.weight, before)


def test_a_given_state_that_is_not_finite_is_named() -> None:
    state = network().state_dict()
    state["3.weight"].view(-1)[0] = float("nan")
    assert refusal(network(), state_dict=state).startswith("'3.weight' has values that are not")
