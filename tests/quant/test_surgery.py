from __future__ import annotations

import pytest
import torch
from torch import nn

from qbench import registry
from qbench.quant.surgery import pass_signs, pool_before_norm, relu_channels
from tests.helpers.pooled_network import images, kinds, network


def test_pooling_comes_before_normalisation_and_names_stay_with_their_modules() -> None:
    model = network()
    before = dict(model.named_modules())
    weights = model.state_dict()
    assert pool_before_norm(model) is model
    assert kinds(model)[:5] == ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert dict(model.named_modules()) == before
    assert model.state_dict().keys() == weights.keys()


def test_a_scale_above_zero_makes_the_order_of_pooling_and_normalisation_no_difference() -> None:
    model = network()
    model(images())  # statistics to evaluate with
    model.eval()
    with torch.no_grad():
        expected = model(images())
        torch.testing.assert_close(pool_before_norm(model)(images()), expected)


@pytest.mark.parametrize(
    "model",
    [
        network(norm_first=False),
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(3)),
    ],
    ids=["pooled already", "average pooling", "no normalisation", "normalised again"],
)
def test_any_other_order_is_left_alone(model: nn.Sequential) -> None:
    before = kinds(model)
    assert kinds(pool_before_norm(model)) == before


def test_one_module_in_two_places_stays_in_both() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(relu, nn.BatchNorm2d(3), relu, nn.MaxPool2d(2))
    assert kinds(pool_before_norm(model)) == ["ReLU", "MaxPool2d", "BatchNorm2d", "ReLU"]


def test_a_hard_tanh_passes_signs_to_the_layers_that_quantize_them() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.BatchNorm2d(8)),
        nn.Sequential(relu, nn.Conv2d(8, 8, 3), relu),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
    )
    assert pass_signs(model) is model
    assert kinds(model)[1] == "ReLU6", "what follows is normalised"
    assert kinds(model[4]) == ["Hardtanh", "Conv2d", "Hardtanh"]
    assert kinds(model)[-2] == "ReLU", "what follows is the classifier"


def test_a_relu_has_the_channels_of_the_values_that_it_receives() -> None:
    model = registry.build_model("resnet_tiny", 10, 3)
    received: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(
                lambda _, args, name=name: received.__setitem__(name, args[0].shape[1])
            )
    model(torch.randn(2, 3, 16, 16))
    assert relu_channels(model) == received


def test_the_channels_behind_a_linear_layer_cannot_be_told() -> None:
    assert relu_channels(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, 4), nn.ReLU())) == {}
