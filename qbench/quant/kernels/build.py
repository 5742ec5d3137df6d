"""Compiled loops in C. The machine's own compiler compiles them when they are first needed.

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

_HEADERS = sorted(Path(__file__).parent.glob("*.h"))
_FLAGS = ("-O3", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_BEST_FLAGS = (
    # What the fastest loops need, which not every compiler knows.
    ("-march=native", "-mprefer-vector-width=512", "-fno-tree-slp-vectorize", "-fopenmp"),
    ("-march=native", "-fno-slp-vectorize", "-fopenmp"),
    ("-fopenmp",),
    (),
)
_LOGGER = logging.getLogger(__name__)


@functools.cache
def load(source: Path, *flags: str) -> ctypes.CDLL | None:
    """Return the compiled loops of a C source, or None if no compiler can build them.

    The library is kept in the user's cache folder. Its name has a hash of all that it depends on:
    the source and the headers of this folder, the flags, the compiler and the processor.

    Args:
        source: File in C. It may include the headers of this folder.
        flags: Further flags of the compiler.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))  # it may be `ccache gcc`
    if not compiler or shutil.which(compiler[0]) is None:
        return None
    try:
        command = [*compiler, *_FLAGS, *flags, f"-I{Path(__file__).parent}"]
        library = _cache_folder() / f"{source.stem}-{_fingerprint(compiler, source, flags)}.so"
        if not library.exists():
            _compile(command, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        _LOGGER.warning("the C kernels could not be built, torch takes their place: %s", error)
        return None


def _fingerprint(compiler: Sequence[str], source: Path, flags: Sequence[str]) -> str:
    version = subprocess.run(  # noqa: S603
        [*compiler, "--version"], capture_output=True, check=True, timeout=60
    ).stdout
    processor = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        pass
    files = (file.read_bytes() for file in (source, *_HEADERS))
    content = (*files, repr((_FLAGS, flags, _BEST_FLAGS)).encode(), version)
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


def _compile(command: Sequence[str], source: Path, library: Path) -> None:
    # It is renamed when complete, so that another process never sees half a file.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        aside = Path(folder) / library.name
        for flags in _BEST_FLAGS:
            done = subprocess.run(  # noqa: S603
                [*command, *flags, "-o", str(aside), str(source), "-lm"],
                capture_output=True,
                text=True,
                timeout=120,
            )
            if done.returncode == 0:
                aside.replace(library)
                return
    raise OSError(f"{shlex.join(command)}: {done.stderr.strip() or 'failed'}")
