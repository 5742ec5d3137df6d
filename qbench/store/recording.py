"""Recording of a result as a run of MLflow: its metrics, parameters, tags and artifacts.

The first trial is trained after a check that a run can be written.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from qbench.errors import QbenchError
from qbench.spec.result import ImageDetections, Result, WeightObservations
from qbench.spec.trial import Trial
from qbench.store import artifacts
from qbench.store.connection import Connection, mlflow_reason
from qbench.store.run import Run
from qbench.store.tags import (
    AUDIT,
    BEFORE,
    CHECK,
    CLIPPED,
    CODE,
    COVERAGE,
    DIGEST,
    ENVIRONMENT,
    FINAL,
    IMPORTED,
    KEY,
    LEVELS,
    PLACED,
    PREDICTIONS,
    REASON,
    RESULT,
    SOURCE,
    STATUS,
    TRIAL,
    UNREADABLE,
    digest,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

AUDIT_FILE = "audit.json"
ENVIRONMENT_FILE = "environment.json"
EXAMPLES_FILE = "examples.json"
HISTORY_FILE = "history.json"
OBSERVATIONS_FILE = "weights.json"
PREDICTIONS_FILE = "predictions.json"
TRACEBACK_FILE = "traceback.txt"
TRIAL_FILE = "trial.json"
UNREADABLE_FILE = "unreadable.json"
WEIGHTS_FILE = "weights.pt"
_BATCH = 1000  # metrics that MLflow takes at once
_NOT_IN_NAMES = re.compile(r"[^\w.\-:/ ]")  # characters that MLflow refuses in a name
_PARAM_LENGTH = 500  # of MLflow's versions, the smallest limit
_TAG_LENGTH = 4000  # below the limit of every version


def check(connection: Connection, suite: str, trials: Sequence[Trial]) -> None:
    """Check that results can be recorded, by writing a run and reading it back.

    The run is as large as that of the largest trial. It is deleted, and the next check uses it
    again.

    Args:
        connection: Connection to the store.
        suite: Name of the suite.
        trials: Trials whose results are to be recorded; at least one.

    Raises:
        QbenchError: The store may not be written, its experiment was deleted, or it does not return
            a tag or an artifact as it was written.
    """
    from mlflow.entities import Metric, Param, RunTag

    largest = max(trials, key=lambda trial: len(trial.model_dump_json()))
    tags = {REASON: "x" * _TAG_LENGTH, TRIAL: _trial_tag(largest)}
    with connection.reporting("cannot record results in"):
        client, experiment = connection.client, connection.experiment(suite)
        run_id = _run_of_check(client, experiment)
        try:
            written = client.get_run(run_id).data.params  # which MLflow lets no later check change
            new = {name: value for name, value in _params(largest).items() if name not in written}
            params = [Param(name, value) for name, value in new.items()]
            run_tags = [RunTag(name, value) for name, value in tags.items()]
            client.log_batch(run_id, [Metric(FINAL, 0.0, 0, 0)], params, run_tags)
            run = Run.of(client.get_run(run_id))
            for name, value in tags.items():
                if run.tags.get(name, "") != value:
                    raise QbenchError(
                        f"{connection.address} does not keep a tag of {len(value)} characters"
                    )
            _check_artifacts(connection, run, largest)
        finally:
            with suppress(Exception):
                client.delete_run(run_id)


def _run_of_check(client: MlflowClient, experiment: str) -> str:
    """Return the id of the run that checks write to, and create it for the first check."""
    from mlflow.entities import ViewType

    marked = f"tags.`{CHECK}` = 'true'"
    found = client.search_runs([experiment], marked, ViewType.ALL, max_results=1)
    if not found:
        name = "check before the first trial"
        return str(client.create_run(experiment, run_name=name, tags={CHECK: "true"}).info.run_id)
    if found[0].info.lifecycle_stage == "deleted":
        client.restore_run(found[0].info.run_id)
    return str(found[0].info.run_id)


def _check_artifacts(connection: Connection, run: Run, trial: Trial) -> None:
    """Write an artifact and read it back.

    Raises:
        QbenchError: The artifact cannot be written, or differs when it is read.
    """
    text = trial.model_dump_json()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / TRIAL_FILE).write_text(text, encoding="utf-8")
        _upload(connection, run, Path(scratch))
    if artifacts.text(connection, run, TRIAL_FILE) != text:
        raise QbenchError(f"{connection.address} does not return artifacts as they were written")


def _upload(connection: Connection, run: Run, folder: Path) -> None:
    """Write the files of a folder as artifacts of a run.

    Raises:
        QbenchError: They cannot be written.
    """
    try:
        connection.client.log_artifacts(run.run_id, str(folder))
    except Exception as error:  # storage of artifacts has exceptions of its own
        place = connection.without_password(run.artifact_uri)
        reason = connection.without_password(mlflow_reason(error))
        raise QbenchError(f"cannot write artifacts to {place}: {reason}") from error


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
    same = [run for run in known if run.tags.get(RESULT) == identity]
    if any(run.status == "FINISHED" for run in known) or any(
        run.status == "FAILED" for run in same
    ):
        return
    with connection.reporting("cannot record a trial in"):
        run = same[0] if same else _create(connection, result, identity)
        with tempfile.TemporaryDirectory() as scratch:
            _write_artifacts(result, folder, Path(scratch))
            _upload(connection, run, Path(scratch))
        _log(connection, run.run_id, result, imported=folder is None)
        status = "FINISHED" if result.status == "done" else "FAILED"
        connection.client.set_terminated(run.run_id, status, _ended(result))


def _create(connection: Connection, result: Result, identity: str) -> Run:
    """Create the run of a result."""
    created = connection.client.create_run(
        connection.experiment(result.suite),
        start_time=_started(result),
        run_name=_run_name(result.trial),
        tags={KEY: result.trial.key, RESULT: identity, "mlflow.source.name": "qbench"},
    )
    return Run.of(created)


def _run_name(trial: Trial) -> str:
    """Return the name of a trial's run. MLflow's page cuts names, so what differs comes first."""
    what = [trial.method, trial.bits, f"seed {trial.seed}", trial.model, trial.dataset]
    return " ".join(what + [trial.length] * bool(trial.stop_after))


def _log(connection: Connection, run_id: str, result: Result, imported: bool) -> None:
    """Log the metrics, parameters and tags of a result."""
    from mlflow.entities import Param, RunTag

    metrics = _metrics(result)
    params = [Param(name, value) for name, value in _params(result.trial).items()]
    run_tags = [RunTag(name, value) for name, value in _tags(result, imported).items()]
    connection.client.log_batch(run_id, metrics[:_BATCH], params, run_tags)
    for start in range(_BATCH, len(metrics), _BATCH):
        connection.client.log_batch(run_id, metrics[start : start + _BATCH])


def _metrics(result: Result) -> list[Metric]:
    """Return the metrics of a result's run: those of each epoch, then the final ones."""
    from mlflow.entities import Metric

    started, ended = _started(result), _ended(result)
    metrics = [
        Metric(name, value, started, int(record["epoch"]))
        for record in result.history
        for name, value in record.items()
        if name != "epoch"
    ]
    last = int(result.history[-1]["epoch"]) if result.history else 0
    return metrics + [Metric(name, value, ended, last) for name, value in _final(result).items()]


def _final(result: Result) -> dict[str, float]:
    """Return the metrics of a result's run after the last epoch, and its durations."""
    final = {f"{FINAL}{name}": value for name, value in result.metrics.items()}
    return final | {"seconds": result.seconds, "train_seconds": result.train_seconds}


def _tags(result: Result, imported: bool) -> dict[str, str]:
    """Return the tags of a result's run."""
    tags = {
        TRIAL: _trial_tag(result.trial),
        STATUS: result.status,
        REASON: result.reason[:_TAG_LENGTH],
        AUDIT: result.audit_text[:_TAG_LENGTH],
        LEVELS: json.dumps(result.levels),
        **{tag: str(getattr(result.code, name)) for name, tag in CODE.items()},
        UNREADABLE: result.unreadable_text[:_TAG_LENGTH],
        CLIPPED: result.clipped,
        PLACED: result.placed,
        **{f"{ENVIRONMENT}{name}": value for name, value in result.environment.items()},
    }
    if result.predictions is not None:
        packed = result.predictions.packed.encode()
        tags[PREDICTIONS] = hashlib.sha256(packed).hexdigest()
    if result.coverage is not None:
        tags[COVERAGE] = result.coverage.model_dump_json()
    if result.before_reestimation:
        tags[BEFORE] = json.dumps(result.before_reestimation)
    if result.trial.source is not None:
        tags[SOURCE] = result.trial.source
    if imported:
        tags[IMPORTED] = "true"
    return {**tags, DIGEST: digest(tags, _final(result))}


def _trial_tag(trial: Trial) -> str:
    """Return a trial as JSON, or an empty text if only the artifact has room for it."""
    text = trial.model_dump_json()
    return text if len(text) <= _TAG_LENGTH else ""


def _params(trial: Trial) -> dict[str, str]:
    """Flatten a trial to MLflow parameters: ``recipe.lr``, ``options.temperature_rate``.

    MLflow shows them. Nothing is read from them, so long values are shortened.
    """
    flat: dict[str, Any] = {}
    for name, value in trial.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        elif value is not None:
            flat[name] = value
    return {_NOT_IN_NAMES.sub("_", name): _shortened(str(value)) for name, value in flat.items()}


def _shortened(text: str) -> str:
    return text if len(text) <= _PARAM_LENGTH else f"{text[: _PARAM_LENGTH - 2]} …"


def as_run(result: Result) -> Run:
    """Return the run that `record` would make of a result without weights. Nothing is written.

    Args:
        result: Result of a trial.
    """
    metrics = {name: value for record in result.history for name, value in record.items()}
    metrics.pop("epoch", None)
    return Run(
        f"exported-{result.trial.key}",
        _run_name(result.trial),
        "",
        "FAILED" if result.status == "failed" else "FINISHED",
        _started(result),
        _ended(result),
        "",
        {**_tags(result, imported=True), KEY: result.trial.key},
        metrics | _final(result),
    )


def artifact_texts(result: Result) -> dict[str, str]:
    """Return the artifacts of a result by name, all but its weights.

    Args:
        result: Result of a trial.
    """
    contents = {
        TRIAL_FILE: result.trial.model_dump(mode="json"),
        HISTORY_FILE: result.history,
        AUDIT_FILE: [count.model_dump() for count in result.audit],
        ENVIRONMENT_FILE: result.environment,
        UNREADABLE_FILE: result.unreadable,
    }
    texts = {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}
    observed = result.model_dump_json(include=set(WeightObservations.model_fields))
    texts[OBSERVATIONS_FILE] = observed + "\n"
    if result.predictions is not None:
        texts[PREDICTIONS_FILE] = result.predictions.model_dump_json() + "\n"
    if result.examples:
        examples = TypeAdapter(list[ImageDetections]).dump_json(result.examples).decode()
        texts[EXAMPLES_FILE] = examples + "\n"
    if result.traceback:
        texts[TRACEBACK_FILE] = result.traceback
    return texts


def _write_artifacts(result: Result, source: Path | None, folder: Path) -> None:
    """Write the artifacts of a result to a folder."""
    for name, text in artifact_texts(result).items():
        (folder / name).write_text(text, encoding="utf-8")
    if source is not None and (source / WEIGHTS_FILE).exists():
        shutil.copyfile(source / WEIGHTS_FILE, folder / WEIGHTS_FILE)


def _started(result: Result) -> int:
    """Return the start of a trial in MLflow's unit, milliseconds since 1970."""
    return int(1000 * result.started)


def _ended(result: Result) -> int:
    """Return the end of a trial in milliseconds since 1970."""
    return int(1000 * (result.started + result.seconds))
