from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.models.preact_resnet import PreActBlock
from tests.helpers.networks import build, calls, images, parameters


def test_preact_resnet18_has_resnet18s_weights_and_the_norms_of_its_activations() -> None:
    plain = build("resnet18", classes=1000)
    preact = build("preact_resnet18", classes=1000)
    shapes = [
        sorted(tuple(p.shape) for p in model.parameters() if p.dim() > 1)
        for model in (plain, preact)
    ]
    assert shapes[0] == shapes[1]
    more = 2 * 2 * (64 + 128 + 256 + 512)  # scale and shift, in each stage's second block and end
    assert parameters(preact) == parameters(plain) + more


def test_a_preact_block_without_weights_is_its_shortcut() -> None:
    block = PreActBlock(8, 8, 1, activated=False)
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_where_a_preact_resnet_changes_shape_both_paths_start_from_one_activation() -> None:
    model = build("preact_resnet18")
    inputs: dict[nn.Module, Tensor] = {}
    calls(model, images("preact_resnet18"), inputs.__setitem__)
    for stage in ("layer2", "layer3", "layer4"):
        first = model.get_submodule(f"{stage}.0.body.0")
        shortcut = model.get_submodule(f"{stage}.0.shortcut.0")
        assert torch.equal(inputs[first], inputs[shortcut])
