"""Compiled loops for the CPU, built with the machine's C compiler the first time they are wanted.

Everything has a form in torch as well: without a compiler the same numbers come out, later.
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
"""Elements that one partial sum covers, as in the C source."""

_SOURCE = Path(__file__).parent / "staircase.c"
_FLAGS = ("-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_BEST_FLAGS = (
    # What the fastest loops need and not every compiler knows.
    ("-march=native", "-mprefer-vector-width=512", "-fno-tree-slp-vectorize", "-fopenmp"),
    ("-march=native", "-fno-slp-vectorize", "-fopenmp"),
    ("-fopenmp",),
    (),
)
_LOGGER = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """Return the compiled loops, or None if no compiler can build them.

    The library is kept in the user's cache folder under a name made of everything it depends on:
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
    """A table, as the loops take it.

    Args:
        slope: rows per unit of x.
        shift: the row of x = 0.
        rows: (rows, 4) float32, contiguous, on the CPU; must outlive the structure.
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
        function: its name in the C source.
        tensors: its leading arguments, flat and of the same size but for the sums: float32 on the
            CPU, the sums float64.
        table: the table to read.
        numbers: the arguments that follow.
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
    # Built aside and renamed, so that two processes never see half a file.
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
