"""Files of results that others can open: ``trials.jsonl.gz``, with all trials of a suite.

The first line describes the file: its format, the suite, the trials with a hash of the line of
each, and the true classes of the images that the trials were measured on. Each further line is a
trial, in the order of keys: its configuration (which gives its key), metrics, history, audit,
predicted classes and environment, but no weights. The same results give the same bytes.

Files with one trial each, which earlier versions wrote as ``KEY.json``, are read too.

What is read is checked (`qbench.benchmark.consistency`). A trial that is refused costs no other.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from qbench.benchmark import consistency
from qbench.benchmark.consistency import Refusal
from qbench.benchmark.labels import Split, labels_here, split_of
from qbench.errors import QbenchError, closest
from qbench.files import write_atomic
from qbench.spec.findings import plain
from qbench.spec.predictions import Predictions
from qbench.spec.result import Result, WeightObservations

FILE = "trials.jsonl.gz"
_FORMAT = "qbench-results-2"
_SINGLE_FORMAT = "qbench-result-1"  # one trial, in a file of its own
_LEFT_OUT = {*WeightObservations.model_fields, "examples", "traceback"}
_HASH_LENGTH = 16
_CHUNK = 2**16


class Exported(NamedTuple):
    """A result that was read from a file.

    Attributes:
        place: The file, and the line if the file has several.
        result: The result.
    """

    place: str
    result: Result


@dataclass
class Content:
    """Content of files of results.

    Attributes:
        good: Results that nothing contradicts.
        refused: Why other trials were refused.
        labels: True classes of images that trials were measured on. None if they are not known.
    """

    good: list[Exported] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    labels: dict[Split, Predictions | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Listed:
    """Entry of a trial in the first line of a file."""

    name: str
    hash: str


@dataclass(frozen=True)
class _Header:
    """First line of a file."""

    trials: dict[str, _Listed]
    labels: dict[Split, Predictions]

    def who(self, key: str) -> str:
        """Return name and key of a trial, as far as they are known."""
        return f"{self.trials[key].name} ({key})" if key in self.trials else key


def write(path: Path, suite: str, results: Sequence[Result]) -> None:
    """Write results to a file, which is replaced as a whole.

    Args:
        path: The file. Its folder must exist.
        suite: Name of the suite.
        results: Results of different trials. True classes are written for those whose data are
            here.

    Raises:
        OSError: The file cannot be written.
    """
    ordered = sorted(results, key=lambda result: result.trial.key)
    lines = [_line(result) for result in ordered]
    splits = {split_of(result.trial) for result in ordered if result.predictions is not None}
    labels = {split: known for split in sorted(splits) if (known := labels_here(split)) is not None}
    header = {
        "format": _FORMAT,
        "suite": suite,
        "trials": {
            result.trial.key: {"name": result.trial.name, "hash": _hash(line)}
            for result, line in zip(ordered, lines, strict=True)
        },
        "labels": [{**split._asdict(), **known.model_dump()} for split, known in labels.items()],
    }
    text = "".join(f"{line}\n" for line in (_as_json(header), *lines))
    with write_atomic(path) as scratch:
        scratch.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(paths: Sequence[Path]) -> Content:
    """Read files of results, and refuse trials that something contradicts.

    Args:
        paths: Files, or folders that hold some: ``trials.jsonl.gz``, there or one folder below, or
            ``.json`` files of one trial each.

    Returns:
        The results, and why others were refused.

    Raises:
        QbenchError: There is no such file, or a folder has none.
    """
    found = Content()
    for path in paths:
        files = _files(path) if path.is_dir() else [path]
        if not files:
            raise QbenchError(
                f"{path}: has no {FILE} as `qbench export` writes it, and no .json files of trials"
            )
        for file in files:
            try:
                data = file.read_bytes()
            except OSError as error:
                hint = closest(file.name, (p.name for p in file.parent.glob("*")))
                raise QbenchError(f"{file}: {error.strerror}{hint}") from error
            if file.suffix == ".json":
                _read_single(file, data, found)
            else:
                _read_suite(file, data, found)
    copies = consistency.copies(found.good)
    found.good = [each for each in found.good if (each.place, each.result.trial.key) not in copies]
    found.refused += copies.values()
    return found


def keys_in(file: Path) -> dict[str, str]:
    """Return the names of the trials that a file lists, by key. Empty if it is no such file.

    Args:
        file: A ``trials.jsonl.gz``.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            header = _parsed_header(next(lines))
    except (OSError, EOFError, zlib.error, ValueError, StopIteration):
        return {}
    return {key: listed.name for key, listed in header.trials.items()}


def in_folder(results: Path) -> Iterator[Path]:
    """Yield the files of all suites in a results folder.

    Args:
        results: The results folder.
    """
    yield from sorted(results.glob(f"*/{FILE}"))


def _files(folder: Path) -> list[Path]:
    return [*folder.glob(FILE), *in_folder(folder), *sorted(folder.glob("*.json"))]


def _line(result: Result) -> str:
    content = result.model_dump(mode="json", exclude=_LEFT_OUT)
    return _as_json({"key": result.trial.key, **content})


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:_HASH_LENGTH]


def _read_single(file: Path, data: bytes, found: Content) -> None:
    """Read a file of one trial."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        found.refused.append(Refusal(str(file), "", f"is not JSON: {error}"))
        return
    form = content.pop("format", None) if isinstance(content, dict) else None
    if form != _SINGLE_FORMAT:
        wrong = f"its format is {form!r}, not '{_SINGLE_FORMAT}'"
        found.refused.append(Refusal(str(file), "", wrong))
        return
    _take(str(file), content, found)


def _read_suite(file: Path, data: bytes, found: Content) -> None:
    """Read a file of the trials of a suite."""
    text, damage = _decompressed(data)
    first, *lines = text.removesuffix("\n").split("\n")
    try:
        header = _parsed_header(first)
    except ValueError as error:
        reason = damage or f"is no {FILE} as `qbench export` writes it: {error}"
        found.refused.append(Refusal(f"{file}, line 1", "", reason))
        return
    if damage:
        found.refused.append(Refusal(str(file), "", damage))
    for split, labels in header.labels.items():
        own = labels_here(split)
        if own is not None and own != labels:
            wrong = f"the true classes in it are not those of {split.dataset} here"
            found.refused.append(Refusal(f"{file}, line 1", "", wrong))
            return
        found.labels[split] = labels
    taken = Content(labels=found.labels)
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 2):
        _read_line(f"{file}, line {number}", number, line, header, seen, taken)
    lost = [key for key in header.trials if key not in seen]
    for key in lost[: consistency.MOST_NAMED]:
        who, reason = header.who(key), "the first line lists it, and no line has it"
        taken.refused.append(Refusal(str(file), who, reason, key))
    if more := lost[consistency.MOST_NAMED :]:
        taken.refused.append(Refusal(str(file), "", f"{len(more)} more trials are missing"))
    beside = consistency.beside(file, taken.good, header.trials.keys())
    wrong_keys = {refusal.key for refusal in beside}
    found.good += [each for each in taken.good if each.result.trial.key not in wrong_keys]
    found.refused += [*taken.refused, *beside]


def _read_line(
    place: str, number: int, line: str, header: _Header, seen: dict[str, int], taken: Content
) -> None:
    """Read the line of a trial.

    Args:
        place: The file and the number of the line, for messages.
        number: Number of the line.
        line: The line.
        header: First line of the file.
        seen: Numbers of the lines that were read, by key.
        taken: Receives what is found.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        taken.refused.append(Refusal(place, "", f"is not JSON: {error}"))
        return
    key = str(content.get("key")) if isinstance(content, dict) else ""
    wrong = ""
    if key not in header.trials:
        wrong = "the first line does not list it"
    elif seen.setdefault(key, number) != number:
        wrong = f"line {seen[key]} is of the same trial"
    elif _hash(line) != header.trials[key].hash:
        wrong = "was changed after it was exported: the first line has another hash of it"
    if wrong:
        taken.refused.append(Refusal(place, header.who(key), wrong, key))
    else:
        _take(place, content, taken)


def _take(place: str, content: Any, found: Content) -> None:
    """Check the content of a trial and add it to what was found."""
    key = content.pop("key", None) if isinstance(content, dict) else None
    try:
        result = Result.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        found.refused.append(Refusal(place, str(key or ""), f"{where}: {plain(first)}"))
        return
    name = f"{result.trial.name} ({result.trial.key})"
    split = split_of(result.trial)
    if result.predictions is not None and split not in found.labels:
        found.labels[split] = labels_here(split)
    wrong = (
        f"its key is '{key}', that of its configuration '{result.trial.key}': one was changed"
        if key != result.trial.key
        else consistency.contradiction(result, found.labels.get(split))
    )
    if wrong:
        found.refused.append(Refusal(place, name, wrong, result.trial.key))
    else:
        found.good.append(Exported(place, result))


def _decompressed(data: bytes) -> tuple[str, str]:
    """Return as much text as a compressed file gives, and how it is damaged or ''."""
    engine = zlib.decompressobj(wbits=31)
    parts, damage = [], ""
    try:
        for start in range(0, len(data), _CHUNK):
            parts.append(engine.decompress(data[start : start + _CHUNK]))
    except zlib.error as error:
        damage = f"is not a gzip file, or is damaged: {error}"
    if not damage and not engine.eof:
        damage = "is cut off"
    if engine.unused_data:
        damage = "has data after its end"
    return b"".join(parts).decode("utf-8", errors="replace"), damage


def _parsed_header(line: str) -> _Header:
    """Read the first line of a file.

    Raises:
        ValueError: It is none.
    """
    content = json.loads(line)
    form = content.get("format") if isinstance(content, dict) else None
    if form != _FORMAT:
        raise ValueError(f"its format is {form!r}, not '{_FORMAT}'")
    try:
        labels = {}
        for entry in content["labels"]:
            split = Split(*(entry.pop(name) for name in Split._fields))
            json.loads(split.data)
            labels[split] = Predictions.model_validate(entry)
        trials = {
            str(key): _Listed(str(listed["name"]), str(listed["hash"]))
            for key, listed in content["trials"].items()
        }
        return _Header(trials, labels)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it lacks {error}") from error
