"""Gradients at the ends of the intervals that methods clip to, as their papers or authors say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench import registry
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    parameter_gradient,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import Array, normal

METHODS = sorted(set(registry.names("methods")) - {"fp32", "torchao", "brevitas"})
WIDTHS = ["1/32", "2/32", "4/32", "1/1", "1/2", "2/2", "4/4", "32/1", "32/2"]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in METHODS],
    ("pact", {"weights": "sawb"}),
    *[("hwgq", {"backward": backward}) for backward in ("vanilla", "log_tailed")],
    ("friesen_domingos", {"loss": "saturated"}),
    ("bireal", {"gradient": "paper"}),
    ("apot", {"normalization_gradient": False}),
]
UNIT = np.array([-0.1, 0, 0.3, 1, 1.1])
TWICE_UNIT = 2 * UNIT
SYMMETRIC = np.array([-1.1, -1, 0, 0.3, 1, 1.1])
TOP = 3 * 0.538  # of HWGQ at 2 bits


@pytest.mark.parametrize(
    ("name", "bits", "options", "x", "slope"),
    [
        # 1 where 0 ≤ x ≤ 1
        ("dorefa", 2, {}, UNIT, [0, 1, 1, 1, 0]),
        ("wrpn", 2, {}, UNIT, [0, 1, 1, 1, 0]),
        ("friesen_domingos", 2, {"loss": "saturated"}, UNIT, [0, 1, 1, 1, 0]),
        # 1 where |x| ≤ 1
        ("bnn", 1, {}, SYMMETRIC, [0, 1, 1, 1, 1, 0]),
        ("binary_connect", 1, {}, SYMMETRIC, [0, 1, 1, 1, 1, 0]),
        ("tbn", 2, {}, SYMMETRIC, [0, 1, 1, 1, 1, 0]),
        ("friesen_domingos", 1, {"loss": "saturated"}, SYMMETRIC, [0, 1, 1, 1, 1, 0]),
        # 1 where |x| < 1
        ("xnor", 1, {}, SYMMETRIC, [0, 0, 1, 1, 0, 0]),
        # 1 where 0 < x ≤ q_m; the tail begins above q_m with a slope of 1/(x − q_m + 1)
        ("hwgq", 2, {}, TOP * UNIT, [0, 0, 1, 1, 0]),
        ("hwgq", 2, {"backward": "vanilla"}, TOP * UNIT, [0, 0, 1, 1, 1]),
        ("hwgq", 2, {"backward": "log_tailed"}, TOP * UNIT, [0, 0, 1, 1, 1 / (0.1 * TOP + 1)]),
    ],
)
def test_inputs_at_the_ends(
    name: str, bits: int, options: dict[str, Any], x: Array, slope: list[float]
) -> None:
    given = torch.tensor(x)
    # The levels of HWGQ are float32: so is the tensor, or no value would be its top.
    quantizer = activation_quantizer(name, given, bits, **options).float()
    found = gradient(quantizer, given.float(), torch.ones(len(x)))
    np.testing.assert_allclose(found, slope, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters", "slope"),
    [
        ("pact", {"alpha": 2.0}, [0, 1, 1, 0, 0]),  # 1 where 0 ≤ x < α
        ("lsq", {"step": 2 / 3}, [0, 0, 1, 0, 0]),  # 1 where −Q_N < x/s < Q_P
        ("lsq_plus", {"step": 2 / 3, "offset": 0.0}, [0, 0, 1, 0, 0]),
        ("apot", {"alpha": 2.0}, [0, 1, 1, 1, 0]),
        ("ewgs", {"low": 0.0, "high": 2.0}, [0, 0.5, 0.5, 0.5, 0]),  # 1/(u − l) where l ≤ x ≤ u
        ("qil", {"centre": 1.0, "half_width": 1.0}, [0, 0.5, 0.5, 0.5, 0]),  # ½/d, |x − c| ≤ d
    ],
)
def test_inputs_at_the_ends_of_learned_intervals(
    name: str, parameters: dict[str, float], slope: list[float]
) -> None:
    options = {"delta": 0.0} if name == "ewgs" else {}
    quantizer = activation_quantizer(name, torch.rand(9), 2, **options).float()
    quantizer = set_parameters(quantizer, **parameters)
    x = torch.tensor(TWICE_UNIT).float()
    np.testing.assert_allclose(gradient(quantizer, x, torch.ones(5)), slope, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "bits", "options", "slope"),
    [
        ("wrpn", 2, {}, [0, 1, 1, 1, 1, 0]),  # 1 where |w| ≤ 1
        ("bireal", 1, {}, [0, 1, 1, 1, 1, 0]),  # the same
        ("react_net", 1, {}, [0, 1, 1, 1, 1, 0]),
        ("bireal", 1, {"gradient": "paper"}, [0, 0, 0.75, 0.75, 0, 0]),  # mean|w| where |w| < 1
    ],
)
def test_weights_at_the_ends(
    name: str, bits: int, options: dict[str, Any], slope: list[float]
) -> None:
    w = torch.tensor(SYMMETRIC)[None]
    found = gradient(weight_quantizer(name, w, bits, **options), w, torch.ones_like(w))
    np.testing.assert_allclose(found[0], slope, rtol=1e-6)


def test_sawb_passes_the_gradient_of_weights_at_its_scale() -> None:
    w = torch.full((1, 6), 0.5, dtype=torch.float64)  # the scale is the largest weight
    found = gradient(weight_quantizer("pact", w, 4, weights="sawb"), w, torch.ones_like(w))
    np.testing.assert_allclose(found, 1)


def test_affine_weights_pass_the_gradient_at_both_ends_of_their_range() -> None:
    w = torch.tensor([[-1.0, 0.0, 0.4, 1.0]], dtype=torch.float64)
    found = gradient(weight_quantizer("jacob", w, 2), w, torch.ones_like(w))
    np.testing.assert_array_equal(found, 1)


def behind_a_relu(count: int = 400) -> tuple[Tensor, Tensor]:
    """Inputs half of which are exactly zero, and gradients."""
    return normal(count).clamp(min=0), normal(count, seed=1)


def test_the_lower_bound_of_ewgs_learns_from_inputs_that_are_equal_to_it() -> None:
    x, g = behind_a_relu()
    quantizer = activation_quantizer("ewgs", x, 2, delta=0.3)
    gradient(quantizer, x, g)
    low, high = float(x.min()), 3 * float(x.std()) / np.sqrt(1 - 2 / np.pi)
    unit = np.clip((x.numpy() - low) / (high - low), 0, 1)
    scaled = g.numpy() * (1 + 0.3 * np.sign(g.numpy()) * (unit - np.round(3 * unit) / 3))
    inside = (x.numpy() >= low) & (x.numpy() <= high)
    slope = (x.numpy() - high) / (high - low) ** 2  # of (x − l)/(u − l) by l
    assert (x == low).float().mean() > 0.4
    assert parameter_gradient(quantizer, "low") == pytest.approx((scaled * slope * inside).sum())


def test_the_interval_of_qil_learns_from_inputs_at_its_lower_end() -> None:
    x, g = behind_a_relu()
    quantizer = activation_quantizer("qil", x, 2)
    gradient(quantizer, x, g)
    c = d = float(x.max()) / 2  # so that c − d is zero, and c + d the largest input
    by_c, by_d = np.full(len(x), -0.5 / d), -0.5 * (x.numpy() - c) / d**2
    for name, slope in (("centre", by_c), ("half_width", by_d)):
        found = parameter_gradient(quantizer, name)
        assert found == pytest.approx((g.numpy() * slope).sum(), rel=1e-5)


class Poisoned(torch.autograd.Function):
    """``torch.clamp``, whose gradient is not a number."""

    @staticmethod
    def forward(ctx: Any, clamp: Callable[..., Tensor], *args: Any) -> Tensor:
        ctx.count = len(args)
        return clamp(*args)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return (None, torch.full_like(g, torch.nan), *[None] * (ctx.count - 1))


def poison_clamp(patch: pytest.MonkeyPatch) -> None:
    original = torch.Tensor.clamp

    def clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
        return Poisoned.apply(original, x, min, max)

    patch.setattr(torch.Tensor, "clamp", clamp)
    patch.setattr(torch, "clamp", clamp)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_no_gradient_depends_on_the_version_of_torch(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build_method(name, options)
    if method.library is not None and method.library.problem():
        pytest.skip(f"{name} needs a library that is not installed")
    w, x = normal(6, 4, 3, 3), normal(50, 4).abs()
    found: list[Array] = []
    for bits in map(BitWidths.parse, WIDTHS):
        if method.supports(bits, "classification") is not None:
            continue
        built = []
        if not bits.weights.is_float:
            built.append((weight_quantizer(name, w, bits.weights.bits, **options), w))
        if not bits.activations.is_float:
            built.append((activation_quantizer(name, x, bits.activations.bits, **options), x))
        for quantizer, values in built:
            with monkeypatch.context() as patch:
                poison_clamp(patch)
                try:
                    found.append(gradient(quantizer, values, torch.ones_like(values)))
                except RuntimeError:  # nothing is learned from this tensor
                    assert not method.trains
            found += [p.grad.numpy() for p in quantizer.parameters() if p.grad is not None]
    assert found or not method.trains
    for slopes in found:
        assert np.isfinite(slopes).all()


def test_no_gradient_of_adaround_depends_on_the_version_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    w = normal(6, 4, 3, 3)
    quantizer = weight_quantizer("adaround", w, 3)
    v = quantizer.get_buffer("v").requires_grad_()
    with monkeypatch.context() as patch:
        poison_clamp(patch)
        quantizer(w).sum().backward()
    assert v.grad is not None
    assert v.grad.isfinite().all()
    assert (v.grad != 0).any()
