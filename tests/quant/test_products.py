"""Matrix products and convolutions, found in one forward pass."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import DeformConv2d

from qbench.quant.products import Products, count_products
from tests.helpers.flops import counted_by_torch
from tests.helpers.transformers import Functional, Recurrent, tiny_swin, tiny_vit


def total_by_torch(model: nn.Module, x: Tensor) -> int:
    return counted_by_torch(model, x).get_total_flops() // 2


def by_parameter(found: Products) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for product in found.products:
        counts["+".join(sorted(product.parameters))] += product.multiply_adds
    return dict(counts)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5"),
        *("googlenet", "convnext_tiny", "vit_b_32", "swin_t", "swin_v2_t", "maxvit_t"),
    ],
)
def test_the_total_is_that_of_torch(name: str) -> None:
    with torch.device("meta"):
        model = models.get_model(name, weights=None).eval()
        x = torch.zeros(1, 3, 224, 224)
    found = count_products(model, x)
    assert found.multiply_adds == total_by_torch(model, x)
    assert not found.opaque


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (tiny_vit(), torch.randn(2, 3, 8, 8)),
        (tiny_swin(), torch.randn(2, 3, 16, 16)),
        (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 5, 16)),
        (nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=2), torch.randn(1, 8, 6, 6)),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.ConvTranspose1d(3, 2, 3)), torch.randn(1, 2, 9)),
    ],
)
def test_the_total_on_a_cpu_is_that_of_torch(model: nn.Module, x: Tensor) -> None:
    assert count_products(model.eval(), x).multiply_adds == total_by_torch(model, x)


def test_parameters_that_no_module_multiplies_are_followed() -> None:
    model = Functional()
    assert by_parameter(count_products(model, torch.randn(1, 3, 8, 8))) == {
        "gain+kernel": 8 * 8 * 4 * 27,
        "matrix": 8 * 16,
        "last": 8 * 2,
    }


def test_attention_has_its_projections_and_two_products() -> None:
    found = count_products(tiny_vit().eval(), torch.randn(1, 3, 8, 8))
    counts = by_parameter(found)
    tokens, width = 5, 16
    for block in (0, 1):
        where = f"encoder.layers.encoder_layer_{block}.self_attention"
        assert counts[f"{where}.in_proj_weight"] == tokens * width * 3 * width
        assert counts[f"{where}.out_proj.weight"] == tokens * width * width
    assert counts[""] == 2 * 2 * tokens * tokens * width


def test_a_recurrent_layer_has_all_its_matrices() -> None:
    found = count_products(Recurrent(), torch.randint(0, 20, (1, 7)))
    lstm = {name for name in by_parameter(found) if name.startswith("lstm")}
    suffixes = [f"{layer}{way}" for layer in ("l0", "l1") for way in ("", "_reverse")]
    assert lstm == {f"lstm.weight_{kind}_{each}" for kind in ("ih", "hh") for each in suffixes}
    assert not found.opaque


def test_a_shared_weight_has_all_its_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert set(by_parameter(count_products(model, torch.ones(1, 4)))) == {"0.weight+1.weight"}


def test_an_operation_that_is_not_known_is_listed() -> None:
    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = DeformConv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Any:
            return self.layer(x, torch.zeros(1, 18, 6, 6))

    found = count_products(Deformed(), torch.randn(1, 3, 8, 8))
    assert [(each.module, each.operation) for each in found.opaque] == [("layer", "deform_conv2d")]
    assert "layer.weight" in found.opaque[0].parameters


def test_normalization_embeddings_and_learned_slopes_are_no_products() -> None:
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.LayerNorm(4), nn.Flatten(), nn.BatchNorm1d(8), nn.PReLU(8)
    )
    found = count_products(model.eval(), torch.tensor([[1, 2]]))
    assert not found.products
    assert not found.opaque


def test_values_of_a_quantizer_are_followed_to_the_product() -> None:
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2).round() / 2

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizer, self.first, self.second = Halved(), nn.Conv2d(1, 2, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            pooled = torch.max_pool2d(self.quantizer(x), 2)
            mean: Tensor = self.first(pooled).mean((2, 3))
            out: Tensor = self.second(mean)
            return out

    model = Net()
    found = count_products(
        model, torch.randn(1, 1, 12, 12), [model.quantizer], quantized=["second.weight"]
    )
    quantized = [tuple(o.quantized for o in p.operands) for p in found.products]
    assert quantized == [(True, False), (False, True)]


def test_what_a_quantizer_computes_is_left_out() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.basis = nn.Parameter(torch.eye(4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.basis

    model = nn.Sequential(Learned(), nn.Linear(4, 4))
    found = count_products(model, torch.ones(1, 4), [model[0]])
    assert [each.module for each in found.products] == ["1"]


def test_settings_of_torch_are_restored() -> None:
    before = (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled())
    count_products(nn.Linear(2, 2), torch.ones(1, 2))
    assert (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()) == before
