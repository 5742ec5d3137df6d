"""Read finished trials from a suite, a store, exported files or a CSV, in one form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qbench.benchmark import exported
from qbench.errors import QbenchError, nearest
from qbench.plugins import Plugin, load_plugin
from qbench.quant.options import build_method, method_options
from qbench.report.studies import NUMBERS, means
from qbench.report.summary import RESULT
from qbench.spec.metrics import MEASURED
from qbench.spec.trial import FP32, Trial
from qbench.suite.bundled import bundled_suites

_SUITES = (".yaml", ".yml")
_TRIALS = "trials.csv"
_OWN = ("key", "method", "label", "options", "training", *RESULT, "seed", "status")
_REQUIRED_COLUMNS = tuple(dict.fromkeys(_OWN))  # of a trials.csv
_MAIN_METRICS = tuple(names[0] for names in MEASURED.values())  # the first of each task


def load(path: Path, results: Path, plugins: Sequence[Plugin] = ()) -> pd.DataFrame:
    """Read finished trials from anything that qbench writes.

    Trials that are measured on validation images are left out. In tables of a tuned suite, a study
    takes the place of its trials, which share their winner: its value is their mean, and its seed
    is the number of the study.

    Args:
        path: YAML file or name of a suite; folder with a store, with the tables of a suite, with
            such folders, or with exported files; ``trials.csv``; ``trials.jsonl.gz``; or the JSON
            file of a trial.
        results: The results folder in which the trials of a suite are looked up.
        plugins: Python files of methods, models and datasets. Methods are added to a suite.

    Returns:
        A frame with one row for each trial and the columns ``key``, ``method``, ``label``,
        ``options``, ``dataset``, ``model``, ``bits``, ``seed``, ``training``, ``stale`` (why the
        result is stale, or an empty string) and ``value`` (the first metric of the task, in %).

    Raises:
        QbenchError: The path is none of these, cannot be read, or holds no finished trial; or it is
            an exported file of a tuned suite, in which nothing tells studies apart.
    """
    for plugin in plugins:
        load_plugin(plugin)
    if not path.exists() and str(path) not in bundled_suites():
        near = nearest(path.name, (p.name for p in path.parent.glob("*")))
        raise QbenchError(f"{path}: no such file or folder{near}")
    if path.suffix in _SUITES or not path.exists():
        found = _from_suite(path, results, plugins)
    elif path.suffix == ".csv":
        found = _from_csv(path)
    elif (path / "mlflow.db").exists():
        found = _from_store(path)
    elif tables := [*path.glob(_TRIALS), *sorted(path.glob(f"*/{_TRIALS}"))]:
        found = pd.concat(map(_from_csv, tables), ignore_index=True).drop_duplicates("key")
    elif path.is_dir() or path.name.endswith((".json", exported.FILE)):
        content = exported.read([path])
        if content.refused:
            raise QbenchError("\n".join(map(str, content.refused)))
        for place, result in content.good:
            if result.trial.validation:
                raise QbenchError(
                    f"{place}: a trial of a tuned suite, whose studies are not in this file; "
                    "compare the suite, or the folder of its tables"
                )
        read = (result for _, result in content.good if result.status == "done")
        found = _from_trials((result.trial, result.metrics) for result in read)
    else:
        raise QbenchError(
            f"{path}: compare suites (.yaml), folders that qbench wrote, trials.csv or "
            f"{exported.FILE}, or .json files of trials"
        )
    if found.empty:
        raise QbenchError(f"{path}: nothing in it is finished")
    return found


def _from_suite(path: Path, results: Path, plugins: Sequence[Plugin]) -> pd.DataFrame:
    from qbench.benchmark import tuned_frames
    from qbench.benchmark.benchmark import Benchmark

    benchmark = Benchmark.open(path, results, plugins=plugins)
    benchmark.read_file()
    trials = benchmark.trials()
    if benchmark.tuned is not None:
        trials = _studies(tuned_frames.second_stage(benchmark, trials))
    return _done(trials, benchmark.dataset.shown[0])


def _studies(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the means of studies. The key of each is those of its trials."""
    found = means(trials)
    keys = trials.groupby([*RESULT, "study"], sort=False)["key"].agg(" ".join)
    return found.assign(key=list(keys))


def _from_csv(path: Path) -> pd.DataFrame:
    frame, metric = _read_csv(path)
    if "study" in frame:
        frame = frame.assign(study=frame["study"].astype(int), audit=frame.get("audit", ""))
        for name in NUMBERS:
            if name in frame:
                frame[name] = pd.to_numeric(frame[name])
        tuned = frame[frame["study"] > 0]
        frame = _studies(tuned.assign(values=tuned["searched"].map(json.loads)))
    return _done(frame, metric)


def _read_csv(path: Path) -> tuple[pd.DataFrame, str]:
    """Return the texts of a ``trials.csv``, and the metric that is compared."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise QbenchError(f"{path}: not CSV: {error}") from error
    for name in _REQUIRED_COLUMNS:
        if name not in frame:
            raise QbenchError(f"{path}: has no column '{name}'; give a trials.csv")
    metric = next((name for name in _MAIN_METRICS if name in frame), None)
    if metric is None:
        raise QbenchError(f"{path}: has no column of {' or '.join(_MAIN_METRICS)}")
    return frame, metric


def _done(trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    done = trials[trials["status"] == "done"]
    stale = done.get("stale", "")  # older files have no such column
    value = pd.to_numeric(done[metric])
    return done.assign(value=value, seed=done["seed"].astype(int), stale=stale)


def _from_store(path: Path) -> pd.DataFrame:
    from qbench.store.mlflow import Store
    from qbench.store.tags import EDITED, was_changed

    store = Store(path, local=True)
    trials = [(run, store.trial(run)) for run in store.finished()]
    trials = [(run, trial) for run, trial in trials if not trial.validation]
    found = _from_trials((trial, store.metrics(run)) for run, trial in trials)
    return _named_as_in_tables(
        found.assign(stale=[EDITED if was_changed(run) else "" for run, _ in trials]), path
    )


def _named_as_in_tables(found: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return trials with the names of rows and datasets that tables beside the store have."""
    tables = [_read_csv(file)[0] for file in sorted(path.glob(f"*/{_TRIALS}"))]
    if found.empty or not tables:
        return found
    named = pd.concat(tables).drop_duplicates("key").set_index("key")
    for column in ("label", "dataset"):
        found[column] = found["key"].map(named[column]).fillna(found[column])
    return found


def _from_trials(found: Iterable[tuple[Trial, dict[str, float]]]) -> pd.DataFrame:
    """Return rows of trials without a suite.

    A row's label is the method's title and those options that differ from their defaults.
    """
    return pd.DataFrame(
        [
            {
                **trial.model_dump(include={"method", "dataset", "model", "bits", "seed"}),
                "key": trial.key,
                "label": _label(trial),
                "options": json.dumps(trial.options, sort_keys=True),
                "training": trial.recipe.model_dump_json(),
                "threads": trial.threads,
                "layers": str(trial.layers),
                "placement": trial.placement,
                "data": json.dumps(trial.data, sort_keys=True),
                "stale": "",
                "value": metrics[MEASURED[trial.task][0]],
            }
            for trial, metrics in found
        ]
    )


def _label(trial: Trial) -> str:
    label, change = _title(trial.method, trial.options), trial.prepared
    if trial.method == FP32 and trial.network:
        label += f", {trial.network}"
    if trial.method == FP32 and change is not None:
        label += f", changed by {_title(change.method, change.options)} for {change.bits}"
    return label


def _title(method: str, options: dict[str, Any]) -> str:
    try:
        built = build_method(method, {})
        title, defaults = built.title, method_options(built)
    except QbenchError:  # an unknown method, or options without a default
        title, defaults = method, {}
    changed = [f"{k}={v}" for k, v in options.items() if k not in defaults or defaults[k] != v]
    return f"{title} ({', '.join(changed)})" if changed else title
