"""Recording of a result as a run of MLflow: its metrics, parameters, tags and artifacts."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from pydantic import TypeAdapter

from qbench.spec.result import ImageDetections, Result, WeightObservations
from qbench.spec.trial import Trial
from qbench.store.connection import Connection
from qbench.store.tags import (
    AUDIT,
    CODE,
    DIGEST,
    ENVIRONMENT,
    FINAL,
    IMPORTED,
    KEY,
    LEVELS,
    REASON,
    RESULT,
    STATUS,
    TRIAL,
    UNREADABLE,
    digest,
)

AUDIT_FILE = "audit.json"
ENVIRONMENT_FILE = "environment.json"
EXAMPLES_FILE = "examples.json"
HISTORY_FILE = "history.json"
TRACEBACK_FILE = "traceback.txt"
UNREADABLE_FILE = "unreadable.json"
WEIGHTS_FILE = "weights.pt"
_BATCH = 1000  # metrics that MLflow takes at once
_TAG_LENGTH = 4000


def record(connection: Connection, result: Result, folder: Path | None) -> None:
    """Record a result as a run of the experiment that is named after its suite.

    A result that is already recorded is not recorded again. If a killed command has left an
    incomplete run of it, that run is completed.

    Args:
        connection: Connection to the store.
        result: Result of a trial.
        folder: Folder of its ``weights.pt``, if it has any. None marks a result that was trained
            elsewhere and has no weights.

    Raises:
        QbenchError: MLflow refuses. No incomplete result is listed under the trial's key.
    """
    trial = result.trial
    identity = hashlib.sha256(result.model_dump_json().encode()).hexdigest()
    known = list(connection.search(f"tags.`{KEY}` = '{trial.key}'"))
    same = [run for run in known if run.data.tags.get(RESULT) == identity]
    if any(run.info.status == "FINISHED" for run in known) or any(
        run.info.status == "FAILED" for run in same
    ):
        return
    with connection.reporting("cannot record a trial in"):
        run_id = same[0].info.run_id if same else _create(connection, result, identity)
        with tempfile.TemporaryDirectory() as scratch:
            _write_artifacts(result, folder, Path(scratch))
            connection.client.log_artifacts(run_id, scratch)
        _log(connection, run_id, result, imported=folder is None)
        status = "FINISHED" if result.status == "done" else "FAILED"
        connection.client.set_terminated(run_id, status, _ended(result))


def _create(connection: Connection, result: Result, identity: str) -> str:
    """Create the run of a result and return its id."""
    run = connection.client.create_run(
        connection.experiment(result.suite),
        start_time=_started(result),
        run_name=result.trial.name,
        tags={KEY: result.trial.key, RESULT: identity, "mlflow.source.name": "qbench"},
    )
    return str(run.info.run_id)


def _log(connection: Connection, run_id: str, result: Result, imported: bool) -> None:
    """Log the metrics, parameters and tags of a result."""
    started, ended = _started(result), _ended(result)
    metrics = [
        Metric(name, value, started, int(record["epoch"]))
        for record in result.history
        for name, value in record.items()
        if name != "epoch"
    ]
    last = int(result.history[-1]["epoch"]) if result.history else 0
    final = {f"{FINAL}{name}": value for name, value in result.metrics.items()}
    final |= {"seconds": result.seconds, "train_seconds": result.train_seconds}
    metrics += [Metric(name, value, ended, last) for name, value in final.items()]
    params = [Param(name, value) for name, value in _params(result.trial).items()]
    tags = _tags(result, imported)
    tags[DIGEST] = digest(tags, final)
    run_tags = [RunTag(name, value) for name, value in tags.items()]
    connection.client.log_batch(run_id, metrics[:_BATCH], params, run_tags)
    for start in range(_BATCH, len(metrics), _BATCH):
        connection.client.log_batch(run_id, metrics[start : start + _BATCH])


def _tags(result: Result, imported: bool) -> dict[str, str]:
    """Return the tags of a result's run, without the digest."""
    tags = {
        TRIAL: result.trial.model_dump_json(),
        STATUS: result.status,
        REASON: result.reason[:_TAG_LENGTH],
        AUDIT: result.audit_text[:_TAG_LENGTH],
        LEVELS: json.dumps(result.levels),
        **{tag: str(getattr(result.code, name)) for name, tag in CODE.items()},
        UNREADABLE: result.unreadable_text[:_TAG_LENGTH],
        **{f"{ENVIRONMENT}{name}": value for name, value in result.environment.items()},
    }
    return {**tags, IMPORTED: "true"} if imported else tags


def _params(trial: Trial) -> dict[str, str]:
    """Flatten a trial to MLflow parameters: ``recipe.lr``, ``options.temperature_rate``."""
    flat: dict[str, Any] = {}
    for name, value in trial.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        elif value is not None:
            flat[name] = value
    return {name: str(value) for name, value in flat.items()}


def _write_artifacts(result: Result, source: Path | None, folder: Path) -> None:
    """Write the artifacts of a result to a folder."""
    contents = {
        "trial.json": result.trial.model_dump(mode="json"),
        HISTORY_FILE: result.history,
        AUDIT_FILE: [count.model_dump() for count in result.audit],
        ENVIRONMENT_FILE: result.environment,
        UNREADABLE_FILE: result.unreadable,
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    observed = result.model_dump_json(include=set(WeightObservations.model_fields))
    (folder / "weights.json").write_text(observed + "\n", encoding="utf-8")
    if result.examples:
        text = TypeAdapter(list[ImageDetections]).dump_json(result.examples).decode()
        (folder / EXAMPLES_FILE).write_text(text + "\n", encoding="utf-8")
    if result.traceback:
        (folder / TRACEBACK_FILE).write_text(result.traceback, encoding="utf-8")
    if source is not None and (source / WEIGHTS_FILE).exists():
        shutil.copyfile(source / WEIGHTS_FILE, folder / WEIGHTS_FILE)


def _started(result: Result) -> int:
    """Return the start of a trial in MLflow's unit, milliseconds since 1970."""
    return int(1000 * result.started)


def _ended(result: Result) -> int:
    """Return the end of a trial in milliseconds since 1970."""
    return int(1000 * (result.started + result.seconds))
