"""A suite from end to end: what is done, what is to do, do it, and the frame for its tables."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from qbench import registry
from qbench.data import Dataset
from qbench.errors import QbenchError, nearest
from qbench.registry import Plugin, load_plugin
from qbench.report.trial_rows import TrialRows
from qbench.spec.bits import FULL_PRECISION, Bits
from qbench.spec.result import Outcome
from qbench.spec.trial import given_weights_key
from qbench.store.mlflow import EDITED, Store, code_of, was_changed, was_imported
from qbench.store.spool import Spool
from qbench.suite.grid import Cell, expand
from qbench.suite.rehearsal import rehearsed
from qbench.suite.suite import Suite, load_suite
from qbench.train import fingerprint, weights

if TYPE_CHECKING:
    from mlflow.entities import Run

    from qbench.schedule.tune import Observer, Summary

Status = Literal["done", "failed", "missing", "unsupported"]
REHEARSAL = "rehearsal"
STALE = "stale"


@dataclass
class Benchmark:
    """A suite, and what the store knows of it.

    Attributes:
        suite: the suite.
        cells: its trials.
        plugins: the method files given with it.
        results: the results folder.
        store: the store.
        runs: the run that counts for each trial that has ended, by key.
        rehearsal: whether its trials only try out what real ones would do.
        unrecorded: why outcomes that wait in the spool could not be recorded, or ''.
    """

    suite: Suite
    cells: list[Cell]
    plugins: list[Plugin]
    results: Path
    store: Store
    runs: dict[str, Run]
    rehearsal: bool = False
    unrecorded: str = ""
    # Why those of `runs` that are stale are so, as far as it has been asked.
    _stale: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def open(
        cls,
        path: Path,
        results: Path,
        assignments: Sequence[str] = (),
        method_files: Sequence[Path] = (),
    ) -> Benchmark:
        """Read a suite and look its trials up in the store.

        Outcomes that a killed run left in the spool are recorded first.

        Args:
            path: the suite's file.
            results: the results folder.
            assignments: ``key=value`` overrides.
            method_files: Python files whose methods are added to the suite.

        Raises:
            QbenchError: the suite or a method file has mistakes, the published numbers that it
                names are not there, or the store cannot be opened.
        """
        suite, plugins = _read(path, assignments, method_files)
        return cls._opened(suite, plugins, results, rehearsal=False)

    @classmethod
    def rehearse(
        cls,
        path: Path,
        results: Path,
        assignments: Sequence[str] = (),
        method_files: Sequence[Path] = (),
    ) -> Benchmark:
        """Read a suite for a rehearsal: its whole grid, a few steps each, on a stand-in's data.

        Everything is written to the folder ``rehearsal`` of the results, which has a store of its
        own, so that no rehearsal is ever taken for a result.

        Args:
            path: the suite's file.
            results: the results folder.
            assignments: ``key=value`` overrides.
            method_files: Python files whose methods are added to the suite.

        Raises:
            QbenchError: as `open`.
        """
        suite, plugins = _read(path, assignments, method_files)
        folder = results / REHEARSAL
        return cls._opened(rehearsed(suite, folder / "data"), plugins, folder, rehearsal=True)

    @classmethod
    def _opened(
        cls, suite: Suite, plugins: list[Plugin], results: Path, rehearsal: bool
    ) -> Benchmark:
        store = Store(results, local=rehearsal)
        found = cls(suite, expand(suite, rehearsal), plugins, results, store, {}, rehearsal)
        _ = found._rows  # a mistake there is told now, not after days of training
        with found.spool.lock(wait=False) as alone:
            if alone:  # else a run is under way, and records its own
                found._record_waiting()
        found.refresh()
        return found

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The suite's dataset; its data may be missing."""
        return registry.build_dataset(self.suite.dataset, self.suite.data)

    def missing(self) -> list[str]:
        """What of data and weights a run needs and has not, a sentence each."""
        found = [self.dataset.missing()]
        found += [weights.missing(*item) for item in self._weights_wanted()]
        return [text for text in found if text]

    def _weights_wanted(self) -> list[tuple[str, str]]:
        """Models whose weights are given and not yet kept, and what was chosen for each."""
        wanted = []
        for model, choice in self.suite.weights.items():
            key = given_weights_key(model, weights.identify(model, choice))
            if model in self.suite.models and not self.spool.weights_path(key).exists():
                wanted.append((model, choice))
        return wanted

    @property
    def spool(self) -> Spool:
        """Where workers leave what they finish."""
        return Spool(self.results / ".state")

    @property
    def folder(self) -> Path:
        """Where the suite's tables and figures go."""
        return self.results / self.suite.name

    def refresh(self) -> None:
        """Look the trials up again."""
        self.runs = self.store.runs(cell.trial.key for cell in self.cells)
        self._stale = {}

    def status(self, cell: Cell) -> Status:
        """Whether a trial is done, failed, missing (not run yet) or cannot be run."""
        if cell.unsupported:
            return "unsupported"
        run = self.runs.get(cell.trial.key)
        if run is None:
            return "missing"
        return "done" if run.info.status == "FINISHED" else "failed"

    def reason(self, cell: Cell) -> str:
        """Why a trial failed or cannot be run; '' of any other."""
        run = self.runs.get(cell.trial.key)
        recorded = run.data.tags.get("qbench.reason", "") if run is not None else ""
        return cell.unsupported or recorded

    def to_do(self) -> list[Cell]:
        """The trials that a run would train: those missing, and those that failed.

        Also full-precision ones that were imported, where a trial is to start from their weights.
        """
        waiting = {c.trial.key: c for c in self.cells if self.status(c) in ("missing", "failed")}
        bases = {cell.trial.base.key for cell in waiting.values() if cell.trial.base}
        again = {key for key in bases if self._lacks_weights(key)}
        wanted = waiting.keys() | again
        return [cell for cell in self.cells if cell.trial.key in wanted]

    def _lacks_weights(self, key: str) -> bool:
        """Whether a trial is known from elsewhere, and its weights are not here."""
        run = self.runs.get(key)
        imported = run is not None and was_imported(run)
        return imported and not self.spool.weights_path(key).exists()

    def record(self, outcome: Outcome) -> None:
        """Move an outcome from the spool to the store.

        Raises:
            QbenchError: the store refuses it; it stays in the spool.
        """
        key = outcome.trial.key
        self.store.record(outcome, self.spool.folder(key))
        self.spool.discard(key)

    def _record_waiting(self) -> None:
        """Record what waits; what the store refuses waits on, and stops nothing else."""
        for outcome in self.spool.waiting():
            try:
                self.record(outcome)
            except QbenchError as error:
                self.unrecorded = str(error)

    def run(self, observer: Observer, address: str | None = None) -> Summary:
        """Train what is to do.

        One run at a time works in a results folder: the caller holds ``spool.lock``.

        Args:
            observer: is told what happens.
            address: of a running Ray cluster.

        Raises:
            QbenchError: data or weights are missing or do not fit, Ray cannot be reached, or no
                node can hold a trial.
        """
        from qbench.schedule import ray_environment

        if reason := self.dataset.missing():
            raise QbenchError(reason)
        self._bring_given_weights()

        ray_environment.prepare(address)
        from qbench.schedule import tune

        trials = [cell.trial for cell in self.to_do()]
        self._fetch_weights({trial.base.key for trial in trials if trial.base})
        summary = tune.run(
            self.suite.name,
            trials,
            self.spool,
            self.record,
            observer,
            self.suite.resources,
            address,
            self.plugins,
            self.suite.data,
            self.dataset.feeding,
        )
        try:
            self.refresh()
        except QbenchError as error:
            summary.unrecorded = summary.unrecorded or str(error)
        return summary

    def _fetch_weights(self, keys: set[str]) -> None:
        """Bring the weights of finished full-precision trials into the spool."""
        for key in keys & self.runs.keys():
            if self.runs[key].info.status == "FINISHED" and not self._lacks_weights(key):
                if self.spool.weights_path(key).exists():
                    continue
                scratch = self.spool.root / "fetched" / key
                scratch.mkdir(parents=True, exist_ok=True)
                fetched = self.store.fetch(self.runs[key], "weights.pt", scratch)
                self.spool.keep_weights(key, fetched)
                fetched.unlink()

    def _bring_given_weights(self) -> None:
        """Bring weights that are not trained here into the spool."""
        for model, choice in self._weights_wanted():
            identity = weights.identify(model, choice)
            if "missing:" in identity:
                raise QbenchError(weights.missing(model, choice))
            dataset = self.dataset
            network = registry.build_model(model, dataset.num_classes, dataset.image_shape[0])
            data = weights.fetch(model, choice, network)
            scratch = self.spool.root / "fetched" / given_weights_key(model, identity)
            scratch.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(data)
            self.spool.keep_weights(scratch.name, scratch)
            scratch.unlink()

    def trials(self) -> pd.DataFrame:
        """One row for each trial of the suite, in its order: what tables are made from.

        Columns are the task's of `qbench.report.columns.TRIAL_COLUMNS`.
        """
        return pd.DataFrame(
            self._rows.row(
                cell,
                status=self.status(cell),
                reason=self.reason(cell),
                stale=self.stale(cell),
                run=self.runs.get(cell.trial.key),
            )
            for cell in self.cells
        )

    @functools.cached_property
    def _rows(self) -> TrialRows:
        return TrialRows(self.suite, self.dataset, self.results, self.store)

    def write_leaderboard(self, html: bool = False) -> list[Path]:
        """Rebuild the suite's tables and figures from the store.

        Args:
            html: whether to write the page ``leaderboard.html`` too.

        Returns:
            The files written, in `folder`.
        """
        from qbench.report.tables import files
        from qbench.report.tables.layout import Layout

        finished = {key: run for key, run in self.runs.items() if run.info.status == "FINISHED"}
        layout = Layout(
            name=self.suite.name,
            title=self.suite.title or self.suite.name,
            bits=[str(Bits.parse(text)) for text in self.suite.bits],
            shown=self.dataset.shown,
            rehearsal=self.rehearsal,
            tables=self.suite.tables,
        )
        histories = self.store.histories(finished, history_of(self.dataset.shown[0]))
        examples = self._draw_examples()
        trials = self.trials()
        written = files.write(layout, trials, histories, self.folder, examples)
        if html:
            from qbench.report.page import page
            from qbench.store.evidence import evidence_of

            evidence = {key: evidence_of(self.store, run) for key, run in self.runs.items()}
            written.append(page.write(layout, trials, histories, evidence, written, self.folder))
        return written

    def _draw_examples(self) -> list[Path]:
        """Draw what detectors find in a few test images: full precision, and each method.

        A picture for each model and width, of the first seed. Nothing where the data are not here,
        nor of rehearsals.
        """
        dataset = self.dataset
        if dataset.task != "detection" or self.rehearsal or dataset.missing():
            return []
        from qbench.report.figures.detections import detections
        from qbench.tasks.detection import EXAMPLES

        first = [cell for cell in self.cells if cell.trial.seed == self.suite.seeds[0]]
        done = [cell for cell in first if self.status(cell) == "done"]
        found = {cell.trial.key: self.store.examples(self.runs[cell.trial.key]) for cell in done}
        if not any(found.values()):
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        images, targets = dataset.first(EXAMPLES)
        drawn: list[Path] = []
        for model in self.suite.models:
            for bits in [str(Bits.parse(text)) for text in self.suite.bits]:
                beside = {
                    cell.label: found[cell.trial.key]
                    for cell in done
                    if cell.trial.model == model and cell.trial.bits in (str(FULL_PRECISION), bits)
                }
                if len(beside) > 1:
                    stem = f"detections_{model}_{'-'.join(re.findall(r'[0-9]+', bits))}"
                    drawn += detections(images, targets, beside, dataset.classes, self.folder, stem)
        return drawn

    def stale(self, cell: Cell) -> str:
        """Why a finished trial's number is not to be trusted any more, or ''."""
        key = cell.trial.key
        if key not in self._stale:
            self._stale[key] = self._doubt(cell)
        return self._stale[key]

    def _doubt(self, cell: Cell) -> str:
        if self.status(cell) != "done":
            return ""
        run, method = self.runs[cell.trial.key], cell.trial.method
        if was_changed(run):
            return EDITED
        if reason := fingerprint.change(method, code_of(run)):
            return reason
        base = self._by_key.get(cell.trial.source or "")  # of weights given, there is no trial
        if base is not None and (reason := self.stale(base)):
            return f"so is what it starts from: {reason}"
        return ""

    @functools.cached_property
    def _by_key(self) -> dict[str, Cell]:
        return {cell.trial.key: cell for cell in self.cells}

    def stale_counts(self) -> Counter[str]:
        """How many trials are stale, by the reason."""
        return Counter(reason for cell in self.cells if (reason := self.stale(cell)))

    def train_again(self, what: Sequence[str]) -> int:
        """Set finished trials aside, so that a run trains them again; the store keeps them.

        With a full-precision trial go those that start from it.

        Args:
            what: ``stale``, or methods' names.

        Returns:
            How many trials.

        Raises:
            QbenchError: the suite has no such method, or the store refuses.
        """
        methods = {cell.trial.method for cell in self.cells}
        for name in what:
            if name not in (*methods, STALE):
                known = nearest(name, [STALE, *methods])
                raise QbenchError(f"--again {name}: the suite has no such method{known}")
        chosen = {
            cell.trial.key
            for cell in self.cells
            if cell.trial.method in what or (STALE in what and self.stale(cell))
        }
        cells = [
            cell
            for cell in self.cells
            if self.status(cell) == "done"
            and not chosen.isdisjoint((cell.trial.key, cell.trial.source))
        ]
        self.store.set_aside(self.runs[cell.trial.key] for cell in cells)
        self.refresh()
        return len(cells)


def _read(
    path: Path, assignments: Sequence[str], method_files: Sequence[Path]
) -> tuple[Suite, list[Plugin]]:
    """A suite, with the methods of files added to it, and these files."""
    plugins = [Plugin.read(file) for file in method_files]
    added = [name for plugin in plugins for name in load_plugin(plugin)]
    return load_suite(path, assignments, added), plugins


def history_of(metric: str) -> tuple[str, ...]:
    """What figures need of every epoch, of tables that show a metric."""
    return ("train_loss", metric, f"soft_{metric}", "lr")
