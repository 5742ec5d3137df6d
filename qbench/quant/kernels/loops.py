"""Calls of loops in C, and the layouts of tensors in memory that they want."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from qbench.quant.kernels import build

BLOCK = 1024
"""Number of elements of one partial sum, as in ``blocks.h``."""

_REAL = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


class Loops:
    """The functions of a C source, each compiled for float32 and for float64.

    They are compiled without contraction, so that every operation rounds as torch's does.

    Args:
        source: File in C, as ``blocks.h`` describes it.
    """

    def __init__(self, source: Path) -> None:
        self.source = source

    def run(
        self,
        function: str,
        tensors: Sequence[Tensor | None],
        sizes: Sequence[int] = (),
        numbers: Sequence[float] = (),
    ) -> bool:
        """Call a function, on as many threads as torch uses.

        The function takes a pointer for each tensor, an ``int64_t`` for each size, a ``REAL`` for
        each number, and the number of threads.

        Args:
            function: Name in the C source, without the type.
            tensors: Tensors on the CPU; None: a null pointer. The first has the dtype.
            sizes: Whole numbers.
            numbers: Numbers of the dtype.

        Returns:
            Whether it ran. False: there is no compiler, and torch has to do it.
        """
        library = build.load(self.source, "-ffp-contract=off")
        if library is None:
            return False
        assert tensors[0] is not None  # noqa: S101
        dtype = tensors[0].dtype
        getattr(library, f"{function}_{str(dtype).removeprefix('torch.')}")(
            *(None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors),
            *map(ctypes.c_int64, sizes),
            *map(_REAL[dtype], numbers),
            torch.get_num_threads(),
        )
        return True


def block_sums(rows: int, columns: int, width: int) -> Tensor:
    """Return memory for the sums of all blocks, of which ``[:rows]`` are the sums of the rows.

    Args:
        rows: Number of rows.
        columns: Number of elements of a row.
        width: Number of sums of a block.

    Returns:
        Zeros if there are no elements, else undefined values, (rows · blocks, width), float64.
    """
    blocks = max(1, -(-columns // BLOCK))
    made = torch.empty if columns else torch.zeros
    return made(rows * blocks, width, dtype=torch.float64)


def dense(x: Tensor) -> Tensor:
    """Return a tensor whose values lie in memory without gaps, in the order of their strides.

    It has the strides that torch's elementwise functions give their results.
    """
    if x.is_contiguous():
        return x
    laid_out = torch.empty_like(x)
    return x if laid_out.stride() == x.stride() else laid_out.copy_(x)


def laid_out_as(g: Tensor, x: Tensor) -> Tensor:
    """Return ``g`` with the strides of ``x``, a dense tensor of its shape."""
    g = g.resolve_neg()
    return g if g.stride() == x.stride() else torch.empty_like(x, dtype=g.dtype).copy_(g)
