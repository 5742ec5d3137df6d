"""Paths that the user gives, and files that several processes write."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qbench.errors import QbenchError


def expanded(path: str | Path) -> Path:
    """Expand ``~`` and ``~user`` at the start of a path.

    A shell does this only in some places: not after ``--results=``, and not in a suite.

    Args:
        path: A path as the user wrote it.

    Raises:
        QbenchError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0]
        raise QbenchError(f"{path}: '{user}' is the home folder of no user") from error


def resolved(path: str | Path) -> Path:
    """Return an absolute path, with ``~`` expanded. Symbolic links stay as they are.

    Other processes have other working directories, so paths are resolved before they are passed on.

    Args:
        path: A path as the user wrote it.

    Raises:
        QbenchError: There is no such user.
    """
    return expanded(path).absolute()


@contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """Context manager that replaces a file as a whole, so that no reader sees half of it.

    If the block raises, the file stays as it was.

    Args:
        path: The file. Its folder must exist.

    Yields:
        A temporary file in the same folder, to be written by the block.
    """
    scratch = path.with_name(f".{uuid.uuid4().hex}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, wait: bool) -> Iterator[bool]:
    """Context manager that holds a lock file. The lock ends with the process at the latest.

    Args:
        path: The lock file. It is created if necessary and never removed.
        wait: If True, block until the lock is free.

    Yields:
        Whether the lock is held.

    Raises:
        OSError: The file cannot be written.
    """
    held = FileLock(path)
    try:
        held.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()
