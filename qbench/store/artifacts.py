"""Artifacts of runs: read beside the store on this machine, or downloaded through MLflow.

MLflow records the address of an artifact as an absolute path. In a results folder, artifacts are
looked for relative to the folder first, so that it can be moved, copied and mounted elsewhere.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from qbench.errors import QbenchError
from qbench.store.connection import Connection, mlflow_reason
from qbench.store.run import Run

_IN_FOLDER = 3  # parts of artifacts/<suite>/<run>/artifacts after the first


def on_this_machine(connection: Connection, run: Run, name: str) -> Path | None:
    """Return the path of an artifact, or None if it is not on this machine.

    Args:
        connection: Connection to the store.
        run: Run that has the artifact.
        name: Name of the artifact.
    """
    place = urlsplit(run.artifact_uri)
    if place.scheme not in ("", "file"):
        return None
    recorded = Path(url2pathname(place.path))
    folders = [recorded]
    if connection.is_default:
        folders.insert(0, connection.artifacts.joinpath(*recorded.parts[-_IN_FOLDER:]))
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def exists(connection: Connection, run: Run, name: str) -> bool:
    """Return whether a run has an artifact.

    Args:
        connection: Connection to the store.
        run: The run.
        name: Name of the artifact.

    Raises:
        QbenchError: The store cannot be read.
    """
    if on_this_machine(connection, run, name) is not None:
        return True
    if connection.is_default:
        return False
    with connection.reporting("cannot list artifacts in"):
        kept = connection.client.list_artifacts(run.run_id)
    return any(item.path == name for item in kept)


def fetch(connection: Connection, run: Run, name: str, target: Path) -> Path:
    """Copy an artifact of a run to a folder.

    Args:
        connection: Connection to the store.
        run: Run that has the artifact.
        name: Name of the artifact.
        target: The folder.

    Returns:
        Path of the copy.

    Raises:
        QbenchError: The run has no such artifact, or it cannot be fetched.
    """
    try:
        local = on_this_machine(connection, run, name)
        if local is not None:
            return Path(shutil.copyfile(local, target / name))
        return Path(connection.client.download_artifacts(run.run_id, name, str(target)))
    except Exception as error:  # storage of artifacts has exceptions of its own
        reason = connection.without_password(mlflow_reason(error))
        raise QbenchError(f"cannot fetch {name} of run {run.run_id}: {reason}") from error


def text(connection: Connection, run: Run, name: str) -> str:
    """Return the text of an artifact.

    Args:
        connection: Connection to the store.
        run: Run that has the artifact.
        name: Name of the artifact.

    Raises:
        QbenchError: As in `fetch`.
    """
    local = on_this_machine(connection, run, name)
    if local is not None:
        return content(local)
    with tempfile.TemporaryDirectory() as scratch:
        return content(fetch(connection, run, name, Path(scratch)))


def content(path: Path) -> str:
    """Return the text of a file on this machine.

    Args:
        path: Path of an artifact.

    Raises:
        QbenchError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QbenchError(f"{path}: cannot be read: {mlflow_reason(error)}") from error
