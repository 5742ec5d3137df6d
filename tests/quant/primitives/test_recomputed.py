"""A quantized weight is computed again in the backward pass, and no gradient shows it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qbench.functional import (
    add_gradient,
    binarize,
    fake_quantize,
    scale_gradient,
    scaled_levels,
    staircase,
    standardize,
    to_levels,
)
from qbench.quant.attach import attach
from qbench.quant.primitives import recomputed
from qbench.quant.primitives.recomputed import release_weight, source_of
from tests.helpers.primitives import ENGINES, force

BOTH = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recomputed, "LARGE", 0)


def lsq(w: Tensor) -> Tensor:
    return fake_quantize(w, w.new_tensor(0.3).requires_grad_(), -2, 1)


def staircase_of(w: Tensor) -> Tensor:
    one = w.new_tensor(1.0)
    biases, scales = w.new_tensor([-0.5, 0.5]), w.new_ones(2)
    return staircase(w, one, one, biases, scales, 1.0, w.new_tensor(9.0))


QUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "a learned step": lsq,
    "straight through": lambda w: binarize(w, w.detach().abs().mean()),
    "levels": lambda w: to_levels(w, w.new_tensor([-0.5, 0.5]), w.new_tensor([-1.0, 0, 1])),
    "of a standardized weight": lambda w: scaled_levels(
        standardize(w), w.new_tensor(1.5).requires_grad_(), w.new_tensor([0, 0.5, 1]), signed=True
    ),
    "with a gradient added": lambda w: add_gradient(lsq(w), w),
    "with a scaled gradient": lambda w: scale_gradient(lsq(w), 0.5),
    "a staircase": staircase_of,
}
LAYERS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "convolution": (nn.functional.conv2d, (2, 3, 6, 6), (4, 3, 3, 3)),
    "linear": (nn.functional.linear, (5, 6), (4, 6)),
    "linear, of tokens": (nn.functional.linear, (2, 5, 6), (4, 6)),
}


def tensors(layer: str) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """Return a layer's function, an input and a latent weight."""
    function, *shapes = LAYERS[layer]
    random = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=random).requires_grad_() for shape in shapes)
    return function, x, w


@BOTH
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_gradients_are_those_of_a_weight_that_is_kept(
    name: str, layer: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, engine)
    function, x, w = tensors(layer)
    found = []
    for release in (False, True):
        quantized = QUANTIZERS[name](w)
        y = function(x, quantized)
        if release:
            release_weight(y)
        kept = weakref.ref(quantized)
        del quantized
        assert (kept() is None) or not release or layer != "convolution"
        found += [
            torch.autograd.grad(y.square().sum(), [x, w], retain_graph=True) for _ in range(2)
        ]
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


def test_a_layer_with_a_quantizer_does_not_keep_its_quantized_weight() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Linear(4, 2))
    handle = attach(model, "lsq", bits="2/32", layers=["0", "2"])
    made: list[weakref.ref[Tensor]] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        made.append(weakref.ref(output))

    for layer in handle.layers:
        assert layer.weight_quantizer is not None
        layer.weight_quantizer.register_forward_hook(note)
    y = model(torch.randn(2, 3, 8, 8))
    assert len(made) == 2
    assert all(ref() is None for ref in made)
    y.sum().backward()
    assert all(layer.latent_weight.grad is not None for layer in handle.layers)


def test_a_small_weight_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    function, x, w = tensors("convolution")
    quantized = binarize(w)
    kept = weakref.ref(quantized)
    monkeypatch.setattr(recomputed, "LARGE", w.numel() + 1)
    y = function(x, quantized)
    release_weight(y)
    del quantized
    assert kept() is not None


def test_what_a_quantizer_changes_after_its_forward_pass_changes_no_gradient() -> None:
    function, x, w = tensors("convolution")
    scale, thresholds, levels = torch.tensor(2.0), torch.tensor([0.0]), torch.tensor([-1.0, 1.0])
    for quantize in (lambda: binarize(w, scale), lambda: to_levels(w, thresholds, levels)):
        y = function(x, quantize())
        (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        release_weight(y)
        with torch.no_grad():
            for each in (scale, thresholds, levels):
                each.add_(1)
        (found,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(found, expected)


def test_a_weight_that_the_optimizer_changed_is_an_error_as_before() -> None:
    function, x, w = tensors("convolution")
    y = function(x, lsq(w))
    release_weight(y)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_nothing_is_kept_only_to_compute_a_result_again() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    assert source_of(binarize(x)) is not None  # the parameter is there anyway
    assert source_of(lsq(x.relu())) is not None  # the gradient of the step needs the input
    assert source_of(binarize(x.relu())) is None
    assert source_of(binarize(lsq(x))) is not None
    assert source_of(binarize(lsq(x.relu()))) is None


def test_checkpointing_takes_precedence() -> None:
    function, x, w = tensors("convolution")

    def run(x: Tensor) -> Tensor:
        y = function(x, lsq(w))
        release_weight(y)
        return y.square()

    expected = torch.autograd.grad(run(x).sum(), [x, w])
    found = torch.autograd.grad(checkpoint(run, x, use_reentrant=False).sum(), [x, w])
    assert all(map(torch.equal, found, expected))
    with torch.autograd.graph.save_on_cpu():
        y = run(x)
    assert all(map(torch.equal, torch.autograd.grad(y.sum(), [x, w]), expected))


@BOTH
def test_gradients_of_gradients_pass_through_what_is_computed_again(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)

    def twice() -> Tensor:
        y = QUANTIZERS["of a standardized weight"](w)
        (gw,) = torch.autograd.grad((y * w).sum(), w, create_graph=True)
        (found,) = torch.autograd.grad(gw.square().sum(), w)
        return found

    with monkeypatch.context() as patch:
        force(patch, "formula")
        expected = twice()
    force(monkeypatch, engine)
    torch.testing.assert_close(twice(), expected)
