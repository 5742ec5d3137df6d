"""Compare what the networks of two trials predict, and print it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from qbench.benchmark.labels import split_of
from qbench.cli.record import Found, find
from qbench.errors import QbenchError
from qbench.plugins import Plugin, load_plugin
from qbench.report.checkpoints import agreement
from qbench.spec.predictions import Predictions


def compare(a: str, b: str, results: Path, plugins: Sequence[Plugin], as_json: bool) -> None:
    """Print how two networks agree on the images that both were measured on.

    Args:
        a: Key of a trial, or its first digits.
        b: Key of another trial, or its first digits.
        results: The results folder.
        plugins: Python files of methods, models and datasets.
        as_json: Whether to print JSON.

    Raises:
        QbenchError: No recorded trial has a key, a trial has no predictions, or the trials were
            measured on different images.
    """
    for plugin in plugins:
        load_plugin(plugin)
    first, second = find(a, results), find(b, results)
    if split_of(first.trial) != split_of(second.trial):
        raise QbenchError(f"{a} and {b} were measured on different images")
    ours, theirs = _predictions(first), _predictions(second)
    if ours.count != theirs.count:
        raise QbenchError(f"{a} has {ours.count} predictions, and {b} {theirs.count}")
    labels = first.labels()
    if labels is not None and labels.count != ours.count:  # some images could not be read
        labels = None
    found = agreement(ours, theirs, labels)
    if as_json:
        print(json.dumps({"a": first.key, "b": second.key, **found.as_json()}, indent=2))
        return
    lines = [
        f"A: {first.trial.name} ({first.key})",
        f"B: {second.trial.name} ({second.key})",
        f"Both predict the same class for {found.same} of {found.images} images.",
    ]
    if found.p is None:
        lines.append("The true classes are not known here, because the data are missing.")
    else:
        lines += [
            f"A is right on {found.right_a} and B on {found.right_b}: only A on {found.only_a}, "
            f"only B on {found.only_b}.",
            f"McNemar's exact test: p = {found.p:.2g}.",
        ]
    lines.append(
        "This is about two trained networks, not about their methods: two seeds of one method "
        "often differ as much. `qbench compare` of suites tests methods, over seeds."
    )
    console = Console(highlight=False)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _predictions(found: Found) -> Predictions:
    predictions = found.store.result(found.run).predictions
    if predictions is None:
        raise QbenchError(
            f"{found.trial.name} ({found.key}) has no predicted classes: it is no classifier, or "
            "was recorded without them"
        )
    return predictions
