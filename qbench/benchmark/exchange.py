"""Exchange results as plain files: one JSON file for each trial.

A file holds everything about a trial but its weights: the configuration (which gives its key),
metrics, history, audit and environment. Others merge such files into their store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.errors import QbenchError, closest
from qbench.files import write_atomic
from qbench.spec.result import Result, WeightObservations

if TYPE_CHECKING:
    from qbench.benchmark.benchmark import Benchmark
    from qbench.store.mlflow import Store

FORMAT = "qbench-result-1"
_LEFT_OUT = {*WeightObservations.model_fields, "examples", "traceback"}


@dataclass(frozen=True)
class Conflict:
    """A result that differs from the one that the store has under the same key.

    Attributes:
        result: The result that was not added.
        place: The file of the result.
        text: The metrics that differ.
    """

    result: Result
    place: Path
    text: str


@dataclass
class Merged:
    """Report of merging files into a store.

    Attributes:
        added: Results that were added.
        duplicates: Files of results that the store already had, with the same metrics.
        conflicts: Results that the store already had with other metrics. Nothing was overwritten.
    """

    added: list[Result] = field(default_factory=list)
    duplicates: list[Path] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)


def export(benchmark: Benchmark, folder: Path) -> tuple[list[Path], list[str]]:
    """Write one file for each finished trial of a suite, named after the trial's key.

    Args:
        benchmark: The benchmark of the suite.
        folder: Folder to write to; it is made if needed. Files of the same name are replaced.

    Returns:
        The files written, and the names of trials that were left out because their stored result
        was edited by hand, which a file could not show.

    Raises:
        QbenchError: The folder cannot be written, or the store cannot be read.
    """
    from qbench.store.tags import was_changed  # MLflow: `compare` needs none

    done = [planned.trial for planned in benchmark.planned if benchmark.status(planned) == "done"]
    edited = {trial.key for trial in done if was_changed(benchmark.runs[trial.key])}
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key in (trial.key for trial in done if trial.key not in edited):
            path = folder / f"{key}.json"
            with write_atomic(path) as scratch:
                scratch.write_text(as_text(benchmark.store.result(benchmark.runs[key])))
            written.append(path)
    except OSError as error:
        raise QbenchError(f"{folder}: {error.strerror}") from error
    return written, [trial.name for trial in done if trial.key in edited]


def as_text(result: Result) -> str:
    """Return the text of the file of a result."""
    content = result.model_dump(mode="json", exclude=_LEFT_OUT)
    return json.dumps({"format": FORMAT, "key": result.trial.key, **content}, indent=2) + "\n"


def read(paths: Sequence[Path]) -> Iterator[tuple[Path, Result]]:
    """Read exported files.

    Args:
        paths: Exported files, or folders that hold some.

    Yields:
        Each file and its result.

    Raises:
        QbenchError: A file cannot be read, is not an exported file, or its key is not that of its
            trial, or a folder holds no JSON file.
    """
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise QbenchError(f"{path}: has no .json files, as `qbench export` writes them")
        for file in files:
            yield file, _read(file)


def _read(file: Path) -> Result:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        hint = closest(file.name, (p.name for p in file.parent.glob("*")))
        raise QbenchError(f"{file}: {error.strerror}{hint}") from error
    except ValueError as error:
        raise QbenchError(f"{file}: not JSON: {error}") from error
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != FORMAT:
        raise QbenchError(f"{file}: format is {found!r}, not '{FORMAT}' as `qbench export` writes")
    key = content.pop("key", None)
    try:
        result = Result.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise QbenchError(f"{file}: {where}: {first['msg'].lower()}") from error
    if key != result.trial.key:
        raise QbenchError(
            f"{file}: its key is '{key}', that of its trial '{result.trial.key}': one was changed"
        )
    return result


def merge(found: Iterable[tuple[Path, Result]], store: Store) -> Merged:
    """Add results to a store, except those that it already has.

    Args:
        found: Files and their results, as `read` yields them.
        store: The store.

    Returns:
        What was added and what was not.

    Raises:
        QbenchError: The store cannot be written.
    """
    merged = Merged()
    files = list(found)
    runs = store.runs(result.trial.key for _, result in files)
    known = {key: store.metrics(run) for key, run in runs.items() if run.info.status == "FINISHED"}
    for path, result in files:
        key = result.trial.key
        if key not in known:
            store.record(result, None)
            known[key] = result.metrics
            merged.added.append(result)
        elif text := difference(known[key], result.metrics):
            merged.conflicts.append(Conflict(result, path, text))
        else:
            merged.duplicates.append(path)
    return merged


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
