"""What Ray reads from the environment when it is imported, and its workers when they start."""

from __future__ import annotations

import os
from pathlib import Path

# With "0", Ray has no other nodes and binds to 127.0.0.1, so that no other machine can reach it.
# This holds on every system, whatever the name says.
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_SETTINGS = {
    # By default, glibc returns the pages of a large tensor to the system when it is freed, and gets
    # zeroed pages for the next. On a CPU that is half the time of a training step of AlexNet. With
    # these settings it keeps up to 2 GiB.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2 * 2**30),
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the store knows which trials are done
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def prepare(address: str | None) -> None:
    """Configure Ray to be quiet, to listen on loopback only, and to send a cluster its token.

    Call it before ``ray`` is imported. Ray starts a cluster with a token if it finds one, but does
    not send it to a cluster that it connects to by address unless this is configured. A cluster
    without tokens ignores it.

    Args:
        address: Address of the cluster that will be used. None: that of ``RAY_ADDRESS``, else this
            machine.
    """
    os.environ.update(_SETTINGS)
    if not (address or os.environ.get("RAY_ADDRESS")):
        os.environ[_LOOPBACK] = "0"
    elif (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
