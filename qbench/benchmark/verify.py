"""Verify recorded results: measure their stored weights again, or train them again."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from qbench import registry
from qbench.benchmark import labels
from qbench.benchmark.consistency import without_seed
from qbench.errors import QbenchError
from qbench.report.spread import allowed_difference
from qbench.spec.metrics import MEASURED
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.spec.words import counted
from qbench.store.recording import WEIGHTS_FILE
from qbench.store.tags import EDITED, was_changed, was_imported
from qbench.train import fingerprint, weights
from qbench.train.building import ExecutionEnvironment
from qbench.train.provenance import environment
from qbench.train.trial import INTERRUPTED, Training, remeasure

if TYPE_CHECKING:
    from qbench.store.mlflow import Store
    from qbench.store.run import Run
    from qbench.store.spool import Spool

# What decides the last bits of a training, of what the environment of a trial records.
_DECIDING = ("cpu", "gpu", "cuda", "torch", "torchvision", "numpy", "c_kernels")
_ROUNDING_IMAGES = 2  # predictions that another order of summation may change
_ROUNDING_SHARE = 0.002
_LOSS_ROUNDING = 1e-2
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """Outcome of verifying a recorded result.

    Attributes:
        key: Key of the trial.
        name: Readable name of the trial.
        how: ``measured`` (its stored weights) or ``trained`` again. Empty if it could not be.
        expected: What must hold: ``exact``, equal to the last digit; ``rounding``, equal but for
            few images, because another processor or version measured; ``spread``, within the
            spread over seeds, because another processor or version trained. Empty if it could not
            be verified.
        agrees: Whether it holds.
        recorded: Recorded value of the first metric, in %.
        found: Value that was found, in %. None if it could not be verified.
        text: What was found, in a sentence.
    """

    key: str
    name: str
    how: Literal["measured", "trained", ""]
    expected: Literal["exact", "rounding", "spread", ""]
    agrees: bool
    recorded: float
    found: float | None
    text: str

    def as_json(self) -> dict[str, Any]:
        """Return the attributes as plain values."""
        return asdict(self)


@dataclass
class _Start:
    """Weights that a trial needs, and whether they have the bits of the recorded ones."""

    weights: bytes | None
    why_not_exact: str = ""


@dataclass
class Verifier:
    """Verify results of a store. Full-precision networks that are trained for it are kept.

    Attributes:
        store: The store, with results of files that it was lent.
        spool: Spool of the results folder, which holds weights that trials start from.
        data: Options of the dataset. None: those that each trial tells.
    """

    store: Store
    spool: Spool
    data: Mapping[str, Any] | None = None
    _starts: dict[str, _Start] = field(default_factory=dict, init=False)

    def verify(self, run: Run, retrain: bool = False) -> Verdict:
        """Verify a finished trial.

        Args:
            run: Run of the trial.
            retrain: Whether to train it again, even if its weights are stored.

        Raises:
            QbenchError: The store cannot be read.
        """
        recorded = self.store.result(run)
        trial = recorded.trial
        try:
            if was_changed(run):
                raise QbenchError(EDITED)
            if missing := registry.build_dataset(trial.dataset, self._data(trial)).missing():
                raise QbenchError(missing)
            if retrain or was_imported(run):
                return self._train_again(recorded)
            return self._measure_again(run, recorded)
        except QbenchError as error:
            return self._verdict(recorded, None, "", "", False, f"not verified: {error}")

    def _data(self, trial: Trial) -> Mapping[str, Any]:
        if self.data is not None:
            return self.data
        return labels.data_options(trial.dataset, trial.data)

    def _execution(self, trial: Trial) -> ExecutionEnvironment:
        return ExecutionEnvironment(self._data(trial))

    # Measured again --------------------------------------------------------------------------

    def _measure_again(self, run: Run, recorded: Result) -> Verdict:
        trial = recorded.trial
        _LOGGER.info("Measuring %s", trial.name)
        with TemporaryDirectory() as scratch:
            hardened = self.store.fetch(run, WEIGHTS_FILE, Path(scratch)).read_bytes()
        found = remeasure(trial, hardened, self._execution(trial))
        other = _other_machine(recorded)
        if not other:
            text = _first_difference(recorded, found) or _audit_difference(recorded, found)
            return self._verdict(
                recorded, found, "measured", "exact", not text, text or "exactly as recorded"
            )
        text = _beyond_rounding(recorded, found) or _broken_audit(recorded, found)
        return self._verdict(
            recorded,
            found,
            "measured",
            "rounding",
            not text,
            text or f"as recorded but for the rounding of another machine ({other})",
        )

    # Trained again ---------------------------------------------------------------------------

    def _train_again(self, recorded: Result) -> Verdict:
        trial = recorded.trial
        needed = self._start(trial, recorded), self._teacher(trial, recorded)
        found, _ = self._train(trial, *needed)
        if found.status == "failed":
            raise QbenchError(f"the training failed: {found.reason}")
        why = _not_exact(recorded) or next(filter(None, (n.why_not_exact for n in needed)), "")
        audit = _broken_audit(recorded, found)
        if not why:
            text = audit or _first_difference(recorded, found)
            return self._verdict(
                recorded,
                found,
                "trained",
                "exact",
                not text,
                text or "every epoch and prediction exactly as recorded",
            )
        limit = self._allowed(recorded)
        apart = abs(_value(found) - _value(recorded))
        within = f"the spread over seeds allows {limit:.2f} points, and no exact equality: {why}"
        text = audit or f"{apart:.2f} points apart; {within}"
        return self._verdict(
            recorded, found, "trained", "spread", apart <= limit and not audit, text
        )

    def _train(self, trial: Trial, start: _Start, teacher: _Start) -> tuple[Result, bytes | None]:
        training = Training(trial, start.weights, self._execution(trial), teacher.weights)
        for record in training.epochs():
            _LOGGER.info("Training %s: epoch %d of %d", trial.name, record["epoch"], trial.epochs)
        if training.result.reason == INTERRUPTED:
            raise KeyboardInterrupt
        return training.result, training.weights

    def _start(self, trial: Trial, recorded: Result) -> _Start:
        """Return the weights that a trial starts from, and train them if they are not here."""
        if trial.source is None:
            return _Start(None)
        if trial.source not in self._starts:
            self._starts[trial.source] = self._found(trial.source) or (
                _Start(self._given_weights(trial))
                if trial.base is None
                else self._trained(trial.base, recorded)
            )
        return self._starts[trial.source]

    def _teacher(self, trial: Trial, recorded: Result) -> _Start:
        """Return the weights of the teacher of a trial, and train them if they are not here."""
        base = trial.taught_by
        if base is None:
            return _Start(None)
        if base.key not in self._starts:
            self._starts[base.key] = self._found(base.key) or self._trained(base, recorded)
        return self._starts[base.key]

    def _found(self, key: str) -> _Start | None:
        """Return weights that the spool or the store has, or None."""
        if self.spool.weights_path(key).exists():
            return _Start(self.spool.weights(key))
        run = self.store.runs([key]).get(key)
        if run is not None and run.status == "FINISHED" and not was_imported(run):
            with TemporaryDirectory() as scratch:
                return _Start(self.store.fetch(run, WEIGHTS_FILE, Path(scratch)).read_bytes())
        return None

    def _trained(self, base: Trial, recorded: Result) -> _Start:
        """Train a full-precision network that a trial needs."""
        starts = base.key == recorded.trial.source
        which = "that it starts from" if starts else "that teaches it"
        run = self.store.runs([base.key]).get(base.key)
        before = self.store.result(run) if run is not None else None
        start = self._start(base, recorded)
        result, trained = self._train(base, start, _Start(None))
        if trained is None:
            raise QbenchError(f"the full-precision network {which} failed: {result.reason}")
        why = start.why_not_exact or _not_exact(before or recorded)
        if not why and before is not None and (text := _first_difference(before, result)):
            why = f"the full-precision network {which} is not as recorded: {text}"
        return _Start(trained, why)

    def _given_weights(self, trial: Trial) -> bytes:
        """Return weights that are not trained here, if their identity tells where they are."""
        dataset = registry.build_dataset(trial.dataset, self._data(trial))
        network = registry.build_model(trial.model, dataset.num_classes, dataset.image_shape[0])
        if "sha256:" in trial.weights:
            raise QbenchError(
                f"it starts from weights of a file ({trial.weights}), which is not known here"
            )
        return weights.fetch(trial.model, trial.weights, network)

    # What is allowed -------------------------------------------------------------------------

    @functools.cached_property
    def _columns(self) -> dict[str, dict[str, dict[int, float]]]:
        """Recorded values by column, row and seed."""
        found: defaultdict[str, dict[str, dict[int, float]]] = defaultdict(dict)
        for run in self.store.finished():
            trial, metrics = self.store.trial(run), self.store.metrics(run)
            if not trial.rehearsal and (name := MEASURED[trial.task][0]) in metrics:
                row = found[_column(trial)].setdefault(without_seed(trial), {})
                row[trial.seed] = metrics[name]
        return dict(found)

    def _allowed(self, recorded: Result) -> float:
        trial = recorded.trial
        rows = self._columns[_column(trial)]
        own = rows.get(without_seed(trial), {})
        others = [value for seed, value in own.items() if seed != trial.seed]
        several = [list(row.values()) for row in rows.values()]
        items = recorded.predictions.count if recorded.predictions else 0
        return allowed_difference(_value(recorded), others, several, items)

    def _verdict(
        self,
        recorded: Result,
        found: Result | None,
        how: Literal["measured", "trained", ""],
        expected: Literal["exact", "rounding", "spread", ""],
        agrees: bool,
        text: str,
    ) -> Verdict:
        trial = recorded.trial
        return Verdict(
            trial.key,
            trial.name,
            how,
            expected,
            agrees,
            _value(recorded),
            None if found is None else _value(found),
            text,
        )


def _value(result: Result) -> float:
    return result.metrics[MEASURED[result.trial.task][0]]


def _column(trial: Trial) -> str:
    """Return what the trials of a column of a table have in common."""
    shared = {"dataset", "data", "model", "bits", "recipe", "validation", "stop_after"}
    own = trial.model_dump(mode="json", include=shared)
    return json.dumps(own, sort_keys=True)


def _other_machine(recorded: Result) -> str:
    """Return in what this machine differs from that of a record, or an empty string."""
    here, there = environment(), recorded.environment
    differing = [name for name in _DECIDING if here.get(name, "") != there.get(name, "")]
    return ", ".join(
        f"{name} {here.get(name) or 'none'}, recorded {there.get(name) or 'none'}"
        for name in differing
    )


def _not_exact(recorded: Result) -> str:
    """Return why a training here need not give the bits of a record, or an empty string."""
    trial = recorded.trial
    if text := fingerprint.change(trial, recorded.code):
        return text
    if trial.processes > 1:
        return f"it was trained by {trial.processes} processes, here by one"
    if text := _other_machine(recorded):
        return text
    if "gpu" in recorded.environment:
        return "a GPU adds in no fixed order"
    return ""


def _first_difference(recorded: Result, found: Result) -> str:
    """Return where a result first differs from the record in any digit, or an empty string.

    What the record does not have is not compared.
    """
    pairs = zip(recorded.history, found.history, strict=False)
    for before, now in pairs if found.history else ():
        for name, value in before.items():
            if now.get(name) != value:
                return f"epoch {now['epoch']:g} has {name} {now.get(name)}, recorded {value}"
    for name, value in recorded.metrics.items():
        if found.metrics.get(name) != value:
            return f"{name} is {found.metrics.get(name)}, recorded {value}"
    if recorded.predictions is not None and (differing := _differing(recorded, found)):
        return f"{counted(differing, 'prediction')} differ from the record"
    return ""


def _differing(recorded: Result, found: Result) -> int:
    """Return the number of images with another predicted class."""
    ours, theirs = recorded.predictions, found.predictions
    if ours is None or theirs is None:
        return 0
    if ours.count != theirs.count:
        return max(ours.count, theirs.count)
    return sum(a != b for a, b in zip(ours.values, theirs.values, strict=True))


def _beyond_rounding(recorded: Result, found: Result) -> str:
    """Return what the rounding of another machine does not explain, or an empty string."""
    items = found.predictions.count if found.predictions else 0
    few = max(_ROUNDING_IMAGES, round(_ROUNDING_SHARE * items))
    if (differing := _differing(recorded, found)) > few:
        return f"{differing} of {items} predictions differ from the record"
    points = 100 * few / items if items else 100 * _ROUNDING_SHARE
    for name, value in recorded.metrics.items():
        now = found.metrics.get(name, math.nan)
        if name.endswith("loss"):
            alike = math.isclose(now, value, rel_tol=_LOSS_ROUNDING, abs_tol=_LOSS_ROUNDING)
        else:
            alike = abs(now - value) <= points
        if not alike:
            return f"{name} is {now:.6g}, recorded {value:.6g}"
    return ""


def _audit_difference(recorded: Result, found: Result) -> str:
    """Return the first tensor with another number of levels, or an empty string."""
    now = {(count.layer, count.tensor): count.levels for count in found.audit}
    for count in recorded.audit:
        levels = now.get((count.layer, count.tensor))
        if levels != count.levels:
            return f"{count.layer}.{count.tensor} has {levels} levels, recorded {count.levels}"
    return ""


def _broken_audit(recorded: Result, found: Result) -> str:
    """Return which promise of levels is broken here and not in the record, or an empty string."""
    if found.audit_text and not recorded.audit_text:
        return f"{found.audit_text}; the record has no such finding"
    return ""
