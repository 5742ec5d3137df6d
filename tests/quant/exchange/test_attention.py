"""``nn.MultiheadAttention`` in steps computes what torch computes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench.quant.exchange.attention import Attention
from qbench.quant.exchange.modules import exchange, restore

N, HEADS, WIDTH = 3, 4, 32
TOLERANCE = 3e-7
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "other sizes": {"kdim": 16, "vdim": 8, "batch_first": True},
    "without bias": {"bias": False},
}


def pair(**options: Any) -> tuple[nn.MultiheadAttention, nn.Module]:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(WIDTH, HEADS, **options)
    if model.in_proj_bias is not None:
        nn.init.normal_(model.in_proj_bias, std=0.1)
    exchanged = copy.deepcopy(model)
    exchange(exchanged)
    assert type(exchanged) is Attention
    return model, exchanged


def inputs(model: nn.MultiheadAttention, case: str) -> tuple[Tensor, Tensor, Tensor]:
    query = torch.randn(N, 5, WIDTH)
    key, value = torch.randn(N, 7, model.kdim), torch.randn(N, 7, model.vdim)
    if not model.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    if case == "self":
        return query, query, query
    return (query, key, key) if case == "memory" else (query, key, value)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    largest = max(1.0, float(a.detach().abs().max()))
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= TOLERANCE * largest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["self", "memory", "apart"])
@pytest.mark.parametrize("mask", ["none", "causal", "float", "of heads", "padding"])
def test_outputs_and_weights_are_those_of_torch(kind: str, case: str, mask: str) -> None:
    model, exchanged = pair(**KINDS[kind])
    if kind == "other sizes" and case != "apart":
        pytest.skip("the inputs have different sizes")
    query, key, value = inputs(model, case)
    targets, sources = (x.shape[1 if model.batch_first else 0] for x in (query, key))
    padding = torch.zeros(N, sources, dtype=torch.bool)
    padding[:, -2:] = True
    masks = {
        "none": {},
        "causal": {"attn_mask": torch.ones(targets, sources, dtype=torch.bool).triu(1)},
        "float": {"attn_mask": torch.randn(targets, sources)},
        "of heads": {"attn_mask": torch.randn(N * HEADS, targets, sources)},
        "padding": {"key_padding_mask": padding},
    }[mask]
    for more in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        for training in (True, False):
            both = []
            for each in (model, exchanged):
                each.train(training)
                both.append(each(query, key, value, **masks, **more))
            assert same(both[0][0], both[1][0])
            assert same(both[0][1], both[1][1])


def test_a_sequence_without_batch_works() -> None:
    model, exchanged = pair()
    x = torch.randn(5, WIDTH)
    for a, b in zip(model(x, x, x), exchanged(x, x, x), strict=True):
        assert same(a, b)


def test_gradients_are_those_of_torch() -> None:
    model, exchanged = pair()
    x = torch.randn(5, N, WIDTH)
    for each in (model, exchanged):
        each(x, x, x, need_weights=False)[0].square().sum().backward()
    expected = model.get_parameter("in_proj_weight").grad
    found = exchanged.get_parameter("in_proj.weight").grad
    assert expected is not None
    assert found is not None
    assert torch.allclose(expected, found, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_states_have_the_names_and_the_order_of_torch(kind: str) -> None:
    model, exchanged = pair(**KINDS[kind])
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    exchanged.load_state_dict(state)
    assert list(exchanged.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in exchanged.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_module_is_what_it_was(kind: str) -> None:
    model, exchanged = pair(**KINDS[kind])
    restore(exchanged)
    assert type(exchanged) is nn.MultiheadAttention
    assert vars(exchanged).keys() == vars(model).keys()
    assert exchanged._qkv_same_embed_dim == model._qkv_same_embed_dim
    assert [n for n, _ in exchanged.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [n for n, _ in exchanged.named_modules()] == [n for n, _ in model.named_modules()]


def test_a_copy_computes_the_same() -> None:
    _, exchanged = pair()
    x = torch.randn(5, N, WIDTH)
    assert torch.equal(copy.deepcopy(exchanged)(x, x, x)[0], exchanged(x, x, x)[0])


def test_a_subclass_with_a_forward_pass_of_its_own_stays() -> None:
    class Own(nn.MultiheadAttention):
        pass

    model = nn.Sequential(Own(WIDTH, HEADS))
    exchange(model)
    assert type(model[0]) is Own


@pytest.mark.parametrize("padded", [True, False])
def test_an_encoder_takes_no_path_around_its_layers(padded: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(N, 5, WIDTH), torch.zeros(N, 5, dtype=torch.bool)
    padding[:, -2:] = padded
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=padding)
        exchange(model)
        calls = []
        model.layers[0].linear1.register_forward_hook(lambda *_: calls.append(1))
        found = model(x, src_key_padding_mask=padding)
    assert calls
    kept = ~padding
    assert torch.allclose(found[kept], expected[kept], atol=1e-6)
    restore(model)
    assert model.use_nested_tensor
