"""Suites that are installed with qbench, for use by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from qbench.errors import QbenchError, nearest


def bundled_folder() -> Path:
    """Return the folder ``suites`` of the repository, as it is installed."""
    return Path(str(files("qbench_suites")))


def bundled_suites() -> dict[str, Path]:
    """Return the files of the installed suites by name."""
    return {path.stem: path for path in sorted(bundled_folder().glob("*.yaml"))}


def suite_file(given: Path) -> Path:
    """Return the file of a suite.

    Args:
        given: Path of a file, or name of an installed suite. A file takes precedence.

    Returns:
        The path, which need not exist if it is more than a bare name.

    Raises:
        QbenchError: Neither a file nor an installed suite has this bare name; the message
            gives the nearest one.
    """
    if given.is_file() or given.suffix or len(given.parts) != 1:
        return given
    bundled = bundled_suites()
    if given.name not in bundled:
        raise QbenchError(
            f"no file or installed suite is named '{given}'{nearest(given.name, bundled)}"
        )
    return bundled[given.name]
