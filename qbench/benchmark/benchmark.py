"""A suite from end to end: what is done, what is to do, and running it."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from qbench import registry
from qbench.benchmark import exported, stale, starting_weights, tuning
from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.files import resolved
from qbench.plugins import Plugin, load_plugin
from qbench.report.trial_rows import TrialRows
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.spec.words import counted
from qbench.store.mlflow import Store
from qbench.store.spool import Spool
from qbench.store.tags import REASON
from qbench.suite.grid import PlannedTrial, expand
from qbench.suite.rehearsal import rehearsed
from qbench.suite.suite import Suite, load_suite
from qbench.suite.tuned import TunedGrid

if TYPE_CHECKING:
    from qbench.schedule.progress import ProgressListener, Summary
    from qbench.store.run import Run

Status = Literal["done", "failed", "missing", "unsupported"]

_REHEARSAL_FOLDER = "rehearsal"
_LOGGER = logging.getLogger(__name__)


@dataclass
class Benchmark:
    """A suite, its trials, and what the store knows of them.

    Made by `open` or `rehearse`.

    Attributes:
        suite: The suite.
        planned: Trials of the suite, in its order.
        plugins: Python files given with it.
        results: The results folder.
        dataset: Dataset of the suite. Its data may be missing.
        store: The store.
        rows: Makes the rows of `trials`.
        rehearsal: Whether its trials only try out what real ones would do.
        tuned: Both stages of the trials of a suite with ``recipe: tuned``. Otherwise None.
        runs: The MLflow run that counts for each trial that has ended, by the trial's key.
        unrecorded: Why results that wait in the spool could not be recorded, or an empty string.
        notes: What to tell of the files of results that were read.
    """

    suite: Suite
    planned: list[PlannedTrial]
    plugins: Sequence[Plugin]
    results: Path
    dataset: Dataset
    store: Store
    rows: TrialRows
    rehearsal: bool = False
    tuned: TunedGrid | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    unrecorded: str = ""
    notes: list[str] = field(default_factory=list)
    _stale: dict[str, str] | None = field(default=None, init=False, repr=False)

    @classmethod
    def open(
        cls,
        path: Path,
        results: Path,
        assignments: Sequence[str] = (),
        plugins: Sequence[Plugin] = (),
    ) -> Benchmark:
        """Read a suite and look its trials up in the store.

        Results that a killed run left in the spool are recorded first.

        Args:
            path: File of the suite, or the name of an installed suite.
            results: The results folder.
            assignments: Overrides of the suite's values, each as ``key=value``.
            plugins: Python files of methods, models and datasets. Methods are added to the suite.

        Returns:
            The benchmark.

        Raises:
            QbenchError: The suite or a file has mistakes, the suite names published numbers
                that do not exist, or the store cannot be opened.
        """
        suite = _read(path, assignments, plugins)
        return cls._opened(suite, plugins, results, rehearsal=False)

    @classmethod
    def rehearse(
        cls,
        path: Path,
        results: Path,
        assignments: Sequence[str] = (),
        plugins: Sequence[Plugin] = (),
    ) -> Benchmark:
        """Read a suite for a rehearsal: its whole grid, a few steps each, on a stand-in's data.

        Everything is written to the folder ``rehearsal`` of the results folder. It has a store of
        its own, so that no rehearsal is ever taken for a result.

        Args:
            path: File of the suite, or the name of an installed suite.
            results: The results folder.
            assignments: Overrides of the suite's values, each as ``key=value``.
            plugins: Python files of methods, models and datasets. Methods are added to the suite.

        Returns:
            The benchmark of the rehearsal.

        Raises:
            QbenchError: As in `open`.
        """
        suite = _read(path, assignments, plugins)
        folder = resolved(results) / _REHEARSAL_FOLDER
        return cls._opened(rehearsed(suite, folder / "data"), plugins, folder, rehearsal=True)

    @classmethod
    def _opened(
        cls, suite: Suite, plugins: Sequence[Plugin], results: Path, rehearsal: bool
    ) -> Benchmark:
        results = resolved(results)
        store = Store(results, local=rehearsal)
        tuned = TunedGrid(suite, rehearsal) if suite.is_tuned else None
        dataset = registry.build_dataset(suite.dataset, suite.data)
        if tuned is None:
            planned = expand(suite, rehearsal)
        else:
            planned = tuning.planned(tuned, {}, dataset.shown[0])
        # Mistakes in published numbers surface here, and not after days of training.
        rows = TrialRows(suite, dataset, results, store)
        benchmark = cls(suite, planned, plugins, results, dataset, store, rows, rehearsal, tuned)
        benchmark._record_waiting()
        benchmark.refresh()
        return benchmark

    @property
    def spool(self) -> Spool:
        """Folder in which workers leave what they finish."""
        return Spool(self.results / ".state")

    @functools.cached_property
    def folder(self) -> Path:
        """Folder of the suite's tables and figures.

        It is a new temporary folder if the results folder may only be read.
        """
        folder = self.results / self.suite.name
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if os.access(existing, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            return folder
        return Path(tempfile.mkdtemp(prefix="qbench-")) / self.suite.name

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context manager that keeps all other commands from writing results meanwhile.

        It waits until no other command writes to the results folder or to the store, then looks the
        trials up again.

        Raises:
            QbenchError: The store cannot be reached.
        """
        with ExitStack() as locks:
            if not locks.enter_context(self.spool.lock(wait=False)):
                _LOGGER.info(
                    "Another run is writing to %s; this one waits until it has ended.", self.results
                )
                locks.enter_context(self.spool.lock(wait=True))
            locks.enter_context(self.store.alone())
            self.refresh()
            yield

    # What is done ----------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """The file of results that the repository of a suite has, which need not exist."""
        return self.results / self.suite.name / exported.FILE

    def read_file(self) -> None:
        """Read the trials that the store lacks from `file`, if it exists. Nothing is recorded."""
        if not self.waiting_in_file():
            return
        content = exported.read([self.file])
        before = len(self.runs)
        self.store.lend(content.good)
        self.refresh()
        if lent := len(self.runs) - before:
            self.notes.append(f"{counted(lent, 'trial')} read from {self.file}; not in the store.")
        self.notes += [f"Not read: {refusal}" for refusal in content.refused]

    def waiting_in_file(self) -> int:
        """Return the number of trials that `file` lists and the store lacks."""
        listed = exported.keys_in(self.file) if self.file.exists() else {}
        return sum(p.trial.key in listed and p.trial.key not in self.runs for p in self.planned)

    def refresh(self) -> None:
        """Look the trials up in the store again, and plan those that follow from results.

        Raises:
            QbenchError: The store cannot be read.
        """
        looked_up = set[str]()
        while (keys := {planned.trial.key for planned in self.planned}) != looked_up:
            looked_up = keys
            self.runs = self.store.runs(keys)
            if self.tuned is not None:  # what is planned may have ended already
                self.planned = tuning.planned(self.tuned, self.runs, self.dataset.shown[0])
        # A result counts where it could not be trained again, as without the library of its method.
        done = {key for key, run in self.runs.items() if run.status == "FINISHED"}
        self.planned = [
            replace(each, unsupported="") if each.trial.key in done else each
            for each in self.planned
        ]
        self._stale = None

    def part(self, planned: Sequence[PlannedTrial]) -> Benchmark:
        """Return a benchmark of some of the trials, and of those that they need.

        Args:
            planned: Trials of this benchmark.
        """
        keys = {each.trial.key for each in planned}
        keys |= {key for each in planned for key in each.trial.sources}
        chosen = [each for each in self.planned if each.trial.key in keys]
        return replace(self, planned=chosen, tuned=None)

    def status(self, planned: PlannedTrial) -> Status:
        """Return whether a trial is done, failed, missing (not run yet) or unsupported.

        Args:
            planned: A trial of the suite.
        """
        if planned.unsupported:
            return "unsupported"
        run = self.runs.get(planned.trial.key)
        if run is None:
            return "missing"
        return "done" if run.status == "FINISHED" else "failed"

    def reason(self, planned: PlannedTrial) -> str:
        """Return why a trial failed or is unsupported, or an empty string.

        Args:
            planned: A trial of the suite.
        """
        run = self.runs.get(planned.trial.key)
        recorded = run.tags.get(REASON, "") if run is not None else ""
        return planned.unsupported or recorded

    @property
    def stale(self) -> Mapping[str, str]:
        """Why trials are stale, by key; see `qbench.benchmark.stale`."""
        if self._stale is None:
            self._stale = stale.reasons(self.planned, self.runs)
        return self._stale

    def trials(self) -> pd.DataFrame:
        """Return one row for each trial of the suite, in its order. Tables are made from it.

        Returns:
            A frame with the columns of `qbench.report.columns.TRIAL_COLUMNS` that belong to the
            dataset's task.
        """
        return pd.DataFrame(
            self.rows.row(
                planned,
                status=self.status(planned),
                reason=self.reason(planned),
                stale=self.stale.get(planned.trial.key, ""),
                run=self.runs.get(planned.trial.key),
            )
            for planned in self.planned
        )

    # What is to do ---------------------------------------------------------------------------

    def to_do(self) -> list[PlannedTrial]:
        """Return the trials that a run would train: those that are missing and those that failed.

        A full-precision trial whose result was imported is among them if a trial needs its
        weights, since weights are not imported.
        """
        waiting = [p for p in self.planned if self.status(p) in ("missing", "failed")]
        needed = {key for planned in waiting for key in planned.trial.sources}
        again = starting_weights.elsewhere(needed, self.runs, self.spool)
        wanted = {planned.trial.key for planned in waiting} | again
        return [planned for planned in self.planned if planned.trial.key in wanted]

    def awaited(self) -> list[PlannedTrial]:
        """Return trials like those of a tuned suite that will follow from results to come."""
        if self.tuned is None:
            return []
        return tuning.awaited(self.tuned, self.runs, self.dataset.shown[0])

    def discard_checkpoints(self) -> None:
        """Delete the checkpoints that configurations of studies would have gone on from."""
        if self.tuned is not None:
            for trial in tuning.stopped(self.tuned, self.runs, self.dataset.shown[0]):
                self.spool.discard_checkpoint(trial.whole.key)

    def missing(self) -> list[str]:
        """Return which data and weights a run needs and does not have, a sentence for each.

        Weights that cannot be read, or that do not fit their model, are among them.
        """
        data = self.dataset.missing()
        trials = [planned.trial for planned in self.to_do()]
        weights = starting_weights.problems(trials, self.suite, self.dataset, self.spool)
        return [*([data] if data else []), *weights.values()]

    def run(self, listener: ProgressListener, address: str | None = None) -> Summary:
        """Train what is to do and record each result in the store.

        Call it within `alone`: only one run at a time may write to a results folder.

        Args:
            listener: Called whenever a trial starts, makes progress, is retried or ends.
            address: Address of a running Ray cluster. Default: this machine alone.

        Returns:
            How the run ended.

        Raises:
            QbenchError: Data are missing, results cannot be recorded, Ray cannot be reached, or no
                node can hold a trial.
        """
        from qbench.schedule import ray_environment
        from qbench.schedule.progress import Summary

        if reason := self.dataset.missing():
            raise QbenchError(reason)
        trials = [planned.trial for planned in self.to_do()]
        failed = starting_weights.bring_given(trials, self.suite, self.dataset, self.spool)
        without = [trial for trial in trials if trial.weights and trial.model in failed]
        for trial in without:
            self._fail(trial, failed[trial.model], listener)
        trials = [t for t in trials if not (t.weights and t.model in failed)]
        if not trials:
            self.refresh()
            return Summary(ended=len(without))

        ray_environment.prepare(address)  # before Ray is imported
        from qbench.schedule import tune

        needed = {key for trial in trials for key in trial.sources}
        starting_weights.fetch_trained(needed, self.runs, self.store, self.spool)
        summary = tune.run(
            self.suite.name,
            trials,
            self.spool,
            lambda: self.store.check(self.suite.name, trials),
            self.record,
            listener,
            self.suite.resources,
            address,
            self.plugins,
            self.suite.data,
            self.dataset.loader_workers,
        )
        summary.ended += len(without)
        try:
            self.refresh()
        except QbenchError as error:
            summary.unrecorded = summary.unrecorded or str(error)
        return summary

    def _fail(self, trial: Trial, reason: str, listener: ProgressListener) -> None:
        """Record that a trial cannot be trained."""
        result = Result(
            trial=trial, suite=self.suite.name, status="failed", reason=reason, started=time.time()
        )
        self.store.record(result, None)
        listener.ended(result)

    def record(self, result: Result) -> None:
        """Move a result from the spool to the store.

        Args:
            result: The result.

        Raises:
            QbenchError: The store refuses the result, which stays in the spool.
        """
        key = result.trial.key
        self.store.record(result, self.spool.folder(key))
        self.spool.discard(key)

    def _record_waiting(self) -> None:
        """Record all results in the spool. Those that the store refuses stay there."""
        with ExitStack() as locks:
            try:
                alone = locks.enter_context(self.spool.lock(wait=False))
            except OSError:  # a results folder that may only be read
                return
            if not alone:  # a run is under way, and records its own results
                return
            for result in self.spool.waiting():
                try:
                    self.record(result)
                except QbenchError as error:
                    self.unrecorded = str(error)


def _read(path: Path, assignments: Sequence[str], plugins: Sequence[Plugin]) -> Suite:
    """Load Python files, then read a suite and add the methods of the files to it."""
    loaded = [(plugin.kind, load_plugin(plugin)) for plugin in plugins]
    added = [name for kind, names in loaded if kind == "methods" for name in names]
    return load_suite(path, assignments, added)
