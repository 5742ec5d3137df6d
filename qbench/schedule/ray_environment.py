"""What Ray reads from the environment when it is imported, and its workers when they start."""

from __future__ import annotations

import os
from pathlib import Path

# A machine for itself is reached from nowhere else: Ray binds to 127.0.0.1 where it may have no
# other nodes, whatever the system that this is named after.
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_SETTINGS = {
    # glibc gives a large tensor's pages back when it is freed, and takes them anew, zeroed, for the
    # next: on a CPU that is half the time of a step of AlexNet. Up to 2 GiB are kept instead.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2 * 2**30),
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU sees none
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # what is done is known from the store
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def prepare(address: str | None) -> None:
    """Set Ray up to be quiet, to listen on loopback alone, and to show a cluster its token.

    To be called before ``ray`` is imported. Ray starts clusters with a token where it finds one,
    and, unless told to, does not send it when it connects to one by address; a cluster without
    tokens ignores it.

    Args:
        address: of the cluster that will be used; None: this machine alone.
    """
    os.environ.update(_SETTINGS)
    if not (address or os.environ.get("RAY_ADDRESS")):
        os.environ[_LOOPBACK] = "0"
    elif (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
