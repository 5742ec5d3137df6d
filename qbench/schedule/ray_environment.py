"""What Ray reads from the environment when it is imported, and its workers when they start."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from qbench.errors import QbenchError

# With "0", Ray has no other nodes and binds to 127.0.0.1, so that no other machine can reach it.
# This holds on every system, whatever the name says.
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# By default, glibc returns the pages of a large tensor to the system when it is freed, and gets
# zeroed pages for the next. On a CPU that is half the time of a training step of AlexNet. With
# these settings it keeps up to 2 GiB.
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2 * 2**30)}
_SETTINGS = _ALLOCATOR | {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the store knows which trials are done
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# Bytes of the path of a socket on Linux, and of what Ray and multiprocessing append to the folder.
_SOCKET = 107
_OF_RAY = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_OF_PYTHON = len("/pymp-00000000/listener-00000000")
_SHORT = Path("/tmp")  # noqa: S108


def prepare(address: str | None) -> None:
    """Configure Ray to be quiet, to listen on loopback only, and to send a cluster its token.

    Call it before ``ray`` is imported. Ray starts a cluster with a token if it finds one, but does
    not send it to a cluster that it connects to by address unless this is configured. A cluster
    without tokens ignores it.

    Args:
        address: Address of the cluster that will be used. None: that of ``RAY_ADDRESS``, else this
            machine.

    Raises:
        QbenchError: The path of the temporary folder is too long for sockets, and no shorter folder
            can be created.
    """
    os.environ.update(_SETTINGS)
    if not (address or os.environ.get("RAY_ADDRESS")):
        os.environ[_LOOPBACK] = "0"
        _shorten_temporary_folders()
    elif (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def restart_with_allocator() -> None:
    """Start this process again with the memory allocator of trials, unless it has it already.

    glibc reads its settings when a process starts. Call this before anything is written.
    """
    if os.environ.items() >= _ALLOCATOR.items():
        return
    os.environ.update(_ALLOCATOR)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def _shorten_temporary_folders() -> None:
    """Give Ray, and Python if it needs one, a folder with a short path for sockets.

    Schedulers of clusters set ``TMPDIR`` to long paths.

    Raises:
        QbenchError: There is none.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(variable, "")
    length = len(os.fsencode(folder))
    if length + _OF_RAY <= _SOCKET:
        return
    short = _SHORT / f"ray-{os.getuid()}"
    try:
        short.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise QbenchError(
            f"{variable}={folder} has {length} characters, and sockets of Ray need a path of at "
            f"most {_SOCKET - _OF_RAY}. Set RAY_TMPDIR to a shorter folder"
        ) from error
    os.environ["RAY_TMPDIR"] = str(short)
    if len(os.fsencode(tempfile.gettempdir())) + _OF_PYTHON > _SOCKET:  # of processes that load
        os.environ["TMPDIR"] = str(short)
        tempfile.tempdir = None  # read again
