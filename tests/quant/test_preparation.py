"""Whether a method changes a network, and for which bit-widths alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.method import Method
from qbench.quant.options import build_method
from qbench.quant.preparation import preparation_of, prepare_as
from qbench.quant.surgery import RELU, replace_modules
from qbench.spec.bits import BitWidths
from qbench.spec.trial import Preparation


def convnet_tiny() -> nn.Module:
    return registry.build_model("convnet_tiny", 10, 1)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def prepared(name: str, bits: str, **options: Any) -> Preparation | None:
    return preparation_of(build_method(name, options), BitWidths.parse(bits), convnet_tiny)


def found(
    prepare: Callable[[nn.Module, BitWidths], nn.Module], bits: str = "2/2", **attributes: Any
) -> Preparation | None:
    """Return the preparation of a small network by a method with this hook."""
    own = type("Own", (Method,), {"prepare": lambda self, *args: prepare(*args), **attributes})
    return preparation_of(own(), BitWidths.parse(bits), small)


@pytest.mark.parametrize(
    ("name", "bits", "options"),
    [
        ("bnn", "1/1", {}),
        ("binary_connect", "1/1", {}),
        ("xnor", "1/1", {}),
        ("xnor", "1/1", {"scale_map": True}),
        ("hwgq", "1/2", {}),
        ("tbn", "1/2", {}),
        ("bireal", "1/1", {}),
        ("react_net", "1/1", {}),
        ("abc_net", "3/3", {}),
        ("friesen_domingos", "32/1", {}),
        ("wrpn", "2/2", {"widen": 2}),
    ],
)
def test_methods_that_change_the_network(name: str, bits: str, options: dict[str, Any]) -> None:
    change = prepared(name, bits, **options)
    assert change is not None
    assert change.method == name
    assert change.options.items() >= options.items()


@pytest.mark.parametrize(
    ("name", "bits", "options"),
    [
        ("ste", "2/2", {}),
        ("fp32", "32/32", {}),
        ("binary_connect", "1/32", {}),
        ("abc_net", "3/32", {}),
        ("friesen_domingos", "32/2", {}),
        ("wrpn", "2/2", {"widen": 1}),
    ],
)
def test_methods_that_leave_the_network_alone(
    name: str, bits: str, options: dict[str, Any]
) -> None:
    assert prepared(name, bits, **options) is None


def test_a_network_without_pooling_is_not_changed_by_moving_it() -> None:
    hwgq = build_method("hwgq", {})
    build = lambda: registry.build_model("resnet20", 10, 3)  # noqa: E731
    assert preparation_of(hwgq, BitWidths.parse("1/2"), build) is None


def test_widths_that_a_method_does_not_tell_apart_share_the_network() -> None:
    assert prepared("hwgq", "1/1") == prepared("hwgq", "1/2")
    assert prepared("wrpn", "2/2", widen=2) == prepared("wrpn", "3(±4)/32", widen=2)
    assert prepared("abc_net", "2/2") == prepared("abc_net", "5/3")
    assert prepared("wrpn", "2/2", widen=2) != prepared("wrpn", "2/2", widen=3)


@pytest.mark.parametrize(
    "reads",
    [
        lambda bits: bits.activations.bits == 2,
        lambda bits: bits.activations == BitWidths.parse("1/2").activations,
        lambda bits: BitWidths.parse("1/2").activations == bits.activations,
        lambda bits: str(bits.activations) == "2",
        lambda bits: f"{bits}".endswith("/2"),
        lambda bits: bits in (BitWidths.parse("2/2"), BitWidths.parse("1/2")),
        lambda bits: {BitWidths.parse("2/2"): 1}.get(bits) == 1,
        lambda bits: "activations=BitWidth(bits=2" in repr(bits),
    ],
)
def test_widths_that_a_method_tells_apart_have_networks_of_their_own(
    reads: Callable[[BitWidths], bool],
) -> None:
    def prepare(model: nn.Module, bits: BitWidths) -> nn.Module:
        return replace_modules(model, RELU, nn.Hardtanh if reads(bits) else nn.Tanh)

    two, four = found(prepare, "2/2"), found(prepare, "4/4")
    assert two is not None
    assert four is not None
    assert two.bits != four.bits
    assert reads(BitWidths.parse(two.bits)), "the first alike leads to the same network"
    assert not reads(BitWidths.parse(four.bits))


def swapped(model: Any, bits: BitWidths) -> nn.Module:
    model._modules["1"], model._modules["2"] = model[2], model[1]
    return model


def ordered(model: Any, bits: BitWidths) -> nn.Module:
    model._modules["2"] = model._modules.pop("2")
    return model


def frozen(model: Any, bits: BitWidths) -> nn.Module:
    model[1].weight.requires_grad_(False)
    return model


def filled(model: Any, bits: BitWidths) -> nn.Module:
    nn.init.ones_(model[0].weight)
    return model


def filled_data(model: Any, bits: BitWidths) -> nn.Module:
    model[0].weight.data.mul_(2)
    return model


def replaced_data(model: Any, bits: BitWidths) -> nn.Module:
    model[0].weight.data = model[0].weight.data * 2
    return model


def hooked(model: Any, bits: BitWidths) -> nn.Module:
    model[0].register_forward_hook(lambda *_: None)
    return model


def other_forward(model: Any, bits: BitWidths) -> nn.Module:
    model[2].forward = torch.tanh
    return model


def wrapped(model: nn.Module, bits: BitWidths) -> nn.Module:
    return nn.Sequential(model)


def other_value(model: Any, bits: BitWidths) -> nn.Module:
    model[1].momentum = 0.5
    return model


CHANGES = [
    *(swapped, ordered, frozen, filled, filled_data, replaced_data, hooked, other_forward),
    *(wrapped, other_value),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_change_is_found(
    change: Callable[[nn.Module, BitWidths], nn.Module],
) -> None:
    assert found(change) is not None


def test_what_changes_nothing_is_no_change() -> None:
    def prepare(model: nn.Module, bits: BitWidths) -> nn.Module:
        assert [str(bits), bits.weights.bits] == ["2/2", 2]
        model.eval()
        return replace_modules(model, nn.PReLU, nn.Identity)

    assert found(prepare) is None


def test_a_method_may_say_that_weights_still_fit() -> None:
    assert found(wrapped, keeps_weights=True) is None


def test_a_method_may_look_at_values() -> None:
    def prepare(model: Any, bits: BitWidths) -> nn.Module:
        weight: Tensor = model[0].weight.detach()
        return model if float(weight.abs().max()) < 0 else wrapped(model, bits)

    assert found(prepare) is not None


def test_a_mistake_in_prepare_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        found(lambda model, bits: nn.Sequential(model, nn.Softmax(1 // 0)))


def test_looking_draws_no_random_numbers() -> None:
    def prepare(model: Any, bits: BitWidths) -> nn.Module:
        return wrapped(model, bits) if float(model[0].weight.detach().sum()) else model

    before = torch.get_rng_state()
    prepared("wrpn", "2/2", widen=2)
    assert found(prepare) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_is_changed_as_the_method_does_it() -> None:
    change = prepared("wrpn", "2/2", widen=2)
    assert change is not None
    torch.manual_seed(0)
    one = prepare_as(convnet_tiny(), change)
    torch.manual_seed(0)
    other = build_method("wrpn", {"widen": 2}).prepare(convnet_tiny(), BitWidths.parse("2/2"))
    assert repr(one) == repr(other)
    states = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in states)
