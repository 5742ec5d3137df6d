"""Exchange results with others: write those of a suite to a file, add those of files to a store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.benchmark import consistency, exported
from qbench.benchmark.consistency import Refusal
from qbench.benchmark.exported import Exported
from qbench.benchmark.further_seeds import with_further_seeds
from qbench.benchmark.tuned_frames import with_aligned_recipe
from qbench.errors import QbenchError
from qbench.spec.result import Result
from qbench.spec.words import counted

if TYPE_CHECKING:
    from qbench.benchmark.benchmark import Benchmark
    from qbench.store.mlflow import Store
    from qbench.store.run import Run


@dataclass(frozen=True)
class Conflict:
    """A result that differs from the one that the store has under the same key.

    Attributes:
        result: The result that was not added.
        place: Where the result was read: the file, and the line if it has several.
        text: The metrics that differ.
    """

    result: Result
    place: str
    text: str


@dataclass
class Merged:
    """Report of merging results into a store.

    Attributes:
        added: Results that were added.
        duplicates: Places of results that the store already had, with the same metrics.
        conflicts: Results that the store already had with other metrics. Nothing was overwritten.
        refused: Results that contradict the store otherwise.
    """

    added: list[Result] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def export(benchmark: Benchmark, folder: Path | None = None) -> tuple[Path, int, list[str]]:
    """Write the finished trials of a suite to a file ``trials.jsonl.gz``.

    Trials of further seeds, which `qbench.benchmark.further_seeds` trains, are among them. Of a
    tuned suite, so are configurations that failed, since a study ends with all of its
    configurations, and the trials with the aligned recipe, which stand beside the tuned ones.

    Args:
        benchmark: The benchmark of the suite.
        folder: Folder to write to; it is made if needed. Default: that of the suite's tables. A
            file there is replaced.

    Returns:
        The file, the number of its trials, and the names of trials that were left out because their
        stored result was edited by hand, which a file could not show.

    Raises:
        QbenchError: The folder cannot be written, the store cannot be read, or the file has trials
            that would be lost.
    """
    from qbench.store.tags import was_changed  # MLflow: `compare` needs none

    parts = [with_further_seeds(benchmark)]
    if benchmark.tuned is not None:
        parts.append(with_aligned_recipe(benchmark))
    ended = {key: run for part in parts for key, run in _ended(part).items()}
    edited = {key for key, run in ended.items() if was_changed(run)}
    file = folder / exported.FILE if folder else benchmark.file
    if lost := exported.keys_in(file).keys() - ended.keys():
        planned = lost & {each.trial.key for part in parts for each in part.planned}
        raise QbenchError(_loss(file, benchmark.suite.name, lost, planned))
    results = [benchmark.store.result(run) for key, run in ended.items() if key not in edited]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        exported.write(file, benchmark.suite.name, results)
    except OSError as error:
        raise QbenchError(f"{file.parent}: {error.strerror}") from error
    return file, len(results), [benchmark.store.trial(ended[key]).name for key in sorted(edited)]


def _ended(benchmark: Benchmark) -> dict[str, Run]:
    """Return the runs of the trials that a file needs, by key."""
    return {
        planned.trial.key: benchmark.runs[planned.trial.key]
        for planned in benchmark.planned
        if (status := benchmark.status(planned)) == "done"
        or (status == "failed" and planned.trial.validation)
    }


def _loss(file: Path, suite: str, lost: Set[str], planned: Set[str]) -> str:
    """Return why a file is not replaced."""
    if planned:
        return (
            f"{file} has {counted(len(planned), 'trial')} of {suite} that the store lacks, such as "
            f"{min(planned)}; `qbench import {file}` adds them, then export again"
        )
    return (
        f"{file} has {counted(len(lost), 'trial')} that are none of {suite} as it is now, such as "
        f"{min(lost)}, and they would be lost; remove the file, or export to another folder"
    )


def merge(found: Iterable[Exported], store: Store) -> Merged:
    """Add results to a store, except those that it already has.

    Args:
        found: Results, as `qbench.benchmark.exported.read` returns them.
        store: The store.

    Returns:
        What was added and what was not.

    Raises:
        QbenchError: The store cannot be read or written.
    """
    merged = Merged()
    files = list(found)
    runs = store.runs(result.trial.key for _, result in files)
    known = {key: store.metrics(run) for key, run in runs.items() if run.status == "FINISHED"}
    others = _OtherSeeds(store, files)
    for place, result in files:
        key = result.trial.key
        if result.status == "failed" and key in runs:
            merged.duplicates.append(place)
        elif key not in known:
            if refusal := others.refusal(place, result):
                merged.refused.append(refusal)
                continue
            store.record(result, None)
            known[key] = result.metrics
            merged.added.append(result)
        elif text := difference(known[key], result.metrics):
            merged.conflicts.append(Conflict(result, place, text))
        else:
            merged.duplicates.append(place)
    return merged


class _OtherSeeds:
    """Finished trials of a store that differ from those of files in their seed only."""

    def __init__(self, store: Store, files: Iterable[Exported]) -> None:
        self._store = store
        self._runs: defaultdict[str, list[Run]] = defaultdict(list)
        wanted = {consistency.without_seed(result.trial) for _, result in files}
        for run in store.finished() if wanted else ():
            kind = consistency.without_seed(store.trial(run))
            if kind in wanted:
                self._runs[kind].append(run)

    def refusal(self, place: str, result: Result) -> Refusal | None:
        """Return the refusal of a result whose course the store has under another seed."""
        for run in self._runs[consistency.without_seed(result.trial)]:
            if not result.history or self._store.metrics(run) != result.metrics:
                continue
            other = self._store.result(run)
            same = consistency.course(other) == consistency.course(result)
            if same and other.trial.seed != result.trial.seed:
                return consistency.copy_of(place, result.trial, other.trial)
        return None


def difference(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """Return which metrics differ, as in ``top1 99.44, not 99.17``, or an empty string.

    Args:
        ours: Metrics by name.
        theirs: Metrics of the same trial from elsewhere.
    """
    return ", ".join(
        f"{name} {ours.get(name, float('nan')):.6g}, not {theirs.get(name, float('nan')):.6g}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    )
