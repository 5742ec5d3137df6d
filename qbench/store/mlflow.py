"""The store records each trial as an MLflow run, looks runs up and fetches their artifacts.

The default store is a sqlite database in the results folder. ``MLFLOW_TRACKING_URI`` names another
store, such as a tracking server. A run counts once its status is FINISHED or FAILED. The status is
written last, so an incomplete run is never listed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pandas as pd
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import TypeAdapter

from qbench import files
from qbench.errors import QbenchError
from qbench.spec.bits import BitWidths
from qbench.spec.result import (
    ImageDetections,
    LevelCount,
    Levels,
    Result,
    WeightObservations,
    most_levels,
)
from qbench.spec.trial import Trial
from qbench.store import lock
from qbench.store.sqlite import ended_runs
from qbench.store.tags import (
    CODE,
    ENVIRONMENT,
    FINAL,
    IMPORTED,
    KEY,
    SET_ASIDE,
    code_of,
    digest,
    trial_of,
)

EXAMPLES = "examples.json"
_HISTORY = "history.json"
_PAGE = 1000
_SQLITE = "sqlite:///"
_TAG_LENGTH = 4000


class Store:
    """Store of trials in MLflow.

    Args:
        results: Results folder, which holds the default store.
        local: If True, use the default store and ignore ``MLFLOW_TRACKING_URI``.

    Raises:
        QbenchError: The store cannot be opened. A database raises it on the first read or write.
    """

    def __init__(self, results: Path, local: bool = False) -> None:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="mlflow")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._artifacts: str | None = None
        self._folder = results
        self.uri = "" if local else os.environ.get("MLFLOW_TRACKING_URI", "")
        if not self.uri:
            results.mkdir(parents=True, exist_ok=True)
            self.uri = f"{_SQLITE}{(results / 'mlflow.db').resolve()}"
            self._artifacts = (results / "artifacts").resolve().as_uri()
        self._connection: MlflowClient | None = None
        if not self.uri.startswith(_SQLITE):  # a database is read without a client
            self._connect()

    @property
    def _client(self) -> MlflowClient:
        return self._connect()

    def _connect(self) -> MlflowClient:
        """Connect to the store on the first call and return its client.

        Raises:
            QbenchError: The store cannot be opened.
        """
        if self._connection is not None:
            return self._connection
        # Two commands that create one database at the same time corrupt it.
        only = _holding(self._folder) if self._artifacts is not None else nullcontext()
        try:
            with only:
                client = MlflowClient(tracking_uri=self.uri)
                client.search_experiments(max_results=1)
        except Exception as error:
            raise QbenchError(f"cannot open the store {self.uri}: {_first_line(error)}") from error
        self._connection = client
        return client

    def record(self, result: Result, folder: Path | None) -> None:
        """Record a result as a run of the experiment that is named after its suite.

        A result that is already recorded is not recorded again.

        Args:
            result: Result of the trial.
            folder: Folder of its ``weights.pt``, if it has any. None marks a result that was
                trained elsewhere and has no weights.

        Raises:
            QbenchError: MLflow refuses. No incomplete result is listed under the trial's key.
        """
        try:
            self._record(result, folder)
        except (MlflowException, OSError) as error:
            raise QbenchError(
                f"cannot record a trial in {self.uri}: {_first_line(error)}"
            ) from error

    def _record(self, result: Result, folder: Path | None) -> None:
        trial = result.trial
        if self._is_recorded(result):
            return
        ended = int(1000 * (result.started + result.seconds))
        run = self._client.create_run(
            self._experiment(result.suite),
            start_time=int(1000 * result.started),
            run_name=trial.name,
            tags={"qbench.key": trial.key, "mlflow.source.name": "qbench"},
        )
        run_id = run.info.run_id
        at = int(1000 * result.started)
        metrics = [
            Metric(name, value, at, int(record["epoch"]))
            for record in result.history
            for name, value in record.items()
            if name != "epoch"
        ]
        last = int(result.history[-1]["epoch"]) if result.history else 0
        final = {f"{FINAL}{name}": value for name, value in result.metrics.items()}
        final |= {"seconds": result.seconds, "train_seconds": result.train_seconds}
        metrics += [Metric(name, value, ended, last) for name, value in final.items()]
        params = [Param(name, value) for name, value in _params(trial).items()]
        tags = {
            "qbench.trial": trial.model_dump_json(),
            "qbench.status": result.status,
            "qbench.reason": result.reason[:_TAG_LENGTH],
            "qbench.audit": result.audit_text[:_TAG_LENGTH],
            "qbench.levels": json.dumps(result.levels),
            **{tag: str(getattr(result.code, name)) for name, tag in CODE.items()},
            "qbench.unreadable": result.unreadable_text[:_TAG_LENGTH],
            **{f"{ENVIRONMENT}{name}": value for name, value in result.environment.items()},
        }
        if folder is None:
            tags[IMPORTED] = "true"
        tags["qbench.digest"] = digest(tags, final)
        run_tags = [RunTag(name, value) for name, value in tags.items()]
        self._client.log_batch(run_id, metrics[:1000], params, run_tags)
        for start in range(1000, len(metrics), 1000):
            self._client.log_batch(run_id, metrics[start : start + 1000])
        with tempfile.TemporaryDirectory() as scratch:
            self._write_artifacts(result, folder, Path(scratch))
            self._client.log_artifacts(run_id, scratch)
        status = "FINISHED" if result.status == "done" else "FAILED"
        self._client.set_terminated(run_id, status, ended)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context manager that allows one machine at a time to work on this store.

        It blocks until the commands of other machines have ended. A store in a results folder has
        a lock file instead.

        Raises:
            QbenchError: The store cannot be reached.
        """
        self._connect()  # reports an error before the training instead of after it
        if self._artifacts is not None:  # a results folder has a lock file
            yield
            return
        with ExitStack() as stack:
            try:
                experiment = self._experiment(lock.EXPERIMENT)
                stack.enter_context(lock.alone(self._client, experiment))
            except MlflowException as error:
                raise QbenchError(f"cannot write to {self.uri}: {_first_line(error)}") from error
            yield

    def _is_recorded(self, result: Result) -> bool:
        """Return whether a run holds this result, and delete an incomplete run of it.

        A killed command leaves an incomplete run. If another machine has finished the trial in the
        meantime, its run counts.
        """
        started = int(1000 * result.started)
        of_trial = f"tags.`qbench.key` = '{result.trial.key}'"
        for run in list(self._search(of_trial, "attributes.start_time ASC")):
            if run.info.status == "FINISHED":
                return True
            if run.info.start_time == started:
                if run.info.status == "FAILED":
                    return True
                self._client.delete_run(run.info.run_id)
        return False

    def _write_artifacts(self, result: Result, source: Path | None, folder: Path) -> None:
        files = {
            "trial.json": result.trial.model_dump(mode="json"),
            _HISTORY: result.history,
            "audit.json": [count.model_dump() for count in result.audit],
            "environment.json": result.environment,
            "unreadable.json": result.unreadable,
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        observed = result.model_dump_json(include=set(WeightObservations.model_fields))
        (folder / "weights.json").write_text(observed + "\n", encoding="utf-8")
        if result.examples:
            text = TypeAdapter(list[ImageDetections]).dump_json(result.examples).decode()
            (folder / EXAMPLES).write_text(text + "\n", encoding="utf-8")
        if result.traceback:
            (folder / "traceback.txt").write_text(result.traceback, encoding="utf-8")
        if source is not None and (source / "weights.pt").exists():
            shutil.copyfile(source / "weights.pt", folder / "weights.pt")

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = f"{self._artifacts}/{name}" if self._artifacts else None
        try:
            return str(self._client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process created it in between
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def runs(self, keys: Iterable[str]) -> dict[str, Run]:
        """Return the run that counts for each key.

        It is the first run that finished, or the last that failed if none finished. Runs that were
        set aside do not count.

        Args:
            keys: Keys of trials.

        Returns:
            Runs by key. Keys of trials that have not ended are absent.

        Raises:
            QbenchError: The store cannot be read.
        """
        wanted = set(keys)
        best: dict[str, Run] = {}
        ended = self._ended()
        for run in ended:
            if run.info.status == "FAILED":
                best[run.data.tags[KEY]] = run
        for run in reversed(ended):
            if run.info.status == "FINISHED":
                best[run.data.tags[KEY]] = run
        return {key: run for key, run in best.items() if key in wanted}

    def finished(self) -> list[Run]:
        """Return the first finished run of each trial, in the order in which they started.

        Runs that were set aside do not count.

        Raises:
            QbenchError: The store cannot be read.
        """
        first: dict[str, Run] = {}
        for run in self._ended():
            if run.info.status == "FINISHED":
                first.setdefault(run.data.tags[KEY], run)
        return list(first.values())

    def set_aside(self, runs: Iterable[Run]) -> None:
        """Mark runs so that they no longer count and their trials are trained again.

        The runs stay in the store.

        Args:
            runs: Runs to set aside.

        Raises:
            QbenchError: MLflow refuses.
        """
        try:
            for run in runs:
                self._client.set_tag(run.info.run_id, SET_ASIDE, "trained again")
        except (MlflowException, OSError) as error:
            raise QbenchError(f"cannot write to {self.uri}: {_first_line(error)}") from error

    def find(self, prefix: str) -> dict[str, Run]:
        """Return the runs that count whose key starts with a prefix.

        Args:
            prefix: Start of a key.

        Returns:
            Runs by key, chosen as by `runs`.

        Raises:
            QbenchError: The store cannot be read.
        """
        found = self._search(f"tags.`qbench.key` LIKE '{prefix}%'", "attributes.start_time ASC")
        return self.runs({run.data.tags["qbench.key"] for run in found})

    def histories(self, runs: dict[str, Run], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the metrics of finished runs by epoch.

        Args:
            runs: Finished runs by key.
            metrics: Names of the metrics.

        Returns:
            A row for each key and epoch, with the columns ``key``, ``epoch`` and ``metrics``.
        """
        records = [
            {"key": key, **record}
            for key, run in runs.items()
            for record in self._history(run, metrics)
        ]
        return pd.DataFrame(records, columns=["key", "epoch", *metrics])

    def _history(self, run: Run, metrics: Sequence[str]) -> Iterable[dict[str, float]]:
        """Return the metrics of each epoch, from a local file if there is one: that is faster."""
        if (local := _local(run, _HISTORY)) is not None:
            return list(json.loads(local.read_bytes()))
        rows: dict[int, dict[str, float]] = {}
        for metric in metrics:
            for point in self._client.get_metric_history(run.info.run_id, metric):
                rows.setdefault(point.step, {"epoch": point.step})[metric] = point.value
        return rows.values()

    @staticmethod
    def metrics(run: Run) -> dict[str, float]:
        """Return the metrics of a finished run after the last epoch, by name."""
        return {
            name.removeprefix(FINAL): value
            for name, value in run.data.metrics.items()
            if name.startswith(FINAL)
        }

    def result(self, run: Run) -> Result:
        """Return the result that a run recorded, without weights.

        Args:
            run: Run of a trial that has ended.

        Raises:
            QbenchError: An artifact of the run cannot be fetched.
        """
        tags = run.data.tags
        return Result(
            trial=trial_of(run),
            suite=self._client.get_experiment(run.info.experiment_id).name,
            status="done" if run.info.status == "FINISHED" else "failed",
            reason=tags["qbench.reason"],
            metrics=dict(sorted(self.metrics(run).items())),
            history=self.read(run, _HISTORY),
            audit=self.read(run, "audit.json"),
            started=run.info.start_time / 1000,
            seconds=run.data.metrics["seconds"],
            train_seconds=run.data.metrics["train_seconds"],
            environment=self.read(run, "environment.json"),
            code=code_of(run),
            unreadable=self.read(run, "unreadable.json"),
        )

    def levels(self, run: Run) -> Levels:
        """Return the largest level counts in the audit of a finished run.

        Older runs have no tag for them. Their levels are read from ``audit.json``.

        Returns:
            Level counts of weights and activations, as `Result.levels`. (None, None) if neither
            the tag nor the artifact exists.
        """
        if (tag := run.data.tags.get("qbench.levels")) is not None:
            weights, inputs = json.loads(tag)
            return weights, inputs
        try:
            counts = [LevelCount.model_validate(count) for count in self.read(run, "audit.json")]
        except QbenchError:
            return None, None
        return most_levels(counts, BitWidths.parse(trial_of(run).bits))

    def read(self, run: Run, artifact: str) -> Any:
        """Return the parsed content of a JSON artifact.

        Args:
            run: Run that has the artifact.
            artifact: Name of the artifact.

        Raises:
            QbenchError: The run has no such artifact, or it cannot be fetched.
        """
        return json.loads(self.text(run, artifact))

    def text(self, run: Run, artifact: str) -> str:
        """Return the text of an artifact.

        An artifact on the local disk is read without a download.

        Args:
            run: Run that has the artifact.
            artifact: Name of the artifact.

        Raises:
            QbenchError: The run has no such artifact, or it cannot be fetched.
        """
        if (local := _local(run, artifact)) is not None:
            return local.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            return self.fetch(run, artifact, Path(scratch)).read_text(encoding="utf-8")

    def examples(self, run: Run) -> list[ImageDetections]:
        """Return the detections of a run in the first test images.

        Returns:
            Detections of each image. Empty if the run trained no detector.

        Raises:
            QbenchError: The detections cannot be fetched.
        """
        if not any(item.path == EXAMPLES for item in self._client.list_artifacts(run.info.run_id)):
            return []
        with tempfile.TemporaryDirectory() as scratch:
            text = self.fetch(run, EXAMPLES, Path(scratch)).read_bytes()
        return TypeAdapter(list[ImageDetections]).validate_json(text)

    def fetch(self, run: Run, artifact: str, target: Path) -> Path:
        """Download an artifact of a run.

        Args:
            run: Run that has the artifact.
            artifact: Name of the artifact.
            target: Folder to download to.

        Returns:
            Path of the downloaded file.

        Raises:
            QbenchError: The run has no such artifact, or it cannot be fetched.
        """
        try:
            found = self._client.download_artifacts(run.info.run_id, artifact, str(target))
        except Exception as error:
            raise QbenchError(
                f"cannot fetch {artifact} of run {run.info.run_id}: {_first_line(error)}"
            ) from error
        return Path(found)

    def _ended(self) -> list[Run]:
        """Return the runs that have ended and count, in the order in which they started."""
        found: Iterable[Run] | None = None
        if self.uri.startswith(_SQLITE):
            found = ended_runs(Path(self.uri.removeprefix(_SQLITE)), KEY)
        if found is None:
            found = self._search("attributes.status != 'RUNNING'", "attributes.start_time ASC")
        states = ("FINISHED", "FAILED")
        return [r for r in found if r.info.status in states and SET_ASIDE not in r.data.tags]

    def _search(self, condition: str, order: str) -> Iterable[Run]:
        """Search the runs of trials through MLflow.

        Raises:
            QbenchError: The store cannot be read.
        """
        try:
            yield from self._pages(condition, order)
        except (MlflowException, OSError) as error:
            raise QbenchError(f"cannot read the store {self.uri}: {_first_line(error)}") from error

    def _pages(self, condition: str, order: str) -> Iterable[Run]:
        experiments = [
            e.experiment_id for e in self._client.search_experiments(view_type=ViewType.ACTIVE_ONLY)
        ]
        token = None
        while experiments:
            page = self._client.search_runs(
                experiments,
                f"{condition} AND tags.`{KEY}` LIKE '%'",
                max_results=_PAGE,
                order_by=[order],
                page_token=token,
            )
            yield from (run for run in page if SET_ASIDE not in run.data.tags)
            token = page.token
            if not token:
                return


@contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """Context manager that locks a results folder. A read-only folder is not locked."""
    with ExitStack() as stack:
        with suppress(OSError):
            (folder / ".state").mkdir(exist_ok=True)
            stack.enter_context(files.lock(folder / ".state" / "store", wait=True))
        yield


def _local(run: Run, artifact: str) -> Path | None:
    """Return the path of an artifact on this machine, or None if it is elsewhere."""
    place = urlsplit(run.info.artifact_uri or "")
    path = Path(url2pathname(place.path)) / artifact
    return path if place.scheme == "file" and path.exists() else None


def _params(trial: Trial) -> dict[str, Any]:
    """Flatten a trial to MLflow parameters: ``recipe.lr``, ``options.temperature_rate``."""
    flat: dict[str, Any] = {}
    for name, value in trial.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        elif value is not None:
            flat[name] = value
    return {name: str(value) for name, value in flat.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
