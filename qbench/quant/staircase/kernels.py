"""Loops in C that read the table of a staircase.

torch computes the same without them, but not as fast.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from qbench.quant.kernels import build

BLOCK = 256
"""Number of elements of one partial sum, as in the C source."""

_SOURCE = Path(__file__).parent / "staircase.c"


def load() -> ctypes.CDLL | None:
    """Return the compiled loops, or None if no compiler can build them."""
    return build.load(_SOURCE)


class CTable(ctypes.Structure):
    """Table in the form that the loops take.

    Args:
        slope: Number of rows per unit of x.
        shift: Row of x = 0.
        rows: `qbench.quant.staircase.table.Table.rows`, contiguous, on the CPU. The tensor must
            outlive the structure.
    """

    _fields_ = (
        ("slope", ctypes.c_float),
        ("shift", ctypes.c_float),
        ("rows", ctypes.c_void_p),
        ("last", ctypes.c_int32),
    )

    def __init__(self, slope: float, shift: float, rows: Tensor) -> None:
        super().__init__(slope, shift, rows.data_ptr(), len(rows) - 1)


def call(function: str, tensors: Sequence[Tensor], table: CTable, *numbers: float) -> None:
    """Run one of the loops, on as many threads as torch uses.

    Args:
        function: Name of the function in the C source.
        tensors: Its first arguments, on the CPU: tensors (N,) in float32 and, for a backward pass,
            the partial sums, (⌈N / `BLOCK`⌉, 2) in float64.
        table: Table to read.
        numbers: The remaining arguments.
    """
    library = load()
    assert library is not None  # noqa: S101
    getattr(library, function)(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        ctypes.c_int64(tensors[0].numel()),
        table,
        *map(ctypes.c_float, numbers),
        torch.get_num_threads(),
    )
