"""A weight is standardized as its formula says, with the gradients of the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench.functional import moments, standardize
from tests.helpers.primitives import ENGINES, force, same_bits

WEIGHTS = {
    "of a convolution": 0.1 * torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0)),
    "channels last": torch.randn(9, 40, 3, 3, generator=torch.Generator().manual_seed(1)).to(
        memory_format=torch.channels_last
    ),
    "far from zero": 100 + torch.randn(3000, generator=torch.Generator().manual_seed(2)),
    "two values": torch.tensor([1.0, 2.0]),
    "equal values": torch.zeros(4, 5),
    "one value": torch.tensor([3.0]),
}


def formula(w: Tensor, fixed: bool) -> Tensor:
    """(w − μ)/σ, as autograd differentiates it."""
    source = w.detach() if fixed else w
    centred = w - source.mean()
    tiny = torch.finfo(w.dtype).tiny
    return centred if w.numel() == 1 else centred / source.std().clamp(min=tiny)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WEIGHTS)
def test_values_and_gradients_are_those_of_the_formula(
    name: str, dtype: torch.dtype, fixed: bool, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, engine)
    w = WEIGHTS[name].to(dtype).requires_grad_()
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(3)).to(w)
    if name == "equal values":
        g = g * torch.finfo(dtype).tiny  # or their gradient would be infinite
    y, expected = standardize(w, fixed=fixed), formula(w, fixed)
    assert y.stride() == expected.stride()
    assert same_bits(y.detach(), expected.detach())
    (gx,), (expected_gx,) = (torch.autograd.grad(each, w, g) for each in (y, expected))
    error = 1e-6 if dtype == torch.float32 else 1e-13
    largest = float(torch.maximum(g.abs().max(), expected_gx.abs().max()))
    torch.testing.assert_close(gx, expected_gx, rtol=0, atol=error * largest)


def test_the_number_of_threads_makes_no_difference() -> None:
    w, g = torch.randn(2, 300_007, generator=torch.Generator().manual_seed(0))
    w.requires_grad_()
    threads = torch.get_num_threads()
    try:
        y = standardize(w)  # torch forms the mean, which may depend on the number of threads
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found += torch.autograd.grad(y, w, g, retain_graph=True)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("shape", [(6, 40), (4, 5, 3, 3), (3, 2)])
def test_moments_of_rows_have_the_gradients_of_their_formulas(
    shape: tuple[int, ...], correction: int
) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()
    dims = tuple(range(1, x.dim()))
    expected = (
        x.mean(dims, keepdim=True),
        (x.var(dims, correction=correction, keepdim=True) + 0.1).sqrt(),
    )
    found = moments(x, 0.1, correction=correction)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    g = [torch.randn(one.shape, generator=random, dtype=torch.float64) for one in expected]
    (gx,), (expected_gx,) = (torch.autograd.grad(each, x, g) for each in (found, expected))
    torch.testing.assert_close(gx, expected_gx)
    assert torch.autograd.gradgradcheck(lambda x: moments(x, 0.1, correction=correction), x)


def test_a_row_of_equal_values_has_a_deviation_with_a_finite_gradient() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    _, deviation = moments(x, 1e-12)
    deviation.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
