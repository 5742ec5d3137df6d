"""The verb `qbench verify`."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.options import (
    AsJson,
    Assignments,
    DatasetFiles,
    MethodFiles,
    ModelFiles,
    Results,
    plugin_files,
)
from qbench.errors import QbenchError
from qbench.files import expanded, resolved
from qbench.spec.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from qbench.benchmark.verify import Verdict, Verifier
    from qbench.plugins import Plugin
    from qbench.store.run import Run

_STYLES = {True: "green", False: "red"}


def verify(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="WHAT",
            parser=expanded,
            help="Key of a trial, or its first digits; or a suite, file or name.",
        ),
    ],
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Verify N finished trials of the suite, drawn at random."
        ),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Train again, even where the trained weights are stored."),
    ] = False,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Measure or train recorded trials again, and compare.

    Where the store has the trained weights of a trial, they are measured and audited again.
    Otherwise, and with --retrain, the trial is trained again, and so is the full-precision network
    that it starts from unless its weights are here. On the processor and with the versions of the
    record, every number must be the same to the last digit. Elsewhere, measured accuracies must be
    the same but for rounding, and trained ones within the spread over seeds. Trials are also read
    from the file trials.jsonl.gz of a suite. Exit code 0: all agree. 1: a trial disagrees or could
    not be verified. 2: there is no such trial or suite.
    """
    from rich.console import Console

    from qbench.cli import messages

    console = Console(highlight=False)
    progress = Console(stderr=True)
    found: list[Verdict] = []
    with messages.status(progress, "Looking up trials …"):
        plugins = plugin_files(methods, models, datasets)
        verifier, runs = _chosen(what, sample, assignments, plugins, results)
        for run in runs:
            found.append(verifier.verify(run, retrain))
            if not as_json:
                _show(console, found[-1])
    if as_json:
        print(json.dumps([each.as_json() for each in found], indent=2, ensure_ascii=False))
    else:
        counts = Counter(_word(each) for each in found)
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        console.print(f"Of {counted(len(found), 'trial')}: {told}.", markup=False)
    raise typer.Exit(int(not all(each.agrees for each in found)))


def _chosen(
    what: Path,
    sample: int | None,
    assignments: Sequence[str] | None,
    plugins: Sequence[Plugin],
    results: Path,
) -> tuple[Verifier, list[Run]]:
    """Return what verifies, and the runs of the trials to verify."""
    from qbench.benchmark.verify import Verifier
    from qbench.cli import record
    from qbench.store.spool import Spool

    if record.is_key(what) and (sample is not None or assignments):
        raise QbenchError(f"{what} is a key of one trial; --sample and --set are for suites")
    trials = record.choose(what, results, assignments, plugins, from_file=True)
    if not trials.runs:
        raise QbenchError(f"{what}: nothing in it is finished")
    runs = trials.runs
    if runs[0].status != "FINISHED":  # the one of a key
        trial = trials.store.trial(runs[0])
        raise QbenchError(f"{trial.name} ({trial.key}) failed, so there is no result")
    if sample is not None:
        runs = random.sample(runs, min(sample, len(runs)))
    return Verifier(trials.store, Spool(resolved(results) / ".state"), trials.data), runs


def _word(verdict: Verdict) -> str:
    if not verdict.expected:
        return "not verified"
    return "agreed" if verdict.agrees else "disagreed"


def _show(console: Console, verdict: Verdict) -> None:
    from rich.markup import escape

    numbers = f"{verdict.recorded:.2f}"
    if verdict.found is not None:
        numbers = f"{verdict.found:.2f}, recorded {verdict.recorded:.2f}; {verdict.how} again"
    text = escape(f"{verdict.name} ({verdict.key}): {numbers}: {verdict.text}")
    console.print(f"[{_STYLES[verdict.agrees]}]{_word(verdict)}[/] {text}", soft_wrap=True)
