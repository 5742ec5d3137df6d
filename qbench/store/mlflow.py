"""The store: every trial is an MLflow run. Record, look up, fetch.

The default store is a sqlite database in the results folder; ``MLFLOW_TRACKING_URI`` names
another, such as a tracking server. A run counts once its status is FINISHED or FAILED, which is
written last: a half-written run is never listed.
"""

from __future__ import annotations

import functools
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
from qbench.spec.bits import Bits
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
    """Trials recorded in MLflow.

    Args:
        results: the results folder, for the default store.
        local: whether to use the default store whatever the environment says.

    Raises:
        QbenchError: the store cannot be opened; the message says why. Of a database, this is told
            when it is first read or written.
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
        if not self.uri.startswith(_SQLITE):  # a database is read without it
            _ = self._client

    @functools.cached_property
    def _client(self) -> MlflowClient:
        # Two commands that make one database at the same time break it.
        only = _holding(self._folder) if self._artifacts is not None else nullcontext()
        try:
            with only:
                client = MlflowClient(tracking_uri=self.uri)
                client.search_experiments(max_results=1)
        except Exception as error:
            raise QbenchError(f"cannot open the store {self.uri}: {_first_line(error)}") from error
        return client

    def record(self, result: Result, folder: Path | None) -> None:
        """Record a trial as a run of the experiment named after its suite; once, if told twice.

        Args:
            result: what it came to.
            folder: where its ``weights.pt`` is, if it has any. None: it was trained elsewhere, and
                comes without.

        Raises:
            QbenchError: MLflow refuses; nothing is half recorded under the trial's key.
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
        """Wait until no other machine's command runs on this store, and keep others waiting.

        Raises:
            QbenchError: the store cannot be reached.
        """
        _ = self._client  # what cannot be opened is told now, not after a training
        if self._artifacts is not None:  # one results folder, which has a lock
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
        """Whether a run has this result; half of one, left by a killed command, is deleted.

        Of a trial that another machine has finished in the meantime, its run counts.
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
        except MlflowException:  # somebody else made it in between
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def runs(self, keys: Iterable[str]) -> dict[str, Run]:
        """The run that counts for each key: the first that finished, else the last that failed.

        Those that were set aside do not count.

        Args:
            keys: of trials; the answer has only those that have ended.
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
        """Every run that counts and has finished, in the order in which they started."""
        first: dict[str, Run] = {}
        for run in self._ended():
            if run.info.status == "FINISHED":
                first.setdefault(run.data.tags[KEY], run)
        return list(first.values())

    def set_aside(self, runs: Iterable[Run]) -> None:
        """Have runs count no longer, so that their trials are trained again; they stay stored.

        Raises:
            QbenchError: MLflow refuses.
        """
        try:
            for run in runs:
                self._client.set_tag(run.info.run_id, SET_ASIDE, "trained again")
        except (MlflowException, OSError) as error:
            raise QbenchError(f"cannot write to {self.uri}: {_first_line(error)}") from error

    def find(self, prefix: str) -> dict[str, Run]:
        """The runs whose key starts with ``prefix``, as `runs` chooses them."""
        found = self._search(f"tags.`qbench.key` LIKE '{prefix}%'", "attributes.start_time ASC")
        return self.runs({run.data.tags["qbench.key"] for run in found})

    def histories(self, runs: dict[str, Run], metrics: Sequence[str]) -> pd.DataFrame:
        """What finished runs recorded by epoch.

        Returns:
            A row for each key and epoch, columns ``key``, ``epoch`` and ``metrics``.
        """
        records = [
            {"key": key, **record}
            for key, run in runs.items()
            for record in self._history(run, metrics)
        ]
        return pd.DataFrame(records, columns=["key", "epoch", *metrics])

    def _history(self, run: Run, metrics: Sequence[str]) -> Iterable[dict[str, float]]:
        """A record for each epoch. A file on this machine takes no time, a metric does."""
        if (local := _local(run, _HISTORY)) is not None:
            return list(json.loads(local.read_bytes()))
        rows: dict[int, dict[str, float]] = {}
        for metric in metrics:
            for point in self._client.get_metric_history(run.info.run_id, metric):
                rows.setdefault(point.step, {"epoch": point.step})[metric] = point.value
        return rows.values()

    @staticmethod
    def metrics(run: Run) -> dict[str, float]:
        """What a finished run was measured by, after the last epoch."""
        return {
            name.removeprefix(FINAL): value
            for name, value in run.data.metrics.items()
            if name.startswith(FINAL)
        }

    def result(self, run: Run) -> Result:
        """What a run recorded, without weights.

        Raises:
            QbenchError: its artifacts cannot be fetched.
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
        """The most levels that the audit of a finished run counted, as `Result.levels`.

        Runs of before levels were a tag have them in ``audit.json``; (None, None) where that is
        gone.
        """
        if (tag := run.data.tags.get("qbench.levels")) is not None:
            weights, inputs = json.loads(tag)
            return weights, inputs
        try:
            counts = [LevelCount.model_validate(count) for count in self.read(run, "audit.json")]
        except QbenchError:
            return None, None
        return most_levels(counts, Bits.parse(trial_of(run).bits))

    def read(self, run: Run, artifact: str) -> Any:
        """What a JSON artifact of a run holds; as `text`."""
        return json.loads(self.text(run, artifact))

    def text(self, run: Run, artifact: str) -> str:
        """What an artifact of a run holds. One on this machine's disk takes no time.

        Raises:
            QbenchError: the run has no such artifact, or it cannot be fetched.
        """
        if (local := _local(run, artifact)) is not None:
            return local.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            return self.fetch(run, artifact, Path(scratch)).read_text(encoding="utf-8")

    def examples(self, run: Run) -> list[ImageDetections]:
        """What a run's detector found in the first test images; nothing of other runs.

        Raises:
            QbenchError: they cannot be fetched.
        """
        if not any(item.path == EXAMPLES for item in self._client.list_artifacts(run.info.run_id)):
            return []
        with tempfile.TemporaryDirectory() as scratch:
            text = self.fetch(run, EXAMPLES, Path(scratch)).read_bytes()
        return TypeAdapter(list[ImageDetections]).validate_json(text)

    def fetch(self, run: Run, artifact: str, target: Path) -> Path:
        """Download an artifact of a run.

        Raises:
            QbenchError: the run has no such artifact, or it cannot be fetched.
        """
        try:
            found = self._client.download_artifacts(run.info.run_id, artifact, str(target))
        except Exception as error:
            raise QbenchError(
                f"cannot fetch {artifact} of run {run.info.run_id}: {_first_line(error)}"
            ) from error
        return Path(found)

    def _ended(self) -> list[Run]:
        """The runs that have ended and count, in the order in which they started."""
        found: Iterable[Run] | None = None
        if self.uri.startswith(_SQLITE):
            found = ended_runs(Path(self.uri.removeprefix(_SQLITE)), KEY)
        if found is None:
            found = self._search("attributes.status != 'RUNNING'", "attributes.start_time ASC")
        states = ("FINISHED", "FAILED")
        return [r for r in found if r.info.status in states and SET_ASIDE not in r.data.tags]

    def _search(self, condition: str, order: str) -> Iterable[Run]:
        """Runs of trials, by MLflow; raises QbenchError where it cannot be asked."""
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
    """Keep others that ask for it out of a results folder; out of a read-only one, nobody."""
    with ExitStack() as stack:
        with suppress(OSError):
            (folder / ".state").mkdir(exist_ok=True)
            stack.enter_context(files.lock(folder / ".state" / "store", wait=True))
        yield


def _local(run: Run, artifact: str) -> Path | None:
    """An artifact that lies on this machine."""
    place = urlsplit(run.info.artifact_uri or "")
    path = Path(url2pathname(place.path)) / artifact
    return path if place.scheme == "file" and path.exists() else None


def _params(trial: Trial) -> dict[str, Any]:
    """A trial flat, as MLflow's parameters: ``recipe.lr``, ``options.temperature_rate``."""
    flat: dict[str, Any] = {}
    for name, value in trial.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        elif value is not None:
            flat[name] = value
    return {name: str(value) for name, value in flat.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
