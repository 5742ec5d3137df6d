"""PARQ (Jin et al., ICML 2025, arXiv:2503.15748), wrapped from torchao.

Levels, proximal maps and training steps are compared with formulas in NumPy and with torchao's
optimizer. The tests are skipped where torchao is not installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidth, BitWidths
from tests.helpers.libraries import needs_torchao
from tests.helpers.quantizers import (
    build_weight_quantizer,
    first_weight_quantizer,
    output_of,
    start_step,
)
from tests.helpers.tensors import Array, normal, normal32


def greedy(u: Array, bits: int) -> Array:
    """Return levels of binary quantization, one basis after another (Pouransari et al., 2020)."""
    residue, levels = u.copy(), np.zeros(1)
    for _ in range(bits):
        v = np.abs(residue).mean()
        residue -= np.where(residue >= 0, v, -v)
        levels = np.concatenate([levels - v, levels + v])
    return np.sort(levels)


def parq_levels(u: Array, quantizer: str, bits: str) -> Array:
    """Return the levels that a quantizer of torchao's PARQ chooses for weights u."""
    size, k = np.abs(u), BitWidth.parse(bits).bits
    if quantizer == "lsb" and bits == "2(±1)":
        return 1.1 * size.mean() * np.arange(-1, 2)
    if quantizer == "lsb":
        return greedy(u, k)
    if quantizer == "uniform":
        m = min(k * size.mean(), size.max())
        return m / (2 ** (k - 1) - 0.5) * (np.arange(2**k) - (2**k - 1) / 2)
    if quantizer == "max_uniform":
        n = 2 ** (k - 1) - 1
        return size.max() / n * np.arange(-n, n + 1)
    return size.max() / 1.5 * np.arange(-1, 2)


def nearest(u: Array, levels: Array) -> Array:
    found: Array = levels[np.abs(u[..., None] - levels).argmin(-1)]
    return found


def groups_of(w: Array, scope: str) -> list[Array]:
    """Return the weights that share levels, group by group in their order."""
    filters = list(w.reshape(len(w), -1))
    if scope == "per_group(10)":
        return [part for row in filters for part in np.split(row, range(10, len(row), 10))]
    return filters if scope == "filter" else [w.reshape(-1)]


QUANTIZERS_AND_BITS = [
    ("lsb", "1"),
    ("lsb", "2"),
    ("lsb", "4"),
    ("lsb", "2(±1)"),
    ("uniform", "1"),
    ("uniform", "3"),
    ("max_uniform", "2"),
    ("max_uniform", "3(±3)"),
    ("ternary", "2"),
]


@needs_torchao
@pytest.mark.parametrize("scope", ["layer", "filter", "per_group(10)"])
@pytest.mark.parametrize(("quantizer", "bits"), QUANTIZERS_AND_BITS)
def test_parq_evaluates_the_nearest_of_the_quantizers_levels(
    quantizer: str, bits: str, scope: str
) -> None:
    w = normal(4, 3, 3, 3)
    module = build_weight_quantizer("parq", w, bits, quantizer=quantizer, scope=scope).eval()
    groups = groups_of(w.numpy(), scope)
    expected = np.concatenate([nearest(u, parq_levels(u, quantizer, bits)) for u in groups])
    np.testing.assert_allclose(output_of(module, w), expected.reshape(w.shape), rtol=1e-6)


def parq_handle(w: Tensor, bits: str = "2/32", **options: Any) -> Handle:
    linear = nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.data = w.clone()
    handle = attach(nn.Sequential(linear), "parq", bits=bits, layers="all", **options)
    handle.model.train()
    return handle


def parq_weight(handle: Handle) -> Array:
    weight = handle.layers[0].module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().numpy().copy()


def after_a_step(handle: Handle, epoch: int, step: int) -> Array:
    """Return the weight after a step of one of 4 epochs of 25 steps."""
    handle.on_epoch_start(epoch, 4, steps=1)
    start_step(handle, step, 25)
    handle._after_optimizer_step()
    return parq_weight(handle)


@needs_torchao
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("now", [20, 37, 60, 79])
def test_parq_maps_by_pieces_whose_slope_grows(now: int, scope: str) -> None:
    u = normal(3, 40)
    handle = parq_handle(u, anneal_start=0.2, anneal_end=0.8, steepness=6.0, scope=scope)
    found = after_a_step(handle, now // 25 + 1, now % 25 + 1)
    f = (now - 20) / 60

    def sigmoid(z: float) -> float:
        return float(1 / (1 + np.exp(-z)))

    rho = (sigmoid(6 * (0.5 - f)) - sigmoid(-3)) / (sigmoid(3) - sigmoid(-3))
    for w, p in zip(u.numpy(), found, strict=True):
        levels = greedy(w if scope == "filter" else u.numpy(), 2)
        ends = w.clip(levels[0], levels[-1])
        index = np.searchsorted(levels, ends, side="left").clip(1, len(levels) - 1)
        a, b = levels[index - 1], levels[index]
        expected = ((a + b) / 2 + (ends - (a + b) / 2) / rho).clip(a, b)
        np.testing.assert_allclose(p, expected, rtol=1e-9, atol=1e-12)


@needs_torchao
def test_parq_binary_relax_moves_weights_on_a_line() -> None:
    u = normal(3, 40)
    handle = parq_handle(u, prox="binary_relax", quantizer="uniform", anneal_end=0.8)
    q = nearest(u.numpy(), parq_levels(u.numpy(), "uniform", "2"))
    np.testing.assert_allclose(after_a_step(handle, 2, 6), u.numpy() + 30 / 80 * (q - u.numpy()))
    np.testing.assert_allclose(after_a_step(handle, 4, 6), q)


@needs_torchao
@pytest.mark.parametrize("prox", ["parq", "binary_relax", "hard"])
def test_parq_leaves_weights_alone_before_the_first_step_and_before_annealing(prox: str) -> None:
    u = normal(3, 40)
    handle = parq_handle(u, prox=prox, anneal_start=0.5)
    assert np.array_equal(parq_weight(handle), u.numpy())
    assert np.array_equal(after_a_step(handle, 1, 1), u.numpy()) == (prox != "hard")
    assert not np.array_equal(after_a_step(handle, 4, 1), u.numpy())


@needs_torchao
@pytest.mark.parametrize("prox", ["parq", "binary_relax", "hard"])
def test_parq_gives_the_networks_gradient_to_the_latent_weights(prox: str) -> None:
    handle = parq_handle(normal32(3, 40), prox=prox)
    after_a_step(handle, 3, 1)
    layer, g = handle.layers[0], normal32(3, 40, seed=1)
    assert isinstance(layer.module.weight, Tensor)
    layer.module.weight.backward(g)
    assert layer.latent_weight.grad is not None
    assert torch.equal(layer.latent_weight.grad, g)


@needs_torchao
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize(
    ("quantizer", "prox", "warmup"),
    [
        ("lsb", "parq", 0),
        ("lsb", "parq", 7),
        ("uniform", "parq", 0),
        ("uniform", "hard", 0),
        ("uniform", "hard", 7),
        ("max_uniform", "binary_relax", 0),
    ],
)
def test_parq_takes_the_steps_of_torchaos_optimizer(
    quantizer: str, prox: str, warmup: int, scope: str
) -> None:
    from torchao.prototype import parq

    steps, period, w = 23, 4, normal32(6, 9)
    inputs = [normal32(7, 9, seed=step) for step in range(steps)]

    torch_linear = nn.Linear(9, 6, bias=False)
    torch_linear.weight.data = w.clone()
    group = {"params": [torch_linear.weight], "quant_bits": 2}
    kinds = {
        "lsb": parq.LSBQuantizer,
        "uniform": parq.UnifQuantizer,
        "max_uniform": parq.MaxUnifQuantizer,
    }
    maps = {
        "parq": lambda: parq.ProxPARQ(0, steps),
        "binary_relax": lambda: parq.ProxBinaryRelax(0, steps),
        "hard": parq.ProxHardQuant,
    }
    reference = parq.QuantOptimizer(
        torch.optim.SGD([group], lr=0.05, momentum=0.9, weight_decay=1e-3),
        kinds[quantizer](),
        maps[prox](),
        warmup_steps=warmup,
        quant_period=period,
        quant_per_channel=scope == "filter",
    )
    handle = parq_handle(
        w, quantizer=quantizer, prox=prox, period=period, scope=scope, warmup_steps=warmup
    )
    groups = handle.parameter_groups(lr=0.05, weight_decay=1e-3)
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    handle.on_epoch_start(1, 1, steps=1)
    for step, x in enumerate(inputs, 1):
        reference.zero_grad()
        (torch_linear(x) - x[:, :6]).square().mean().backward()
        reference.step()

        start_step(handle, step, steps)
        optimizer.zero_grad()
        (handle.model(x) - x[:, :6]).square().mean().backward()
        optimizer.step()
        handle._after_optimizer_step()
        expected = torch_linear.weight.detach().numpy()
        np.testing.assert_allclose(parq_weight(handle), expected, rtol=1e-4, atol=1e-6)
    latent = reference.state[torch_linear.weight]["latent"].numpy()
    assert not np.allclose(latent, expected)
    found = handle.layers[0].latent_weight.detach().numpy()
    np.testing.assert_allclose(found, latent, rtol=1e-4, atol=1e-6)


@needs_torchao
def test_parq_chooses_levels_only_every_so_many_steps() -> None:
    handle = parq_handle(normal32(3, 40), period=5)
    quantizer = first_weight_quantizer(handle)
    seen = []
    for step in range(1, 12):
        handle.layers[0].latent_weight.data *= 1.1
        after_a_step(handle, 1, step)
        seen.append(float(quantizer.get_buffer("levels").max()))
    changed = [step for step in range(1, 11) if seen[step] != seen[step - 1]]
    assert changed == [5, 10]


@needs_torchao
def test_parq_goes_on_from_a_checkpoint() -> None:
    w = normal32(3, 40)
    trained, fresh = parq_handle(w), parq_handle(w)
    expected = after_a_step(trained, 3, 1)
    fresh.model.load_state_dict(trained.model.state_dict())
    assert np.array_equal(parq_weight(fresh), expected)


@needs_torchao
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anneal_start": 0.5, "anneal_end": 0.5}, "anneal_start"),
        ({"anneal_end": 1.5}, "anneal_end"),
        ({"period": 0}, "period"),
        ({"steepness": 0.0}, "steepness"),
    ],
)
def test_parq_refuses_a_schedule_that_is_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(QbenchError, match=message):
        build_method("parq", options)


@pytest.mark.parametrize(
    ("quantizer", "bits", "supported"),
    [
        ("lsb", "2(±1)/32", True),
        ("uniform", "2(±1)/32", False),
        ("max_uniform", "1/32", False),
        ("max_uniform", "3(±3)/32", True),
        ("ternary", "3/32", False),
        ("ternary", "2(±1)/32", True),
    ],
)
@needs_torchao
def test_parq_supports_what_its_quantizer_does(quantizer: str, bits: str, supported: bool) -> None:
    method = build_method("parq", {"quantizer": quantizer})
    assert (method.supports(BitWidths.parse(bits), "classification") is None) == supported
