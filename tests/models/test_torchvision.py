from __future__ import annotations

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from qbench import registry
from tests.helpers.networks import parameters


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "mobilenet_v2", "vgg16_bn"])
def test_torchvisions_models_are_reachable_by_name_with_their_published_size(name: str) -> None:
    with torch.device("meta"):
        model = registry.build_model(name, 1000, 3)
    assert parameters(model) == get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 75)])
def test_a_network_with_auxiliary_classifiers_is_built_without_them(name: str, size: int) -> None:
    with torch.device("meta"):
        model = registry.build_model(name, 10, 3)
        images = torch.empty(2, 3, size, size)
        whole = get_model(name, num_classes=1000, init_weights=False)
    assert model.train()(images).shape == (2, 10)
    with torch.device("meta"):
        model = registry.build_model(name, 1000, 3)
    assert model.transform_input
    model.load_state_dict(whole.state_dict(), assign=True)  # as torchvision stores its weights
    assert parameters(model) < parameters(whole)
