"""Find what contradicts a result that was read from a file.

A hash in the file shows that a line was changed. These checks do not need it: they compare what a
result says with itself, with other results, and with the table beside the file. They find
mistakes. Somebody who invents a whole trial is found by training it again (`qbench verify`).
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from qbench import registry
from qbench.errors import QbenchError, nearest
from qbench.spec.bits import BitWidths
from qbench.spec.metrics import MEASURED
from qbench.spec.predictions import Predictions
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.spec.words import counted
from qbench.train import fingerprint

MOST_NAMED = 5
"""Number of missing trials that are named; the others are counted."""

_TABLE = "trials.csv"
_SYNTAX = re.compile(r"[0-9a-f]{16}|")
# Hardening must not change what a network computes, so the last epoch and the end differ by the
# rounding of sums alone: in the loss by a small share, in the accuracy by few images.
_LOSS_ROUNDING = 1e-3
_POINTS_ROUNDING = 0.1
_PERCENT_ROUNDING = 1e-4  # of a share that was computed in float32
_CSV_ROUNDING = 1e-5


@dataclass(frozen=True)
class Refusal:
    """A trial that was refused, or a file.

    Attributes:
        place: The file, and the line if it has several.
        trial: Name and key of the trial, as far as they are known.
        reason: What is wrong.
        key: Key of the trial, if its configuration could be read.
    """

    place: str
    trial: str
    reason: str
    key: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.place, self.trial, self.reason)))


def contradiction(result: Result, labels: Predictions | None) -> str:
    """Return what in a result contradicts the rest of it, or an empty string.

    Args:
        result: A result.
        labels: True classes of the images that it was measured on. None if they are not known.
    """
    if result.status == "failed":
        return _wrong_trial(result) or _wrong_epochs(result) or _wrong_code(result)
    return (
        _wrong_trial(result)
        or _wrong_metrics(result)
        or _wrong_epochs(result)
        or _wrong_end(result)
        or _wrong_predictions(result, labels)
        or _wrong_code(result)
    )


def copies(found: Sequence[tuple[str, Result]]) -> dict[tuple[str, str], Refusal]:
    """Find trials that are the same to the last digit as a trial of another seed.

    Another seed draws other batches, so the losses of two seeds differ. Trials without a history,
    which only measure given weights, may be the same and are not compared.

    Args:
        found: Results, each with the place that it was read from.

    Returns:
        A refusal for each, by place and key. Which one is the copy is not known, so all of them
        are among them.
    """
    alike: defaultdict[tuple[str, str], list[tuple[str, Trial]]] = defaultdict(list)
    for place, result in found:
        if result.history:
            alike[without_seed(result.trial), course(result)].append((place, result.trial))
    refused = {}
    for group in alike.values():
        for place, trial in group:
            other = next((each for _, each in group if each.seed != trial.seed), None)
            if other is not None:
                refused[place, trial.key] = copy_of(place, trial, other)
    return refused


def copy_of(place: str, trial: Trial, other: Trial) -> Refusal:
    """Return the refusal of a trial whose course is that of another seed.

    Args:
        place: Where the trial was read.
        trial: The trial.
        other: The trial that it equals, of another seed.
    """
    reason = (
        f"every epoch is to the last digit that of seed {other.seed} ({other.key}): one of them "
        "is a copy"
    )
    return Refusal(place, f"{trial.name} ({trial.key})", reason, trial.key)


def course(result: Result) -> str:
    """Return the history of a result as a text that shows every digit."""
    records = [{name: float(value) for name, value in each.items()} for each in result.history]
    return json.dumps(records, sort_keys=True)


def without_seed(trial: Trial) -> str:
    """Return a text that trials have in common which differ in their seed only."""
    return json.dumps(trial.model_dump(mode="json", exclude={"seed"}), sort_keys=True)


def beside(
    file: Path, results: Sequence[tuple[str, Result]], listed: Collection[str]
) -> list[Refusal]:
    """Compare results with the table ``trials.csv`` beside their file, if there is one.

    Args:
        file: The file of the results.
        results: Its results, each with its place.
        listed: Keys of all trials that the file lists, refused ones too.

    Returns:
        A refusal for each finished trial of the table that the file lacks, and for each result
        whose metrics differ from the table.
    """
    table = file.with_name(_TABLE)
    try:
        with table.open(encoding="utf-8", newline="") as text:
            rows = {row["key"]: row for row in csv.DictReader(text) if row["status"] == "done"}
    except (OSError, KeyError, csv.Error):
        return []
    lost = {
        key: f"{row.get('method')} {row.get('bits')} seed {row.get('seed')} ({key})"
        for key, row in rows.items()
        if key not in listed
    }
    lacking = [
        Refusal(str(file), name, f"{table} has it, and this file does not")
        for name in itertools.islice(lost.values(), MOST_NAMED)
    ]
    if (more := len(lost) - MOST_NAMED) > 0:
        reason = (
            f"{counted(more, 'more trial')} of {table} are missing; if the suite has changed, "
            "`qbench leaderboard` writes its tables again"
        )
        lacking.append(Refusal(str(file), "", reason))
    differing = []
    for place, result in results:
        row = rows.get(result.trial.key, {})
        for name, value in result.metrics.items():
            other = row.get(name)
            if other and not math.isclose(float(other), value, rel_tol=_CSV_ROUNDING):
                reason = f"{name} is {value:.6g}, and {other} in {table}"
                who = f"{result.trial.name} ({result.trial.key})"
                differing.append(Refusal(place, who, reason, result.trial.key))
                break
    return [*lacking, *differing]


def _wrong_trial(result: Result) -> str:
    trial = result.trial
    if not result.suite:
        return "it names no suite"
    if trial.task not in MEASURED:
        return f"task '{trial.task}' is none{nearest(trial.task, MEASURED)}"
    try:
        BitWidths.parse(trial.bits)
    except ValueError as error:
        return str(error)
    return ""


def _wrong_metrics(result: Result) -> str:
    metric = MEASURED[result.trial.task][0]
    if metric not in result.metrics:
        return f"it is done and has no {metric}"
    for name, value in result.metrics.items():
        if name.startswith("top") and not 0 <= value <= 100 + _PERCENT_ROUNDING:
            return f"{name} is {value:g}, which is no percentage"
    return ""


def _wrong_epochs(result: Result) -> str:
    wanted = result.trial.epochs
    numbers = [record.get("epoch") for record in result.history]
    for expected, number in enumerate(numbers, 1):
        if number != expected:
            named = "no number" if number is None else f"epoch {number:g}"
            return f"its history has {named} where epoch {expected} belongs"
    if len(numbers) > wanted or (result.status == "done" and len(numbers) < wanted):
        return f"its history has {counted(len(numbers), 'epoch')}, and it trains {wanted}"
    return ""


def _wrong_end(result: Result) -> str:
    """Return how the metrics contradict the last epoch, or an empty string."""
    last = result.history[-1] if result.history else {}
    final = result.before_reestimation or result.metrics
    shared = [name for name in final if name in last]
    same_loss = "test_loss" in shared and last["test_loss"] == final["test_loss"]
    for name in shared:
        end, before = final[name], last[name]
        if name.endswith("loss"):
            agree = math.isclose(end, before, rel_tol=_LOSS_ROUNDING, abs_tol=_LOSS_ROUNDING)
        else:
            agree = abs(end - before) <= (0 if same_loss else _POINTS_ROUNDING)
        if not agree and end != before:
            return f"{name} is {end:.6g}, and {before:.6g} after the last epoch of its history"
    return ""


def _wrong_predictions(result: Result, labels: Predictions | None) -> str:
    predicted, top1 = result.predictions, result.metrics.get("top1")
    if predicted is None or top1 is None:
        return ""
    values = predicted.values
    if max(values, default=0) >= predicted.classes:
        return f"it predicts class {max(values)} of {predicted.classes}"
    if not predicted.count:
        return "it has no predictions"
    hits = top1 * predicted.count / 100
    if abs(hits - round(hits)) > _PERCENT_ROUNDING * predicted.count / 100 + 1e-6:
        return f"top1 is {top1:.6g}, which {predicted.count} predictions cannot give"
    if labels is None or result.unreadable:
        return ""
    if (predicted.count, predicted.classes) != (labels.count, labels.classes):
        return (
            f"it has {predicted.count} predictions of {predicted.classes} classes, and was "
            f"measured on {labels.count} images of {labels.classes}"
        )
    right = sum(a == b for a, b in zip(values, labels.values, strict=True))
    if right != round(hits):
        share = 100 * right / predicted.count
        return f"top1 is {top1:.6g}, and its predictions give {share:.6g}"
    return ""


def _wrong_code(result: Result) -> str:
    """Return how the fingerprint of the code contradicts itself, or an empty string.

    The fingerprint of unknown code is in order: the result is then stale. That of the present code
    must name the present revision.
    """
    code, method = result.code, result.trial.code_method
    if not _SYNTAX.fullmatch(code.syntax):
        return f"'{code.syntax}' is no fingerprint of code: that is 16 digits 0–9 and a–f"
    if code.revision < 1 or code.numerics < 1:
        return f"revision {min(code.revision, code.numerics)} is none: they begin with 1"
    try:
        registry.check_model_name(result.trial.architecture)
        now = fingerprint.code_of(result.trial)
    except QbenchError:  # a method, model or dataset of a file that is not given
        return ""
    if code.syntax == now.syntax and code.revision != now.revision:
        return (
            f"its fingerprint is that of revision {now.revision} of {method}, and it says "
            f"{code.revision}"
        )
    return ""
