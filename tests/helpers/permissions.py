"""Folders that may only be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def only_readable(folder: Path) -> Iterator[None]:
    """Context manager in which a folder may only be read.

    Root may write everything, so its tests go on as nobody. Nobody may not read the modules of
    some Pythons: import what is needed before.

    Args:
        folder: Folder that other users can reach, so none of pytest's.
    """
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in paths:
            path.chmod(0o755)
