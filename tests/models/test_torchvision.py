from __future__ import annotations

import pytest
import torch
from torchvision.models import get_model_weights

from qbench import registry
from tests.helpers.networks import parameters


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "mobilenet_v2", "vgg16_bn"])
def test_torchvisions_models_are_reachable_by_name_with_their_published_size(name: str) -> None:
    with torch.device("meta"):
        model = registry.build_model(name, 1000, 3)
    assert parameters(model) == get_model_weights(name).DEFAULT.meta["num_params"]
