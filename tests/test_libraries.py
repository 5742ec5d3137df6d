"""The wrapped libraries against formulas in plain numpy; skipped where they are not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.attachment import Handle, attach
from qbench.bits import Bits, Width
from qbench.errors import QbenchError
from qbench.method import Layer, Quantizer

Array = np.ndarray[Any, Any]
FLOAT = Width(32)


def needs(library: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library} is not installed")


needs_torchao, needs_brevitas = needs("torchao"), needs("brevitas")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def for_weight(name: str, weight: Tensor, bits: str | int, **options: Any) -> nn.Module:
    layer = Layer("layer", nn.Identity(), Width.parse(str(bits)), FLOAT)
    quantizer = registry.build_method(name, options).weight_quantizer(layer, weight)
    assert quantizer is not None
    return quantizer.train()


def for_input(name: str, sample: Tensor, bits: int, **options: Any) -> nn.Module:
    layer = Layer("layer", nn.Identity(), FLOAT, Width(bits))
    quantizer = registry.build_method(name, options).input_quantizer(layer, sample)
    assert quantizer is not None
    return quantizer.train()


def applied(quantizer: nn.Module, x: Tensor) -> Array:
    with torch.no_grad():
        result: Array = quantizer(x).double().numpy()
    return result


def gradient(quantizer: nn.Module, x: Tensor, g: Tensor) -> Array:
    """∂C/∂x where ∂C/∂y = g."""
    leaf = x.clone().requires_grad_()
    quantizer(leaf).backward(g)
    assert leaf.grad is not None
    return leaf.grad.numpy()


def over_filters(function: Any, values: Array, scope: str) -> Array:
    """A statistic of each filter or of the layer, to broadcast against the weight."""
    axes = tuple(range(1, values.ndim)) if scope == "filter" else None
    result: Array = function(values, axis=axes, keepdims=True)
    return result


# Without the libraries ------------------------------------------------------------------------

MODULES = {
    "torchao": ("torchao", "torchao.quantization.qat"),
    "parq": ("torchao", "torchao.prototype.parq"),
    "brevitas": ("brevitas", "brevitas.quant.scaled_int"),
}


@pytest.mark.parametrize("name", MODULES)
def test_without_its_library_a_method_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, module = MODULES[name]
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, module, None)
    advice = f"needs {library}: pip install 'qbench-quant[libraries]'"
    method = registry.build_method(name, {})
    for bits in ("2/32", "8/8", "3(±4)/32"):
        assert method.supports(Bits.parse(bits), "classification") == advice
    with pytest.raises(QbenchError, match=f"{name} cannot do 2/32: needs {library}"):
        attach(nn.Sequential(nn.Linear(4, 4)), name, bits="2/32", layers="all")


def test_methods_are_listed_without_importing_their_libraries() -> None:
    code = (
        "import sys; from qbench import registry\n"
        f"for name in {list(MODULES)}: registry.method_class(name)\n"
        "assert not {'torchao', 'brevitas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# torchao --------------------------------------------------------------------------------------


def affine_codes(w: Array, bits: int, scope: str) -> tuple[Array, Array]:
    """Codes before clipping, and the scale, in float32 as torchao computes them."""
    largest = over_filters(np.max, np.abs(w), scope)
    s = (largest / np.float32(2 ** (bits - 1) - 0.5)).astype(np.float32)
    return np.rint(w * (np.float32(1) / s)), s


@needs_torchao
@pytest.mark.parametrize("scope", ["filter", "layer"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_torchao_weights_have_a_scale_of_the_maximum_and_half_a_step(bits: int, scope: str) -> None:
    w = normal(5, 4, 3, 3)
    codes, s = affine_codes(w.numpy(), bits, scope)
    codes = codes.clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    found = applied(for_weight("torchao", w, bits, scope=scope), w)
    np.testing.assert_allclose(found, codes * s, rtol=1e-6)


@needs_torchao
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_torchao_weights_levels_on_a_grid(bits: int) -> None:
    grid = torch.linspace(-1, 1, 4001).view(1, -1)
    s = 1 / (2 ** (bits - 1) - 0.5)
    expected = s * np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    found = np.unique(applied(for_weight("torchao", grid, bits), grid))
    # −1 lies halfway between the last two levels, and rounds to either
    assert len(found) in (len(expected) - 1, len(expected))
    np.testing.assert_allclose(found, expected[-len(found) :], rtol=1e-6, atol=1e-7)


@needs_torchao
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_torchao_weights_gradient_passes_where_the_code_is_not_clipped(bits: int) -> None:
    w, g = normal(6, 3, 3, 3), normal(6, 3, 3, 3, seed=1)
    codes, _ = affine_codes(w.numpy(), bits, "filter")
    kept = (codes >= -(2 ** (bits - 1))) & (codes <= 2 ** (bits - 1) - 1)
    quantizer = for_weight("torchao", w, bits)
    found = gradient(quantizer, w, g)
    np.testing.assert_array_equal(found, np.where(kept, g.numpy(), 0))
    assert kept.mean() > 0.9
    # the library's own, where torch's clamp does not decide
    library = quantizer.get_submodule("fake_quantizer")
    inner = (codes > -(2 ** (bits - 1))) & (codes < 2 ** (bits - 1) - 1)
    its = gradient(library, w.flatten(1), g.flatten(1)).reshape(w.shape)
    np.testing.assert_allclose(its[inner], found[inner], rtol=1e-6)
    assert not its[~kept].any()


@needs_torchao
def test_torchao_one_bit_weights_would_all_be_zero() -> None:
    from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

    quantizer = IntxFakeQuantizer(IntxFakeQuantizeConfig(vars(torch)["int1"], "per_channel"))
    assert not quantizer(normal(6, 50)).any()
    method = registry.build_method("torchao", {})
    assert "round to 0" in (method.supports(Bits.parse("1/32"), "classification") or "")


@needs_torchao
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_torchao_inputs_are_affine_over_a_running_range(bits: int, signed: bool) -> None:
    x, more, g = normal(8, 3, 5, 5), normal(8, 3, 5, 5, seed=1), normal(8, 3, 5, 5, seed=2)
    if not signed:
        x, more = x.relu(), more.relu()
    quantizer = for_input("torchao", x, bits, momentum=0.75)
    assert isinstance(quantizer, Quantizer)
    quantizer.update(3 * more)
    low = 0.75 * x.numpy().min() + 0.25 * 3 * more.numpy().min()
    high = 0.75 * x.numpy().max() + 0.25 * 3 * more.numpy().max()
    n = 2**bits - 1
    s = np.float32((high - low) / n)
    z = np.clip(-np.rint(low / s), 0, n)
    codes = np.rint(x.numpy() * (np.float32(1) / s)) + z
    expected = (codes.clip(0, n) - z) * s
    np.testing.assert_allclose(applied(quantizer, x), expected, rtol=1e-5, atol=1e-6)
    kept = (codes >= 0) & (codes <= n)
    np.testing.assert_array_equal(gradient(quantizer, x, g), np.where(kept, g.numpy(), 0))
    assert len(np.unique(applied(quantizer.eval(), 30 * normal(1000)))) <= 2**bits


@needs_torchao
def test_torchao_refuses_a_scale_for_one_weight() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4))
    with pytest.raises(ValueError, match="one weight alone"):
        attach(model, "torchao", bits="4/32", layers="all")


# PARQ -----------------------------------------------------------------------------------------


def greedy(u: Array, bits: int) -> Array:
    """Least squares binary quantization, one basis after another (Pouransari et al. 2020)."""
    residue, levels = u.copy(), np.zeros(1)
    for _ in range(bits):
        v = np.abs(residue).mean()
        residue -= np.where(residue >= 0, v, -v)
        levels = np.concatenate([levels - v, levels + v])
    return np.sort(levels)


def parq_levels(u: Array, quantizer: str, bits: str) -> Array:
    size, k = np.abs(u), Width.parse(bits).bits
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


PARQ_CELLS = [
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
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize(("quantizer", "bits"), PARQ_CELLS)
def test_parq_evaluates_the_nearest_of_the_quantizers_levels(
    quantizer: str, bits: str, scope: str
) -> None:
    w = normal(4, 3, 3, 3, dtype=torch.float64)
    module = for_weight("parq", w, bits, quantizer=quantizer, scope=scope).eval()
    groups = list(w.numpy()) if scope == "filter" else [w.numpy()]
    expected = np.stack([nearest(u, parq_levels(u, quantizer, bits)) for u in groups])
    np.testing.assert_allclose(applied(module, w), expected.reshape(w.shape), rtol=1e-6)


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
    handle.on_epoch_start(epoch, 4)
    handle.on_step_start(step, 25)
    handle.after_step()
    return parq_weight(handle)


@needs_torchao
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("now", [20, 37, 60, 79])
def test_parq_maps_by_pieces_whose_slope_grows(now: int, scope: str) -> None:
    u = normal(3, 40, dtype=torch.float64)
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
    u = normal(3, 40, dtype=torch.float64)
    handle = parq_handle(u, prox="binary_relax", quantizer="uniform", anneal_end=0.8)
    q = nearest(u.numpy(), parq_levels(u.numpy(), "uniform", "2"))
    np.testing.assert_allclose(after_a_step(handle, 2, 6), u.numpy() + 30 / 80 * (q - u.numpy()))
    np.testing.assert_allclose(after_a_step(handle, 4, 6), q)


@needs_torchao
@pytest.mark.parametrize("prox", ["parq", "binary_relax", "hard"])
def test_parq_leaves_weights_alone_before_the_first_step_and_before_annealing(prox: str) -> None:
    u = normal(3, 40, dtype=torch.float64)
    handle = parq_handle(u, prox=prox, anneal_start=0.5)
    assert np.array_equal(parq_weight(handle), u.numpy())
    assert np.array_equal(after_a_step(handle, 1, 1), u.numpy()) == (prox != "hard")
    assert not np.array_equal(after_a_step(handle, 4, 1), u.numpy())


@needs_torchao
@pytest.mark.parametrize("prox", ["parq", "binary_relax", "hard"])
def test_parq_gives_the_networks_gradient_to_the_latent_weights(prox: str) -> None:
    handle = parq_handle(normal(3, 40), prox=prox)
    after_a_step(handle, 3, 1)
    layer, g = handle.layers[0], normal(3, 40, seed=1)
    assert isinstance(layer.module.weight, Tensor)
    layer.module.weight.backward(g)
    assert layer.latent_weight.grad is not None
    assert torch.equal(layer.latent_weight.grad, g)


@needs_torchao
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize(
    ("quantizer", "prox"),
    [
        ("lsb", "parq"),
        ("uniform", "parq"),
        ("uniform", "hard"),
        ("max_uniform", "binary_relax"),
    ],
)
def test_parq_takes_the_steps_of_torchaos_optimizer(quantizer: str, prox: str, scope: str) -> None:
    from torchao.prototype import parq

    steps, period, w = 23, 4, normal(6, 9)
    inputs = [normal(7, 9, seed=step) for step in range(steps)]

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
        quant_period=period,
        quant_per_channel=scope == "filter",
    )
    handle = parq_handle(w, quantizer=quantizer, prox=prox, period=period, scope=scope)
    groups = handle.parameter_groups(lr=0.05, weight_decay=1e-3)
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    handle.on_epoch_start(1, 1)
    for step, x in enumerate(inputs, 1):
        reference.zero_grad()
        (torch_linear(x) - x[:, :6]).square().mean().backward()
        reference.step()

        handle.on_step_start(step, steps)
        optimizer.zero_grad()
        (handle.model(x) - x[:, :6]).square().mean().backward()
        optimizer.step()
        handle.after_step()
        expected = torch_linear.weight.detach().numpy()
        np.testing.assert_allclose(parq_weight(handle), expected, rtol=1e-4, atol=1e-6)
    latent = reference.state[torch_linear.weight]["latent"].numpy()
    assert not np.allclose(latent, expected)
    found = handle.layers[0].latent_weight.detach().numpy()
    np.testing.assert_allclose(found, latent, rtol=1e-4, atol=1e-6)


@needs_torchao
def test_parq_chooses_levels_only_every_so_many_steps() -> None:
    handle = parq_handle(normal(3, 40), period=5)
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    seen = []
    for step in range(1, 12):
        handle.layers[0].latent_weight.data *= 1.1
        after_a_step(handle, 1, step)
        seen.append(float(quantizer.get_buffer("levels").max()))
    changed = [step for step in range(1, 11) if seen[step] != seen[step - 1]]
    assert changed == [5, 10]


@needs_torchao
def test_parq_goes_on_from_a_checkpoint() -> None:
    w = normal(3, 40)
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
        registry.build_method("parq", options)


# Brevitas -------------------------------------------------------------------------------------


@needs_brevitas
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_brevitas_weights_have_a_scale_of_the_maximum(bits: int, scope: str) -> None:
    w = normal(5, 4, 3, 3, dtype=torch.float64)
    n = 2 ** (bits - 1) - 1
    s = over_filters(np.max, np.abs(w.numpy()), scope) / n
    expected = s * np.rint(w.numpy() / s).clip(-n, n)
    found = applied(for_weight("brevitas", w, bits, scope=scope), w)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@needs_brevitas
@pytest.mark.parametrize("scope", ["layer", "filter"])
def test_brevitas_binary_weights_are_the_mean_size(scope: str) -> None:
    w = normal(5, 4, 3, 3, dtype=torch.float64)
    alpha = over_filters(np.mean, np.abs(w.numpy()), scope)
    quantizer, sign = for_weight("brevitas", w, 1, scope=scope), np.sign(w.numpy())
    np.testing.assert_allclose(applied(quantizer, w), alpha * sign, rtol=1e-9)
    g = normal(5, 4, 3, 3, seed=1, dtype=torch.float64)
    expected = alpha * g.numpy() + sign * over_filters(np.mean, g.numpy() * sign, scope)
    np.testing.assert_allclose(gradient(quantizer, w, g), expected, rtol=1e-9)


@needs_brevitas
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("bits", [2, 4])
def test_brevitas_weights_gradient_goes_through_the_scale_too(bits: int, scope: str) -> None:
    w = normal(5, 4, 3, 3, dtype=torch.float64)
    g = normal(5, 4, 3, 3, seed=1, dtype=torch.float64)
    values, n = w.numpy(), 2 ** (bits - 1) - 1
    largest = over_filters(np.max, np.abs(values), scope)
    s = largest / n
    through_scale = over_filters(np.sum, g.numpy() * (np.rint(values / s) - values / s), scope)
    expected = g.numpy() + (np.abs(values) == largest) * np.sign(values) / n * through_scale
    found = gradient(for_weight("brevitas", w, bits, scope=scope), w, g)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def brevitas_range(x: Tensor) -> float:
    """The 99.999th percentile of |x|, by rank."""
    size = np.sort(np.abs(x.numpy()).ravel())
    return float(size[int(np.floor(0.99999 * size.size + 0.5)) - 1])


@needs_brevitas
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_brevitas_inputs_have_a_learned_range(bits: int, signed: bool) -> None:
    sample = normal(4, 50_000, dtype=torch.float64)
    sample = sample if signed else sample.relu()
    quantizer = for_input("brevitas", sample, bits)
    v = quantizer.get_parameter("tensor_quant.scaling_impl.value")
    assert v.item() == pytest.approx(brevitas_range(sample), rel=1e-6)
    assert v.item() < sample.abs().max().item()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    steps = 2 ** (bits - 1) if signed else 2**bits - 1

    # a range that half the values exceed, as it may become when it is learned
    v.data.fill_(-0.5)  # its sign does not matter
    x, g = 0.7 * sample[0], normal(50_000, seed=1, dtype=torch.float64)
    s = 0.5 / steps
    codes = np.rint(x.numpy() / s)
    np.testing.assert_allclose(applied(quantizer, x), s * codes.clip(low, high), atol=1e-7)
    kept = (codes >= low) & (codes <= high)
    assert 0.2 < kept.mean() < 0.9
    np.testing.assert_allclose(gradient(quantizer, x, g), np.where(kept, g.numpy(), 0), rtol=1e-6)
    slope = np.where(kept, codes - x.numpy() / s, codes.clip(low, high))
    assert v.grad is not None
    expected = -(g.numpy() * slope).sum() / steps  # ∂s/∂v = sign(v)/steps
    assert v.grad.item() == pytest.approx(expected, rel=1e-4)


@needs_brevitas
def test_brevitas_one_bit_inputs_are_two_levels() -> None:
    x, g = normal(5000), normal(5000, seed=1)
    v = brevitas_range(x)
    signed = for_input("brevitas", x, 1)
    np.testing.assert_allclose(applied(signed, x), v * np.where(x >= 0, 1, -1), rtol=1e-6)
    np.testing.assert_allclose(gradient(signed, 2 * x, g), v * g * (2 * x.abs() <= v), rtol=1e-5)
    positive = for_input("brevitas", x.relu(), 1)
    top = brevitas_range(x.relu())
    expected = top * np.rint(x.relu().numpy() / np.float32(top))
    np.testing.assert_allclose(applied(positive, x.relu()), expected, rtol=1e-6)


@needs_brevitas
def test_brevitas_inputs_change_no_state_when_they_are_quantized() -> None:
    quantizer = for_input("brevitas", normal(1000).relu(), 4)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    first = applied(quantizer, normal(100))
    applied(quantizer, 100 * normal(100))
    assert np.array_equal(applied(quantizer.eval(), normal(100)), first)
    assert before
    assert all(torch.equal(quantizer.state_dict()[name], before[name]) for name in before)


# All of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits", "reason"),
    [
        pytest.param("torchao", "3(±4)/32", "levels", marks=needs_torchao),
        pytest.param("torchao", "1/2", "round to 0", marks=needs_torchao),
        pytest.param("parq", "2/2", "weights only", marks=needs_torchao),
        pytest.param("parq", "3(±2)/32", "would fix them", marks=needs_torchao),
        pytest.param("brevitas", "3(±2)/32", "evenly spaced", marks=needs_brevitas),
    ],
)
def test_what_a_library_cannot_do_is_refused(name: str, bits: str, reason: str) -> None:
    found = registry.build_method(name, {}).supports(Bits.parse(bits), "classification")
    assert reason in (found or "")


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
    method = registry.build_method("parq", {"quantizer": quantizer})
    assert (method.supports(Bits.parse(bits), "classification") is None) == supported
