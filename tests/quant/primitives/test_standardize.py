"""A weight is standardized as its formula says, with the gradients of the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench.functional import standardize
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
