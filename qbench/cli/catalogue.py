"""Look up methods, models, datasets, suites and recorded trials, and print them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qbench import registry
from qbench.errors import QbenchError
from qbench.plugins import Plugin, load_plugin
from qbench.quant.options import build_method, method_options, quantizes
from qbench.report.problems import noted
from qbench.spec.metrics import MEASURED
from qbench.suite.bundled import bundled_suites

if TYPE_CHECKING:
    from mlflow.entities import Run

    from qbench.spec.trial import Trial
    from qbench.store.mlflow import Store


def rows(
    kind: str, plugins: Sequence[Plugin] = (), problems: list[str] | None = None
) -> list[dict[str, Any]]:
    """Return one entry for each item of a kind.

    Args:
        kind: ``methods``, ``models``, ``datasets`` or ``suites``.
        plugins: Python files to load first.
        problems: Receives a line for each item that has no entry, with the reason.

    Returns:
        The entries, all with the same keys.

    Raises:
        QbenchError: A file cannot be loaded.
    """
    problems = [] if problems is None else problems
    for plugin in plugins:
        load_plugin(plugin)
    match kind:
        case "methods":
            return _each(registry.names("methods"), _method, problems)
        case "models":
            from qbench.models import torchvision_names

            own = [
                {"name": name, "source": registry.origin("models", name)}
                for name in registry.names("models")
            ]
            return own + [{"name": n, "source": "torchvision"} for n in torchvision_names()]
        case "datasets":
            return _each(registry.names("datasets"), _dataset, problems)
        case _:
            here = {path.stem: path for path in sorted(Path("suites").glob("*.yaml"))}
            return [_suite(path) for path in (bundled_suites() | here).values()]


def show(entries: Sequence[dict[str, Any]]) -> None:
    """Print entries as a table.

    Args:
        entries: Entries as `rows` returns them. Values that are dictionaries are left out.
    """
    if not entries:
        Console().print("None here.")
        return
    columns = [name for name, value in entries[0].items() if not isinstance(value, dict)]
    table = Table(*columns, box=None, pad_edge=False)
    for entry in entries:
        table.add_row(*(str(entry[name]) for name in columns))
    Console(highlight=False).print(table)


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
    from qbench.store.tags import CLIPPED, ENVIRONMENT, PLACED, REASON, STATUS, coverage_of

    store, key, run = _find(prefix, results)
    tags = run.data.tags
    own = {name: value for name, value in tags.items() if name.startswith(ENVIRONMENT)}
    shares = coverage_of(tags)
    return {
        "key": key,
        "status": tags[STATUS],
        "reason": tags[REASON],
        "stale": _stale(store.trial(run), run),
        "trial": store.trial(run).model_dump(mode="json"),
        "metrics": dict(sorted(run.data.metrics.items())),
        "audit": store.read(run, AUDIT_FILE),
        "coverage": shares.model_dump() if shares is not None else None,
        "placed": tags.get(PLACED, ""),
        "clipped": tags.get(CLIPPED, ""),
        "environment": {name.removeprefix(ENVIRONMENT): value for name, value in own.items()},
        "mlflow_run": run.info.run_id,
        "artifacts": store.place(run),
    }


def _stale(trial: Trial, run: Run) -> str:
    """Return why a finished trial is stale, or an empty string.

    The code of a trial can only be compared with the present one if the files that define its
    method, model and dataset are given.
    """
    from qbench.benchmark import stale
    from qbench.store.tags import EDITED, was_changed

    if run.info.status != "FINISHED":
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

    store, key, run = _find(prefix, results)
    what = store.trial(run)
    observed = WeightObservations.model_validate_json(store.text(run, OBSERVATIONS_FILE))
    row = what.model_dump() | {"key": key, "label": _title(what.method)}
    row |= {"status": "done", "audit": run.data.tags[AUDIT]}
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


def _find(prefix: str, results: Path) -> tuple[Store, str, Run]:
    from qbench.store.mlflow import Store

    if not re.fullmatch(r"[0-9a-f]{1,16}", prefix):
        raise QbenchError(
            f"'{prefix}' is no key; a key is up to 16 digits 0–9 and a–f. Pretrained weights are "
            "written MODEL:WEIGHTS, as in resnet18:torchvision"
        )
    store = Store(results)
    found = store.find(prefix)
    if not found:
        raise QbenchError(f"no recorded trial has a key that starts with '{prefix}'")
    if len(found) > 1:
        keys = ", ".join(sorted(found)[:5]) + (" …" if len(found) > 5 else "")
        raise QbenchError(f"'{prefix}' fits {len(found)} trials: {keys}")
    return store, *next(iter(found.items()))


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


def _each(
    names: Iterable[str], entry: Callable[[str], dict[str, Any]], problems: list[str]
) -> list[dict[str, Any]]:
    """Return the entries of items, without those that raise."""
    found = []
    for name in names:
        with noted(problems, name):
            found.append(entry(name))
    return found


def _method(name: str) -> dict[str, Any]:
    cls = registry.method_class(name)
    return {
        "name": name,
        "title": cls.title,
        "paper": cls.paper,
        "quantizes": quantizes(name),
        "options": _options(name),
    }


def _options(name: str) -> dict[str, Any]:
    try:
        return method_options(build_method(name, {}))
    except QbenchError:  # an option without a default
        return {}


def _dataset(name: str) -> dict[str, Any]:
    dataset = registry.build_dataset(name)
    train, test = dataset.sizes()
    return {
        "name": name,
        "title": dataset.title,
        "task": dataset.task,
        "classes": dataset.num_classes,
        "image": "×".join(map(str, dataset.image_shape)),
        "train": train,
        "test": test,
        "source": dataset.source,
        "here": "no" if dataset.missing() else "yes",
    }


def _suite(path: Path) -> dict[str, Any]:
    from qbench.suite.suite import load_suite

    try:
        suite = load_suite(path)
    except QbenchError as error:
        return {"name": path.stem, "file": str(path), "title": f"mistakes: {error}"}
    return {"name": suite.name, "file": str(path), "title": suite.title}
