"""Every primitive computes its formula, by whichever engine, and reads each element once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.helpers.primitives import CASES, ENGINES, HAS_C, force, run, same_bits, values

DTYPES = [torch.float32, torch.float64]
EVERY = pytest.mark.parametrize("name", CASES)
_ONE_EACH = {name.partition(",")[0]: name for name in CASES}
ONE_EACH = pytest.mark.parametrize("name", _ONE_EACH.values())
BOTH = pytest.mark.parametrize("engine", ENGINES)


def gradient(x: Tensor, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.dtype)


def assert_is_the_formula(
    name: str, engine: str, x: Tensor, g: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients of x agree to the last bit, sums and curves to rounding."""
    case, finite = CASES[name], x.clamp(-9, 9)  # the sums of others would be no number
    with monkeypatch.context() as patch:
        force(patch, "formula")
        y, gx, sums = *run(case, x, g)[:2], run(case, finite, g)[2]
    with monkeypatch.context() as patch:
        force(patch, engine)
        found, found_gx, found_sums = *run(case, x, g)[:2], run(case, finite, g)[2]
    assert found.dtype == y.dtype
    order = [stride for stride, length in zip(y.stride(), y.shape, strict=True) if length > 1]
    assert [s for s, n in zip(found.stride(), found.shape, strict=True) if n > 1] == order
    assert same_bits(found, y)
    if case.curved:
        largest = max(1.0, float(gx.abs().max()) if gx.numel() else 0.0)
        error = 2e-6 if x.dtype == torch.float32 else 1e-14
        torch.testing.assert_close(found_gx, gx, rtol=0, atol=error * largest)
    else:
        assert same_bits(found_gx, gx)
    bound = 64 * float(torch.finfo(x.dtype).eps) * float(g.abs().sum())
    for one, other in zip(found_sums, sums, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=bound)


# Values


@BOTH
@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_are_those_of_the_formula(
    dtype: torch.dtype, name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = values(CASES[name], dtype).reshape(5, -1)
    assert_is_the_formula(name, engine, x, gradient(x), monkeypatch)


@BOTH
@EVERY
def test_nan_is_what_it_is_by_the_formula(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, x = CASES[name], torch.tensor([[torch.nan, 0.5, 0.3]])
    with monkeypatch.context() as patch:
        force(patch, "formula")
        y, gx, _ = run(case, x, torch.ones_like(x))
    force(monkeypatch, engine)
    found, found_gx, _ = run(case, x, torch.ones_like(x))
    assert same_bits(found, y)
    if case.curved:
        torch.testing.assert_close(found_gx, gx, equal_nan=True)
    else:
        assert case.passes_all or same_bits(found_gx, gx)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EVERY
def test_half_precision_keeps_its_dtype(name: str, dtype: torch.dtype) -> None:
    x = values(CASES[name], torch.float32, 60).reshape(5, -1).to(dtype)
    y, gx, gradients = run(CASES[name], x, gradient(x))
    assert {y.dtype, gx.dtype, *(one.dtype for one in gradients)} == {dtype}


@BOTH
@EVERY
def test_a_tensor_may_have_one_value_or_none(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shape in ((), (1,), (1, 1), (0,), (3, 0), (3, 1)):
        if shape or not CASES[name].rows:
            x = torch.full(shape, 0.3)
            assert_is_the_formula(name, engine, x, gradient(x), monkeypatch)


# Layouts

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "one channel": lambda x: x[:, :1].contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3),
    "every second": lambda x: x[:, ::2, 1:, ::2],
    "part of channels last": lambda x: x.to(memory_format=torch.channels_last)[1:, 2:],
    "part of a batch": lambda x: x[1:3],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
}


@BOTH
@EVERY
def test_the_layout_makes_no_difference(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for layout in LAYOUTS.values():
        x = layout(values(CASES[name], torch.float32, 4 * 6 * 5 * 7).reshape(4, 6, 5, 7))
        before, g = x.clone(), gradient(x)
        for each in (g, torch.empty_like(x).copy_(g), g.new_tensor(1.5).expand(x.shape)):
            assert_is_the_formula(name, engine, x, each, monkeypatch)
        assert torch.equal(x, before)


# Autograd


@BOTH
@EVERY
def test_what_needs_no_gradient_gets_none(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, engine)
    case = CASES[name]
    x = values(case, torch.float32, 60).clamp(-9, 9).reshape(5, -1)
    parameters = case.parameters(x.dtype, x)
    fixed = [p.detach() for p in parameters]
    expected, gx, gradients = run(case, x, torch.ones_like(x))
    plain = case.function(x, *fixed)
    assert not plain.requires_grad
    assert torch.equal(plain, expected)
    if parameters:
        found = torch.autograd.grad(case.function(x, *parameters).sum(), parameters)
        assert all(map(torch.equal, found, gradients))
    x.requires_grad_()
    (found_gx,) = torch.autograd.grad(case.function(x, *fixed).sum(), x)
    assert torch.equal(found_gx, gx)


@BOTH
@EVERY
def test_gradients_of_gradients_are_those_of_the_formula(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    start = values(case, torch.float64, 60).reshape(5, -1).clamp(-9, 9)

    def twice() -> list[Tensor]:
        # The scale depends on x, so that a gradient counted twice would show.
        x = start.clone().requires_grad_()
        parameters = [p * (1 + 0 * x.sum()) for p in case.parameters(x.dtype, x)]
        g = gradient(x).requires_grad_()
        first = torch.autograd.grad(case.function(x, *parameters), [x], g, create_graph=True)
        (gx,) = first
        found = torch.autograd.grad((gx * gx).sum(), [x, g], allow_unused=True)
        return [gx, *(torch.zeros_like(x) if one is None else one for one in found)]

    with monkeypatch.context() as patch:
        force(patch, "formula")
        expected = twice()
    force(monkeypatch, engine)
    for one, other in zip(twice(), expected, strict=True):
        torch.testing.assert_close(one, other)


@BOTH
@EVERY
def test_the_backward_pass_keeps_the_input_alone(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, engine)
    x = torch.zeros(5, 2000, requires_grad=True)
    parameters = CASES[name].parameters(x.dtype, x)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        CASES[name].function(x, *parameters)
    assert sum(kept.values()) <= x.nbytes + 100


@ONE_EACH
def test_torch_compile_traces_the_formula(name: str) -> None:
    case = CASES[name]
    x = values(case, torch.float32, 60).clamp(-9, 9).reshape(5, -1)
    torch.compiler.reset()
    compiled = torch.compile(case.function, backend="eager", fullgraph=True)
    x.requires_grad_()
    parameters = case.parameters(x.dtype, x)
    found, expected = compiled(x, *parameters), case.function(x, *parameters)
    assert torch.equal(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.sum(), [x, *parameters]),
        torch.autograd.grad(expected.sum(), [x, *parameters]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


# Threads and time


@pytest.mark.skipif(not HAS_C, reason="has no C compiler")
@EVERY
def test_the_number_of_threads_makes_no_difference(name: str) -> None:
    x = values(CASES[name], torch.float32, 40_007 * 3).clamp(-9, 9).reshape(3, -1)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y, gx, sums = run(CASES[name], x, gradient(x))
            found.append([y, gx, *sums])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(map(same_bits, others, found[0]))
