"""timm's attention, in steps, computes what timm computes."""

from __future__ import annotations

import copy
import importlib
import pickle

import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.quant.attach import attach
from qbench.quant.exchange.attention import PRODUCT_INPUTS
from qbench.quant.exchange.modules import exchange, is_attention, is_exchanged, restore
from tests.helpers.libraries import needs_timm

pytestmark = needs_timm


def attention(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "windows":
        swin = importlib.import_module("timm.models.swin_transformer")
        return swin.WindowAttention(16, 2, window_size=3)
    module = importlib.import_module("timm.layers.attention").Attention(16, 2, qkv_bias=True)
    assert isinstance(module, nn.Module)
    return module


def in_steps(model: nn.Module) -> nn.Module:
    """Exchange a module, and have something listen inside."""
    exchanged = copy.deepcopy(model)
    exchange(exchanged)
    exchanged.get_submodule("query").register_forward_hook(lambda *_: None)
    return exchanged


@pytest.mark.parametrize("kind", ["tokens", "windows"])
def test_the_output_is_that_of_timm(kind: str) -> None:
    model, x = attention(kind), torch.randn(4, 9, 16)
    exchanged = in_steps(model)
    assert is_attention(exchanged)
    torch.testing.assert_close(exchanged(x), model(x))
    assert list(model.state_dict()) == list(exchanged.state_dict())
    restore(exchanged)
    assert not is_exchanged(exchanged)
    assert [*exchanged._modules] == [*model._modules]
    assert torch.equal(exchanged(x), model(x))


@pytest.mark.parametrize("masked", ["boolean", "added", "causal"])
def test_masks_are_those_of_torch(masked: str) -> None:
    model, x = attention("tokens"), torch.randn(2, 9, 16)
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    added = torch.zeros(9, 9).masked_fill(~seen, -torch.inf)
    masks: dict[str, dict[str, Tensor | bool]] = {
        "boolean": {"attn_mask": seen},
        "added": {"attn_mask": added},
        "causal": {"is_causal": True},
    }
    torch.testing.assert_close(in_steps(model)(x, **masks[masked]), model(x, **masks[masked]))


def test_a_mask_of_windows_is_added() -> None:
    model, x = attention("windows"), torch.randn(4, 9, 16)
    mask = torch.where(torch.rand(2, 9, 9) < 0.5, -100.0, 0.0)
    torch.testing.assert_close(in_steps(model)(x, mask), model(x, mask))


def test_every_factor_of_the_products_passes_its_submodule_once() -> None:
    model = in_steps(attention("tokens"))
    calls: list[str] = []
    for name in PRODUCT_INPUTS:
        hook = lambda *_, name=name: calls.append(name)  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    model(torch.randn(1, 9, 16))
    assert calls == list(PRODUCT_INPUTS)


def test_an_exchanged_module_is_copied_and_pickled() -> None:
    model, x = attention("windows"), torch.randn(4, 9, 16)
    exchange(model)
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(copy.deepcopy(model)) is type(model)
    assert torch.equal(again(x), model(x))


def test_all_products_of_a_model_are_quantized() -> None:
    model = registry.build_model("timm:test_vit", 10, 1)
    x = torch.randn(2, 1, 160, 160)
    found = attach(model, "lsq", bits="4/4", layers="first_last_8bit", calibration=[x]).coverage()
    assert not found.partly
    assert found.multiply_adds == 1
