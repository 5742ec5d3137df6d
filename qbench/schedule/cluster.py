"""Connection to Ray: to a running cluster, or on this machine alone."""

from __future__ import annotations

import gc
import logging
import os
import socket

import ray

from qbench.errors import QbenchError
from qbench.schedule.capacity import Share


def disconnect() -> None:
    """Disconnect from Ray, and stop it if it is local to this process.

    Garbage collection is off during the shutdown: Ray ends the process if objects that Tune has
    left are collected meanwhile, in any thread.
    """
    gc.collect()
    gc.disable()
    ray.shutdown()
    gc.enable()


def connect(address: str | None) -> None:
    """Connect to a Ray cluster, or start Ray on this machine.

    Args:
        address: Address of a running cluster. None: that of ``RAY_ADDRESS``, else this machine.

    Raises:
        QbenchError: No cluster answers, or Ray does not start.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _probe(address)
    local = {} if address else {"include_dashboard": False, "num_gpus": _gpus()}
    try:
        ray.init(
            address=address or "local",
            logging_level=logging.CRITICAL,
            log_to_driver=False,
            configure_logging=False,
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start"
        reason = " ".join(str(error).split())[:400]  # five lines if the versions differ
        raise QbenchError(f"{where}: {reason}") from error


def _probe(address: str) -> None:
    """Raise QbenchError if nothing listens at an address. Ray itself would try for minutes."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise QbenchError(
            f"'{address}' is no address of a Ray cluster; write HOST:PORT, and run qbench on a node"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise QbenchError(f"no Ray cluster answers at {address}: {error}") from error


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def nodes_of_cluster() -> list[Share]:
    """Return the CPU cores and GPUs of each living node of the cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Share(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]
