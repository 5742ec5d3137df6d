"""The store records each trial as an MLflow run, looks runs up and fetches their artifacts.

A run counts once its status is FINISHED or FAILED. The status is written last, so an incomplete run
is never listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from qbench.errors import QbenchError
from qbench.spec.bits import BitWidths
from qbench.spec.result import ImageDetections, LevelCount, Levels, Result, most_levels
from qbench.spec.trial import Trial
from qbench.store import artifacts, lock, recording, sqlite
from qbench.store.connection import Connection
from qbench.store.recording import (
    AUDIT_FILE,
    ENVIRONMENT_FILE,
    EXAMPLES_FILE,
    HISTORY_FILE,
    PREDICTIONS_FILE,
    TRIAL_FILE,
    UNREADABLE_FILE,
)
from qbench.store.run import Run
from qbench.store.tags import (
    CLIPPED,
    FINAL,
    KEY,
    LEVELS,
    PLACED,
    PREDICTIONS,
    REASON,
    SET_ASIDE,
    TRIAL,
    before_reestimation,
    code_of,
    coverage_of,
)


class Store:
    """Store of trials in MLflow.

    Args:
        results: Results folder, which holds the default store.
        local: If True, use the default store and ignore ``MLFLOW_TRACKING_URI``.

    Raises:
        QbenchError: The store cannot be opened. A database raises it on the first read or write.
    """

    def __init__(self, results: Path, local: bool = False) -> None:
        self._connection = Connection(results, local)
        self._lent: dict[str, tuple[Run, Result, str]] = {}  # by the id of the run

    def lend(self, results: Iterable[tuple[str, Result]]) -> None:
        """Serve results of files to whoever reads the store. Nothing is recorded.

        A trial of which the store has a run, also one that was set aside, is read from that run.

        Args:
            results: Results, each with the place that it was read from.
        """
        for place, result in results:
            run = recording.as_run(result)
            self._lent[run.run_id] = run, result, place

    def is_lent(self, run: Run) -> bool:
        """Return whether a run was not recorded but lent; see `lend`."""
        return run.run_id in self._lent

    @property
    def address(self) -> str:
        """Address of the store for messages: the file of a database, or a URI without password."""
        return self._connection.address

    def link_of(self, run: Run) -> str:
        """Return where a browser shows a run, to end a sentence with; '' for a run that is lent.

        Args:
            run: Run of a trial.

        Raises:
            QbenchError: The store cannot be read.
        """
        if self.is_lent(run):
            return ""
        return self._connection.link_of(run.experiment_id, run.run_id)

    def link(self, suite: str) -> str:
        """Return where a browser shows the runs of a suite, to end a sentence with.

        Args:
            suite: Name of the suite, of which there are results.

        Raises:
            QbenchError: The store cannot be read.
        """
        with self._connection.reporting("cannot read the store"):
            return self._connection.link(suite)

    def check(self, suite: str, trials: Sequence[Trial]) -> None:
        """Check that results can be recorded; see `qbench.store.recording.check`."""
        recording.check(self._connection, suite, trials)

    def record(self, result: Result, folder: Path | None) -> None:
        """Record a result; see `qbench.store.recording.record`."""
        recording.record(self._connection, result, folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context manager that allows one machine at a time to work on this store.

        It blocks until the commands of other machines have ended. A store in a results folder has
        a lock file instead.

        Raises:
            QbenchError: The store cannot be reached.
        """
        if self._connection.is_default:  # a results folder has a lock file
            yield
            return
        client = self._connection.open()
        with ExitStack() as stack:
            with self._connection.reporting("cannot write to"):
                experiment = self._connection.experiment(lock.EXPERIMENT)
                stack.enter_context(lock.alone(client, experiment, self.address))
            yield

    def runs(self, keys: Iterable[str]) -> dict[str, Run]:
        """Return the run that counts for each key.

        It is the first run that finished, or the last that failed if none finished. Runs that were
        set aside do not count.

        Args:
            keys: Keys of trials.

        Returns:
            Runs by key. Keys of trials that have not ended are absent.

        Raises:
            QbenchError: The store cannot be read.
        """
        wanted = set(keys)
        return {key: run for key, run in self._best().items() if key in wanted}

    def _best(self) -> dict[str, Run]:
        """Return the run that counts for each key, as `runs` describes it."""
        best: dict[str, Run] = {}
        ended = self._ended()
        for run in ended:
            if run.status == "FAILED":
                best[run.tags[KEY]] = run
        for run in reversed(ended):
            if run.status == "FINISHED":
                best[run.tags[KEY]] = run
        return best

    def finished(self) -> list[Run]:
        """Return the first finished run of each trial, in the order in which they started.

        Runs that were set aside do not count.

        Raises:
            QbenchError: The store cannot be read.
        """
        first: dict[str, Run] = {}
        for run in self._ended():
            if run.status == "FINISHED":
                first.setdefault(run.tags[KEY], run)
        return list(first.values())

    def set_aside(self, runs: Iterable[Run]) -> None:
        """Mark runs so that they no longer count and their trials are trained again.

        The runs stay in the store.

        Args:
            runs: Runs to set aside.

        Raises:
            QbenchError: MLflow refuses.
        """
        with self._connection.reporting("cannot write to"):
            for run in runs:
                self._connection.client.set_tag(run.run_id, SET_ASIDE, "trained again")

    def find(self, prefix: str) -> dict[str, Run]:
        """Return the runs that count whose key starts with a prefix.

        Args:
            prefix: Start of a key.

        Returns:
            Runs by key, chosen as by `runs`.

        Raises:
            QbenchError: The store cannot be read.
        """
        return {key: run for key, run in self._best().items() if key.startswith(prefix)}

    def histories(self, runs: dict[str, Run], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the metrics of finished runs by epoch.

        Args:
            runs: Finished runs by key.
            metrics: Names of the metrics.

        Returns:
            A row for each key and epoch, with the columns ``key``, ``epoch`` and ``metrics``.

        Raises:
            QbenchError: The store cannot be read.
        """
        records = [
            {"key": key, **record}
            for key, run in runs.items()
            for record in self._history(run, metrics)
        ]
        return pd.DataFrame(records, columns=["key", "epoch", *metrics])

    def _history(self, run: Run, metrics: Sequence[str]) -> Iterable[dict[str, float]]:
        """Return the metrics of each epoch, from a local file if there is one: that is faster."""
        if self.is_lent(run):
            return list(self.read(run, HISTORY_FILE))
        if (file := artifacts.on_this_machine(self._connection, run, HISTORY_FILE)) is not None:
            history: list[dict[str, float]] = _parsed(run, HISTORY_FILE, artifacts.content(file))
            return history
        rows: dict[int, dict[str, float]] = {}
        with self._connection.reporting("cannot read the store"):
            for metric in metrics:
                for point in self._connection.client.get_metric_history(run.run_id, metric):
                    rows.setdefault(point.step, {"epoch": point.step})[metric] = point.value
        return rows.values()

    @staticmethod
    def metrics(run: Run) -> dict[str, float]:
        """Return the metrics of a finished run after the last epoch, by name."""
        return {
            name.removeprefix(FINAL): value
            for name, value in run.metrics.items()
            if name.startswith(FINAL)
        }

    def trial(self, run: Run) -> Trial:
        """Return the trial that a run recorded.

        A trial that is too long for a tag is read from ``trial.json``.

        Args:
            run: Run of a trial.

        Raises:
            QbenchError: The artifact cannot be fetched, or it was changed by hand.
        """
        tag = run.tags[TRIAL]
        if tag:
            return Trial.model_validate_json(tag)
        trial = Trial.model_validate(self.read(run, TRIAL_FILE))
        if trial.key != run.tags[KEY]:
            raise QbenchError(f"{TRIAL_FILE} of run {run.run_id} was changed by hand")
        return trial

    def result(self, run: Run) -> Result:
        """Return the result that a run recorded, without weights.

        Args:
            run: Run of a trial that has ended.

        Raises:
            QbenchError: The store cannot be read, or an artifact of the run cannot be fetched.
        """
        if self.is_lent(run):
            return self._lent[run.run_id][1]
        tags = run.tags
        return Result(
            trial=self.trial(run),
            suite=self._connection.experiment_name(run.experiment_id),
            status="done" if run.status == "FINISHED" else "failed",
            reason=tags[REASON],
            metrics=dict(sorted(self.metrics(run).items())),
            history=self.read(run, HISTORY_FILE),
            audit=self.read(run, AUDIT_FILE),
            started=run.start_time / 1000,
            seconds=run.metrics["seconds"],
            train_seconds=run.metrics["train_seconds"],
            environment=self.read(run, ENVIRONMENT_FILE),
            code=code_of(run),
            unreadable=self.read(run, UNREADABLE_FILE),
            clipped=tags.get(CLIPPED, ""),
            coverage=coverage_of(tags),
            predictions=self.read(run, PREDICTIONS_FILE) if PREDICTIONS in tags else None,
            placed=tags.get(PLACED, ""),
            before_reestimation=before_reestimation(tags),
        )

    def levels(self, run: Run) -> Levels:
        """Return the largest level counts in the audit of a finished run.

        Older runs have no tag for them. Their levels are read from ``audit.json``.

        Returns:
            Level counts of weights and activations, as `Result.levels`. (None, None) if neither
            the tag nor the artifact exists.
        """
        if (tag := run.tags.get(LEVELS)) is not None:
            weights, inputs = json.loads(tag)
            return weights, inputs
        try:
            counts = [LevelCount.model_validate(count) for count in self.read(run, AUDIT_FILE)]
        except QbenchError:
            return None, None
        return most_levels(counts, BitWidths.parse(self.trial(run).bits))

    def read(self, run: Run, artifact: str) -> Any:
        """Return the parsed content of a JSON artifact.

        Args:
            run: Run that has the artifact.
            artifact: Name of the artifact.

        Raises:
            QbenchError: The run has no such artifact, or it cannot be fetched.
        """
        return _parsed(run, artifact, self.text(run, artifact))

    def text(self, run: Run, artifact: str) -> str:
        """Return the text of an artifact; see `qbench.store.artifacts.text`."""
        if not self.is_lent(run):
            return artifacts.text(self._connection, run, artifact)
        _, result, place = self._lent[run.run_id]
        texts = recording.artifact_texts(result)
        if artifact not in texts:
            raise QbenchError(f"{place}: has no {artifact}")
        return texts[artifact]

    def examples(self, run: Run) -> list[ImageDetections]:
        """Return the detections of a run in the first test images.

        Returns:
            Detections of each image. Empty if the run trained no detector, or was imported.

        Raises:
            QbenchError: The detections cannot be fetched.
        """
        if self.is_lent(run) or not artifacts.exists(self._connection, run, EXAMPLES_FILE):
            return []
        return TypeAdapter(list[ImageDetections]).validate_json(self.text(run, EXAMPLES_FILE))

    def place(self, run: Run) -> str:
        """Return where a run is: folder or address of its artifacts, or the file of a lent one."""
        if self.is_lent(run):
            return self._lent[run.run_id][2]
        local = artifacts.on_this_machine(self._connection, run, TRIAL_FILE)
        address = run.artifact_uri
        return str(local.parent) if local else self._connection.without_password(address)

    def fetch(self, run: Run, artifact: str, target: Path) -> Path:
        """Copy an artifact of a run to a folder; see `qbench.store.artifacts.fetch`."""
        return artifacts.fetch(self._connection, run, artifact, target)

    def _ended(self) -> list[Run]:
        """Return the runs that have ended and count, in the order in which they started."""
        found: Iterable[Run] | None = None
        database = self._connection.database
        if database is not None:
            found = sqlite.ended_runs(database, KEY) if database.exists() else []
        if found is None:
            found = self._connection.search("attributes.status != 'RUNNING'")
        recorded = list(found)
        known = {run.tags[KEY] for run in recorded}
        lent = [run for run, *_ in self._lent.values() if run.tags[KEY] not in known]
        states = ("FINISHED", "FAILED")
        return [
            run for run in (*recorded, *lent) if run.status in states and SET_ASIDE not in run.tags
        ]


def _parsed(run: Run, artifact: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise QbenchError(f"{artifact} of run {run.run_id} is damaged: {error}") from error
