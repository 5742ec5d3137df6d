"""Number of trials that fit on a machine, or on the nodes of a cluster, at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qbench.errors import QbenchError
from qbench.suite.suite import Resources

_ROUNDING = 1e-9  # ten shares of 0.1 fill a GPU


class Share(NamedTuple):
    """CPU cores and GPUs of a node, or the share of them that one process takes."""

    cpus: float
    gpus: float


def share_of_process(resources: Resources, nodes: Sequence[Share], loader_workers: float) -> Share:
    """Return what one process of a trial takes of the largest node.

    Args:
        resources: What the suite says one trial takes.
        nodes: CPU cores and GPUs of each node.
        loader_workers: Loader workers (CPU cores) of each GPU that the dataset asks for.

    Raises:
        QbenchError: The nodes cannot hold a single trial.
    """
    largest = Share(max(node.cpus for node in nodes), max(node.gpus for node in nodes))
    process = Share(*resources.process(*largest, loader_workers))
    if trials_at_once(process, resources.processes, nodes) < 1:
        each = f" for each of {resources.processes} processes" if resources.processes > 1 else ""
        raise QbenchError(
            f"a trial takes {process.cpus:g} CPUs and {process.gpus:g} GPUs{each}, and the largest "
            f"node has {largest.cpus:g} and {largest.gpus:g}; see `resources` in the suite"
        )
    return process


def trials_at_once(process: Share, processes: int, nodes: Sequence[Share]) -> int:
    """Return how many trials the nodes can hold at once.

    Args:
        process: What one process takes.
        processes: Number of processes of one trial. They may be on different nodes.
        nodes: CPU cores and GPUs of each node.
    """
    held = 0
    for node in nodes:
        pairs = [(have, takes) for have, takes in zip(node, process, strict=True) if takes]
        held += int(min((have + _ROUNDING) // takes for have, takes in pairs))
    return held // processes
