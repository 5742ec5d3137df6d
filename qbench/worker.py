"""What runs in a Ray worker: one actor trains one trial after another.

torch is imported with the first trial, not with this module: Tune gives a waiting trial to the
actor that is free first, and one that takes seconds to start would never get its turn beside one
that trains for less.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from qbench.outcome import Outcome
from qbench.registry import Plugin, load_plugin
from qbench.spool import Spool
from qbench.trial import Trial

REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Desk:
    """The driver's spool, from any node of the cluster.

    Attributes:
        spool: the spool, on the driver's machine.
        node: the Ray node that the driver runs on.
        suite: the suite being run.
    """

    spool: Spool
    node: str
    suite: str

    def put(self, outcome: Outcome, weights: bytes | None) -> None:
        """Hand in an outcome; returns once it is on the driver's disk."""
        if self._here():
            self.spool.put(outcome, weights)
        else:
            ray.get(self._there(_put).remote(self.spool, outcome.model_dump_json(), weights))

    def weights(self, key: str) -> bytes:
        """The stored weights of a full-precision trial."""
        path = self.spool.weights_path(key)
        if self._here():
            return path.read_bytes()
        data: bytes = ray.get(self._there(Path.read_bytes).remote(path))
        return data

    def _here(self) -> bool:
        return str(ray.get_runtime_context().get_node_id()) == self.node

    def _there(self, function: Any) -> Any:
        where = NodeAffinitySchedulingStrategy(self.node, soft=False)
        return ray.remote(function).options(num_cpus=0, scheduling_strategy=where)


def _put(spool: Spool, outcome: str, weights: bytes | None) -> None:
    spool.put(Outcome.model_validate_json(outcome), weights)


class TrialActor(tune.Trainable):
    """Trains the trial in its config; reused for the next one, so that torch is imported once."""

    def setup(
        self, config: dict[str, Any], desk: Desk | None = None, plugins: Sequence[Plugin] = ()
    ) -> None:
        """Take the first trial; the method files are loaded when it starts."""
        assert desk is not None  # noqa: S101 - Tune passes it by keyword
        self.desk = desk
        self.plugins = list(plugins)
        self.config = config
        self.epochs: Iterator[dict[str, float]] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.config = new_config
        self.epochs = None
        return True

    def _begin(self) -> Iterator[dict[str, float]]:
        from qbench.train import Training

        while self.plugins:
            load_plugin(self.plugins.pop(0))
        trial = Trial.model_validate_json(self.config["trial"])
        weights = self.desk.weights(trial.base.key) if trial.base else None
        self.training = Training(trial, weights)
        return self.training.epochs()

    def step(self) -> dict[str, Any]:
        """Train for some seconds of epochs, or to the end, and say how far it is."""
        start = time.monotonic()
        self.epochs = self.epochs or self._begin()
        for record in self.epochs:
            if time.monotonic() - start > REPORT_SECONDS:
                return {"epoch": int(record["epoch"]), "done": False}
        outcome = self.training.outcome
        outcome.suite = self.desk.suite
        self.desk.put(outcome, self.training.weights)
        return {"epoch": len(outcome.history), "done": True}
