"""Access to the driver's spool from a worker, on whichever node it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from qbench.store.spool import Spool

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class DriverSpool:
    """The spool on the driver's machine, seen from a worker.

    Attributes:
        spool: The spool. Its folder is that of the driver's machine.
        node: Id of the Ray node that the driver runs on.
    """

    spool: Spool
    node: str

    def call(
        self, function: Callable[Concatenate[Spool, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a function with the spool, on the driver's machine.

        A worker on the driver's node calls it directly. A worker on another node calls it in a task
        that Ray pins to the driver's node.

        Args:
            function: Function whose first argument is the spool, such as a method of `Spool`.
            args: Its further arguments.
            kwargs: Its keyword arguments.

        Returns:
            What the function returns, once it has returned.
        """
        if str(ray.get_runtime_context().get_node_id()) == self.node:
            return function(self.spool, *args, **kwargs)
        there = NodeAffinitySchedulingStrategy(self.node, soft=False)
        task = ray.remote(function).options(num_cpus=0, scheduling_strategy=there)
        answer: T = ray.get(task.remote(self.spool, *args, **kwargs))
        return answer


@dataclass(frozen=True)
class SpoolCheckpoints:
    """Checkpoints of one trial in the driver's spool.

    Implements `qbench.train.checkpoint.Checkpoints`.

    Attributes:
        driver: The driver's spool.
        key: Key of the trial of full length (`qbench.spec.trial.Trial.whole`).
    """

    driver: DriverSpool
    key: str

    def load(self) -> bytes | None:
        """Return the last checkpoint, or None."""
        return self.driver.call(Spool.checkpoint, self.key)

    def save(self, data: bytes) -> None:
        """Replace the last checkpoint, and block until it is on the driver's disk."""
        self.driver.call(Spool.keep_checkpoint, self.key, data)
