"""Attention in shifted windows, in steps, computes what torchvision computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from qbench.quant.exchange.modules import exchange, is_exchanged, restore


def attention(version: int, shift: list[int]) -> nn.Module:
    torch.manual_seed(0)
    kind = ShiftedWindowAttention if version == 1 else ShiftedWindowAttentionV2
    model = kind(16, [4, 4], shift, 2)
    nn.init.normal_(model.qkv.bias)
    return model


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shift", [[0, 0], [2, 2], [0, 2]])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (4, 8), (3, 3)])
def test_the_output_is_that_of_torchvision(
    version: int, shift: list[int], size: tuple[int, int]
) -> None:
    model = nn.Sequential(attention(version, shift))
    exchanged = copy.deepcopy(model)
    exchange(exchanged)
    assert is_exchanged(exchanged[0])
    x = torch.randn(2, *size, 16)
    assert float((model(x) - exchanged(x)).abs().max().detach()) <= 6e-7
    assert list(model.state_dict()) == list(exchanged.state_dict())
    restore(exchanged)
    assert type(exchanged[0]) is type(model[0])
    assert torch.equal(model(x), exchanged(x))


def test_the_layers_are_called() -> None:
    model = attention(1, [2, 2])
    exchange(model)
    calls: list[str] = []
    for name in ("qkv", "query", "key", "softmax", "value", "proj"):
        hook = lambda *_, name=name: calls.append(name)  # noqa: E731
        model.get_submodule(name).register_forward_hook(hook)
    model(torch.randn(1, 8, 8, 16))
    assert calls == ["qkv", "query", "key", "softmax", "value", "proj"]
