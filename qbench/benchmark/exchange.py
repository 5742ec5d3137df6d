"""Results as plain files: one JSON for each trial, which others merge into their store.

A file says everything of a trial but its weights: what was trained (which gives its key), metrics,
history, audit, environment. Two people's results combine by putting their files together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.errors import QbenchError
from qbench.spec.result import Result, WeightObservations

if TYPE_CHECKING:
    from qbench.benchmark.benchmark import Benchmark
    from qbench.store.mlflow import Store

FORMAT = "qbench-result-1"
_LEFT_OUT = {*WeightObservations.model_fields, "examples", "traceback"}


@dataclass(frozen=True)
class Conflict:
    """One key with two numbers.

    Attributes:
        result: what came later, and is not taken.
        place: the file that it is in.
        text: the metrics that differ.
    """

    result: Result
    place: Path
    text: str


@dataclass
class Merged:
    """What became of files that were merged into a store.

    Attributes:
        added: trials that were not there.
        duplicates: files of trials that are there already, with the same numbers.
        conflicts: files of trials that are there with others; nothing was overwritten.
    """

    added: list[Result] = field(default_factory=list)
    duplicates: list[Path] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)


def export(benchmark: Benchmark, folder: Path) -> tuple[list[Path], list[str]]:
    """Write a file for each trial of a suite that is done, named after its key.

    Args:
        benchmark: the suite.
        folder: where to; made if needed. Files that are there are replaced.

    Returns:
        The files; and the names of trials that were left out, because what is stored of them was
        changed by hand, which a file could not tell.

    Raises:
        QbenchError: the folder cannot be written, or the store cannot be read.
    """
    from qbench.store.mlflow import was_changed  # MLflow, which `compare` of files needs not

    done = [planned.trial for planned in benchmark.planned if benchmark.status(planned) == "done"]
    edited = {trial.key for trial in done if was_changed(benchmark.runs[trial.key])}
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key in (trial.key for trial in done if trial.key not in edited):
            path, scratch = folder / f"{key}.json", folder / f".{key}.json.tmp"
            scratch.write_text(as_text(benchmark.store.result(benchmark.runs[key])))
            os.replace(scratch, path)
            written.append(path)
    except OSError as error:
        raise QbenchError(f"{folder}: {error.strerror}") from error
    return written, [trial.name for trial in done if trial.key in edited]


def as_text(result: Result) -> str:
    """A trial's file."""
    content = result.model_dump(mode="json", exclude=_LEFT_OUT)
    return json.dumps({"format": FORMAT, "key": result.trial.key, **content}, indent=2) + "\n"


def read(paths: Sequence[Path]) -> Iterator[tuple[Path, Result]]:
    """Read exported files, and those in folders.

    Raises:
        QbenchError: a file cannot be read, is none of these, or its key is not that of its trial;
            a folder has none.
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
        raise QbenchError(f"{file}: {error.strerror}") from error
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
    """Record trials that a store has not; leave what it has as it is.

    Args:
        found: files and what they hold, as `read` gives them.
        store: where to.

    Raises:
        QbenchError: the store refuses.
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
    """Which metrics of one trial differ, as ``top1 99.44, not 99.17``, or ''."""
    return ", ".join(
        f"{name} {ours.get(name, float('nan')):.6g}, not {theirs.get(name, float('nan')):.6g}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    )
