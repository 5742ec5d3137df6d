"""What the backward pass of a staircase keeps, and the layouts of its tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.quant.staircase.staircase import staircase
from tests.helpers.stairs import (
    READERS,
    STAIRS,
    assert_equation_7,
    force,
    inputs,
    run,
)

# What is kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["1 step", "6 steps", "255 steps"])
def test_backward_keeps_the_input_and_nothing_else_of_its_size(
    name: str, reader: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = len(STAIRS[name].biases)
    force(monkeypatch, reader, steps)
    # The sum of 255 sigmoids takes long, and keeps as much for every element.
    count = 2**20 if reader != "sum" or steps < 10 else 2**14
    given = STAIRS[name].arguments(5)
    given["alpha"].requires_grad_()
    given["beta"].requires_grad_()
    x = torch.zeros(count, dtype=dtype, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = staircase(x, **given)
    assert x.nbytes <= sum(kept) <= x.nbytes + 1024 * steps
    held = [v for v in vars(y.grad_fn).values() if isinstance(v, Tensor)]
    assert sum(tensor.nbytes for tensor in held) <= 1024 * steps


def test_what_is_kept_may_be_packed_away() -> None:
    given = STAIRS["6 steps"].arguments(50)
    x, g = inputs(STAIRS["6 steps"], 50, 50_001)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True), torch.tensor):
        computed = run(x, given, g, learned=("alpha", "beta", "biases"))
    assert_equation_7(x, given, computed, g, table=True)


# Layouts


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    x, _ = inputs(STAIRS["4 steps"], 5, 4 * 6 * 17 * 16, dtype)
    return x.view(4, 6, 17, 16)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "one channel, last": lambda x: x.view(-1, 1, 17, 16).to(memory_format=torch.channels_last),
    "volume, channels last": lambda x: x.view(2, 2, 6, 17, 16).to(
        memory_format=torch.channels_last_3d
    ),
    "transposed": lambda x: x.transpose(1, 3),
    "every second": lambda x: x[:, ::2, 1:, ::2],
    "part of channels last": lambda x: x.to(memory_format=torch.channels_last)[1:, 2:],
    "part of a batch": lambda x: x[1:3],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "a row": lambda x: x.view(1, -1),
    "a column": lambda x: x.view(-1, 1),
    "one value": lambda x: x[0, 0, 0, 0],
    "one value in four dimensions": lambda x: x[:1, :1, :1, :1],
    "empty": lambda x: x[:0],
    "empty in the middle": lambda x: x[:, :, :0],
}


def upstream(kind: str, x: Tensor) -> Tensor:
    """A gradient of the shape of x, whatever its own layout."""
    g = torch.from_numpy(np.random.default_rng(3).standard_normal(x.shape)).to(x.dtype)
    if kind == "as x":
        return torch.empty_like(x).copy_(g)
    if kind == "reversed strides":
        order = tuple(reversed(range(x.dim())))
        return g.permute(order).contiguous().permute(order)
    if kind == "one value":
        return torch.full((), 1.5, dtype=x.dtype).expand(x.shape)
    if kind == "every second":
        return torch.stack([g, torch.full_like(g, torch.nan)], -1)[..., 0]
    return g


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_makes_no_difference(
    dtype: torch.dtype, layout: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, reader)
    given = STAIRS["4 steps"].arguments(5)
    x = LAYOUTS[layout](image(dtype))
    before = x.clone()
    for kind in ("contiguous", "as x", "reversed strides", "one value", "every second"):
        g = upstream(kind, x)
        computed = run(x, given, g)
        if x.numel():
            assert_equation_7(x, given, computed, g, table=True)
        else:
            assert computed["alpha"] == computed["beta"] == 0
    assert torch.equal(x, before)


def test_channels_last_stays_channels_last() -> None:
    x = image().to(memory_format=torch.channels_last).requires_grad_()
    y = staircase(x, **STAIRS["4 steps"].arguments(5))
    assert y.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
