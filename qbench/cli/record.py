"""Look up recorded trials, in the store and in files of results, and print them."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qbench import registry
from qbench.benchmark import exported
from qbench.benchmark.exported import Content
from qbench.benchmark.labels import data_options, labels_here, split_of
from qbench.errors import QbenchError
from qbench.report.problems import noted
from qbench.spec.metrics import MEASURED

if TYPE_CHECKING:
    from qbench.plugins import Plugin
    from qbench.spec.predictions import Predictions
    from qbench.spec.trial import Trial
    from qbench.store.mlflow import Store
    from qbench.store.run import Run

_KEY = re.compile(r"[0-9a-f]{1,16}")


def trial(prefix: str, results: Path) -> dict[str, Any]:
    """Return everything that is recorded of one trial.

    Args:
        prefix: Key of the trial, or its first digits.
        results: The results folder.

    Returns:
        Sections by name, as plain values.

    Raises:
        QbenchError: No recorded trial has the key, or several have.
    """
    from qbench.store.recording import AUDIT_FILE
    from qbench.store.tags import (
        CLIPPED,
        ENVIRONMENT,
        PLACED,
        REASON,
        STATUS,
        before_reestimation,
        code_of,
        coverage_of,
    )

    found = find(prefix, results)
    store, key, run = found.store, found.key, found.run
    tags = run.tags
    own = {name: value for name, value in tags.items() if name.startswith(ENVIRONMENT)}
    shares = coverage_of(tags)
    return {
        "key": key,
        "status": tags[STATUS],
        "reason": tags[REASON],
        "stale": _stale(found.trial, run),
        "date": datetime.fromtimestamp(run.start_time / 1000, UTC).strftime("%Y-%m-%d"),
        "measured_on": _measured_on(found),
        "reproduce": _reproduce(key, results),
        "trial": found.trial.model_dump(mode="json"),
        "metrics": dict(sorted(run.metrics.items())),
        "audit": store.read(run, AUDIT_FILE),
        "coverage": shares.model_dump() if shares is not None else None,
        "placed": tags.get(PLACED, ""),
        "clipped": tags.get(CLIPPED, ""),
        "before_reestimation": before_reestimation(tags),
        "fingerprint": code_of(run).model_dump(),
        "environment": {name.removeprefix(ENVIRONMENT): value for name, value in own.items()},
        "mlflow_run": "" if store.is_lent(run) else run.run_id,
        "mlflow_link": store.link_of(run),
        "file" if store.is_lent(run) else "artifacts": store.place(run),
    }


def _measured_on(found: Found) -> str:
    """Return how many images a trial was measured on, as in ``360 test images``, or ''."""
    trial = found.trial
    if trial.validation:
        after = f" after {trial.length}" if trial.stop_after else ""
        return f"{trial.validation} validation images{after}"
    try:
        options = data_options(trial.dataset, trial.data)
        items = registry.build_dataset(trial.dataset, options).sizes()[1]
    except QbenchError:  # a dataset of a file that is not given
        return ""
    return f"{items} test images"


def _reproduce(key: str, results: Path) -> str:
    """Return the command that trains a trial again and compares it with the record."""
    words = ["qbench", "verify", key, "--retrain"]
    if results != Path(os.environ.get("QBENCH_RESULTS", "results")):
        words += ["--results", str(results)]
    return shlex.join(words)


def _stale(trial: Trial, run: Run) -> str:
    """Return why a finished trial is stale, or an empty string.

    The code of a trial can only be compared with the present one if the files that define its
    method, model and dataset are given.
    """
    from qbench.benchmark import stale
    from qbench.store.tags import EDITED, was_changed

    if run.status != "FINISHED":
        return ""
    try:
        registry.check_model_name(trial.model)
        registry.dataset_options(trial.dataset)
        return stale.reason(trial, run)
    except QbenchError:
        return EDITED if was_changed(run) else ""


def draw(prefix: str, results: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Draw figures of one trial: its training, its weights, and its quantization function.

    Args:
        prefix: Key of the trial, or its first digits.
        results: The results folder.
        folder: Folder to write to; it is made if needed.

    Returns:
        The figures written, which depend on the method, and a line for each that cannot be drawn.

    Raises:
        QbenchError: No recorded trial has the key, several have, or the store cannot be read.
    """
    import pandas as pd

    from qbench.benchmark.leaderboard import history_columns
    from qbench.report.figures import weights as weight_figures
    from qbench.report.figures.training import soft_and_hard, training_curves
    from qbench.spec.result import WeightObservations
    from qbench.store.recording import OBSERVATIONS_FILE
    from qbench.store.tags import AUDIT

    found = find(prefix, results)
    store, key, run, what = found.store, found.key, found.run, found.trial
    observed = WeightObservations.model_validate_json(store.text(run, OBSERVATIONS_FILE))
    row = what.model_dump() | {"key": key, "label": _title(what.method)}
    row |= {"status": "done", "audit": run.tags[AUDIT]}
    trials = pd.DataFrame([row])
    metric = MEASURED[what.task][0]
    histories = store.histories({key: run}, history_columns(metric))
    folder.mkdir(parents=True, exist_ok=True)
    layer, curve = None, observed.curve
    if curve is not None:
        layer = next((w for w in observed.weights if w.layer == curve.layer), None)
    drawings: dict[str, Callable[[], list[Path]]] = {
        "training_curves": lambda: training_curves(trials, histories, folder, metric),
        "soft_and_hard": lambda: soft_and_hard(trials, histories, folder, metric),
        "weight_distributions": lambda: weight_figures.weight_distributions(
            observed.weights, what.name, folder
        ),
        "quantization_function": lambda: (
            []
            if curve is None
            else weight_figures.quantization_function(curve, layer, what.name, folder)
        ),
    }
    drawn: list[Path] = []
    problems: list[str] = []
    for name, draw_it in drawings.items():
        with noted(problems, f"the figure {name}"):
            drawn += draw_it()
    return drawn, problems


def _title(method: str) -> str:
    """Return the title of a method, or its name if its file is not given."""
    try:
        return registry.method_class(method).title
    except QbenchError:
        return method


@dataclass(frozen=True)
class Found:
    """A recorded trial.

    Attributes:
        store: Store that has it, or that it is lent to.
        key: Its key.
        run: Its run.
        content: What was read from files of results, if the store did not have it.
    """

    store: Store
    key: str
    run: Run
    content: Content | None

    @functools.cached_property
    def trial(self) -> Trial:
        """The trial."""
        return self.store.trial(self.run)

    def labels(self) -> Predictions | None:
        """Return the true classes of the images that it was measured on, None if not known."""
        split = split_of(self.trial)
        own = labels_here(split)
        return own if own is not None or self.content is None else self.content.labels.get(split)


def is_key(what: Path | str) -> bool:
    """Return whether a word is a key of a trial, or its first digits, and no file or folder."""
    return bool(_KEY.fullmatch(str(what))) and not Path(what).exists()


def find(prefix: str, results: Path) -> Found:
    """Look up a trial in the store, or else in the files of results of all suites.

    Args:
        prefix: Key of the trial, or its first digits.
        results: The results folder.

    Raises:
        QbenchError: No trial has the key, several have, or its record in a file is refused.
    """
    from qbench.store.mlflow import Store

    if not _KEY.fullmatch(prefix):
        raise QbenchError(
            f"'{prefix}' is no key; a key is up to 16 digits 0–9 and a–f. Pretrained weights are "
            "written MODEL:WEIGHTS, as in resnet18:torchvision"
        )
    store, content = Store(results), None
    found = store.find(prefix)
    if not found:
        files = [
            file
            for file in exported.in_folder(results)
            if any(key.startswith(prefix) for key in exported.keys_in(file))
        ]
        content = exported.read(files)
        store.lend(content.good)
        found = store.find(prefix)
        for refusal in content.refused:
            if not found and refusal.key.startswith(prefix):
                raise QbenchError(f"refused: {refusal}")
    if not found:
        raise QbenchError(f"no recorded trial has a key that starts with '{prefix}'")
    if len(found) > 1:
        keys = ", ".join(sorted(found)[:5]) + (" …" if len(found) > 5 else "")
        raise QbenchError(f"'{prefix}' fits {len(found)} trials: {keys}")
    return Found(store, *next(iter(found.items())), content)


class Chosen(NamedTuple):
    """Trials that a command names by a key or a suite.

    Attributes:
        store: Store that has them, or that they are lent to.
        runs: Their runs; empty if nothing of a suite is finished. A trial that is named by its
            key may have failed.
        data: Options of the dataset; None for a trial that is named by its key.
    """

    store: Store
    runs: list[Run]
    data: Mapping[str, Any] | None


def choose(
    what: Path,
    results: Path,
    assignments: Sequence[str] | None,
    plugins: Sequence[Plugin],
    *,
    from_file: bool,
) -> Chosen:
    """Look up the finished trials of a suite, or the trial of a key.

    Args:
        what: Key of a trial, or its first digits; or a suite.
        results: The results folder.
        assignments: Overrides of the suite's values. A key has none.
        plugins: Python files of methods, models and datasets.
        from_file: Whether trials of a suite that the store lacks are read from its file of results.

    Raises:
        QbenchError: No trial has the key or several have, or the suite has mistakes.
    """
    from qbench.benchmark.benchmark import Benchmark
    from qbench.plugins import load_plugin

    if is_key(what):
        for plugin in plugins:
            load_plugin(plugin)
        found = find(str(what), results)
        return Chosen(found.store, [found.run], None)
    benchmark = Benchmark.open(what, results, assignments or (), plugins)
    if from_file:
        benchmark.read_file()
    done = [
        benchmark.runs[planned.trial.key]
        for planned in benchmark.planned
        if benchmark.status(planned) == "done"
    ]
    return Chosen(benchmark.store, done, benchmark.suite.data)


def show_trial(record: dict[str, Any]) -> None:
    """Print everything that is recorded of one trial.

    Args:
        record: What `trial` returns.
    """
    console = Console(highlight=False)
    for section, content in record.items():
        if isinstance(content, dict):
            console.print(f"[bold]{section}[/]")
            table = Table.grid(padding=(0, 2))
            for name, value in content.items():
                shown = f"{value:.6g}" if isinstance(value, float) else str(value)
                table.add_row(f"  {name}", shown)
            console.print(table, markup=False)
        elif isinstance(content, list):
            console.print(f"[bold]{section}[/]")
            for item in content:
                console.print(f"  {_counted(item) if section == 'audit' else item}", soft_wrap=True)
        elif content:
            style = "yellow" if section == "stale" else None
            console.print(f"[bold]{section}[/] {escape(str(content))}", style=style, soft_wrap=True)


def _counted(count: dict[str, Any]) -> str:
    levels = f"{count['levels']} of {count['promised']} levels"
    return f"{count['layer']}.{count['tensor']}: {levels} ({count['scope']})"
