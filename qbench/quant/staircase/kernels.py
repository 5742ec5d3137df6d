"""Loops in C for the CPU. The machine's own compiler compiles them when they are first needed.

torch computes the same without them, but not as fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

BLOCK = 256
"""Number of elements of one partial sum, as in the C source."""

_SOURCE = Path(__file__).parent / "staircase.c"
_FLAGS = ("-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_BEST_FLAGS = (
    # What the fastest loops need, which not every compiler knows.
    ("-march=native", "-mprefer-vector-width=512", "-fno-tree-slp-vectorize", "-fopenmp"),
    ("-march=native", "-fno-slp-vectorize", "-fopenmp"),
    ("-fopenmp",),
    (),
)
_LOGGER = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """Return the compiled loops, or None if no compiler can build them.

    The library is kept in the user's cache folder. Its name has a hash of all that it depends on:
    the source, the compiler and the processor.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))  # it may be `ccache gcc`
    if not compiler or shutil.which(compiler[0]) is None:
        return None
    try:
        name = f"staircase-{_fingerprint(compiler)}.so"
        library = _cache_folder() / name
        if not library.exists():
            _compile(compiler, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        _LOGGER.warning("the C kernels could not be built, torch takes their place: %s", error)
        return None


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


def _fingerprint(compiler: Sequence[str]) -> str:
    version = subprocess.run(  # noqa: S603
        [*compiler, "--version"], capture_output=True, check=True, timeout=60
    ).stdout
    processor = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        pass
    content = (_SOURCE.read_bytes(), repr((_FLAGS, _BEST_FLAGS)).encode(), version)
    return hashlib.sha256(b"\0".join((*content, processor.encode()))).hexdigest()[:16]


def _cache_folder() -> Path:
    """Return the user's cache folder, or a temporary one if that cannot be written."""
    with contextlib.suppress(OSError, RuntimeError):  # it cannot be made, there is no home
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(root) / "qbench"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="qbench-"))


def _compile(compiler: Sequence[str], library: Path) -> None:
    # It is renamed when complete, so that another process never sees half a file.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        aside = Path(folder) / library.name
        for flags in _BEST_FLAGS:
            done = subprocess.run(  # noqa: S603
                [*compiler, *_FLAGS, *flags, "-o", str(aside), str(_SOURCE)],
                capture_output=True,
                text=True,
                timeout=120,
            )
            if done.returncode == 0:
                aside.replace(library)
                return
    raise OSError(f"{shlex.join(compiler)}: {done.stderr.strip() or 'failed'}")
