"""How far rounding in float32 may move what a network computes.

The network runs in float64, and every result is moved by a bound of its own rounding, in a random
direction for each number (`Rounding`). What that changes later is measured (`Exact`). One direction
for all would cancel in normalizations, in softmax, and in sums with weights of both signs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_UNIT = 2.0**-24  # of rounding in float32
_SAFETY = 4.0
_PRODUCTS = ("convolution", "mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot")
_SUMS = ("sum", "mean", "avg_pool", "adaptive_avg_pool", "cumsum")


class Exact:
    """Numbers in float64, and how far rounding in float32 may move them."""

    exact: Tensor
    bound: Tensor

    def __init__(self) -> None:
        self.passes = 0

    def take(self, x: Tensor) -> None:
        """Take the numbers of a pass. Nothing is moved in the first one."""
        if self.passes:
            self.bound = torch.maximum(self.bound, _SAFETY * (x - self.exact).abs())
        else:
            self.exact = x.clone()
            self.bound = _SAFETY * _UNIT * x.abs() + 1e-30
        self.passes += 1

    def explains(self, x: Tensor) -> Tensor:
        """Return for each of the numbers ``x`` whether it is within the bound."""
        return (x.double() - self.exact).abs() <= self.bound


@contextmanager
def in_operations() -> Iterator[None]:
    """Context manager in which attention runs operation by operation."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Rounding(TorchDispatchMode):
    """Moves the result of each operation by a bound of its rounding in float32.

    A sum of n terms is exact up to about √n u Σ|terms|, in any order: rounding errors hardly ever
    have one sign (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019). It is twice that here, since
    they have one where all terms are the same, until onnxruntime has added 256 of them. Certain is
    n u Σ|terms|, 10,000 times what happens in the last layers of ResNet-18, so that a fault of a
    percent would be explained. Other operations are exact up to a few units, and their inputs are
    moved by a unit too: that is what they lose where they subtract numbers inside, as
    normalizations do.

    Args:
        seed: Seed of the directions.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = torch.Generator().manual_seed(seed)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # with True, torch imports its compiler on the first call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation of torch, and move what it returns."""
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__.strip("_")
        mutable = func._schema.is_mutable
        if func.is_view:
            return func(*args, **kwargs)
        if name in _PRODUCTS or name.startswith(_SUMS):
            out = func(*args, **kwargs)
            size = tree_map_only(Tensor, Tensor.abs, (args, kwargs))
            size = _growth(_terms(name, args, out)) * func(*size[0], **size[1])
            return self._moved(out, size, mutable)
        given = [x for x in args if _is_real(x)]
        if not mutable:
            args = tuple(self._moved(x, x.abs()) if _is_real(x) else x for x in args)
        result = func(*args, **kwargs)
        out = result[0] if isinstance(result, tuple | list) and result else result
        if not given or not _is_real(out):
            return result
        size = 2 * out.abs()
        if name == "gelu":
            size = size + given[0].abs()  # 1 + erf cancels
        elif name == "softmax":
            size = (_growth(out.shape[args[1]]) + 4) * out
        out = self._moved(out, size, mutable)
        return out if isinstance(result, Tensor) else (out, *result[1:])

    def _moved(self, x: Tensor, size: Tensor, in_place: bool = False) -> Tensor:
        """Return ``x``, moved by a unit of ``size`` where that is finite."""
        signs = 2 * torch.randint(0, 2, x.shape, generator=self._random).to(x) - 1
        by = torch.where(size.isfinite(), signs * _UNIT * size, 0.0).to(x.dtype)
        return x.add_(by) if in_place else x + by


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _growth(terms: int) -> float:
    """Return a bound of the rounding of a sum, in units of Σ|terms|."""
    return min(terms, 2 * math.sqrt(terms))


def _terms(name: str, args: Any, out: Tensor) -> int:
    """Return the number of terms of the sums that an operation computes."""
    if name == "convolution":
        weight = args[1]
        return 1 + (weight[:, 0].numel() // args[8] if args[6] else weight[0].numel())
    if name in _PRODUCTS:
        return 1 + int(args[-2].shape[-1])
    return 1 + (args[0].shape[args[1]] if name == "cumsum" else args[0].numel() // out.numel())
