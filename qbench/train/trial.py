"""One trial from start to finish: training, hardening, audit, evaluation."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator

import torch
from torch import nn

from qbench import distributed
from qbench.errors import QbenchError
from qbench.method import Layer
from qbench.quant.audit import audit
from qbench.quant.calibration import clipped_text
from qbench.quant.placement.find import placed_text
from qbench.spec.predictions import Predictions
from qbench.spec.result import CodeFingerprint, Result
from qbench.spec.trial import Trial
from qbench.train import fingerprint
from qbench.train.building import (
    ExecutionEnvironment,
    TrainingError,
    build,
    check_unchanged,
    distillation,
    seed_everything,
)
from qbench.train.checkpoint import (
    RefusedError,
    dump_weights,
    load_weights,
    pack,
    unpack,
)
from qbench.train.loop import TrainingLoop
from qbench.train.provenance import environment
from qbench.train.reestimation import norms_of, reestimate, repeated

INTERRUPTED = "the method raised KeyboardInterrupt"


class Training:
    """The training of one trial.

    No exception leaves `epochs`: a failure is recorded in the result.

    Args:
        trial: The trial to train.
        weights: Serialized weights that the trial starts from (`Trial.source`); None if it starts
            from random weights.
        execution: Where and with which resources the trial runs; None: one core, and no
            checkpoints.
        teacher: Serialized weights of its teacher (`Trial.taught_by`); None if it has none.

    Attributes:
        result: What the trial has produced so far; final when `epochs` is exhausted.
        weights: Serialized hardened weights; None until the trial is done.
    """

    def __init__(
        self,
        trial: Trial,
        weights: bytes | None = None,
        execution: ExecutionEnvironment | None = None,
        teacher: bytes | None = None,
    ) -> None:
        self.result = Result(trial=trial, status="failed", started=time.time())
        self.weights: bytes | None = None
        self._start = time.perf_counter()
        self._pretrained = weights
        self._teacher = teacher
        self._execution = execution or ExecutionEnvironment()

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train, then harden, audit and evaluate the model.

        Yields:
            One record per epoch: ``epoch`` (from 1), ``train_loss``, for a classifier
            ``train_top1``, ``lr``, and the metrics of the task. Metrics that start with ``soft_``
            are those with soft quantizers.
        """
        result = self.result
        try:
            result.environment = environment()
            result.code = fingerprint.code_of(result.trial)
            yield from self._epochs(result.trial)
            result.status = "done"
        except Exception as error:  # a failed trial is a result; the other trials go on
            result.reason = _reason(error)
            result.traceback = traceback.format_exc()
        except SystemExit as error:
            result.reason = f"the method called sys.exit({error.code})"
            result.traceback = traceback.format_exc()
        except KeyboardInterrupt:  # in a worker not the user's Ctrl-C, which reaches none
            result.reason = INTERRUPTED
            result.traceback = traceback.format_exc()
        result.seconds = time.perf_counter() - self._start

    def _epochs(self, trial: Trial) -> Iterator[dict[str, float]]:
        torch.set_num_threads(trial.threads)
        if trial.source is not None and trial.prepared is None:
            check_unchanged(trial, self._execution)
        seed_everything(trial.seed)
        loop = build(trial, self._execution, self._pretrained)
        if trial.recipe.teacher is not None:
            loop.distillation = distillation(trial, loop, self._teacher)
        recipe, handle, model = trial.recipe, loop.handle, loop.handle.model
        done = self._resume(loop)
        start = saved = time.perf_counter()
        before = self.result.train_seconds
        for epoch in range(done + 1, trial.epochs + 1):
            lr = loop.optimizer.param_groups[0]["lr"]
            handle.on_epoch_start(epoch, recipe.epochs, len(loop.loader))
            model.train()
            measured = loop.run_epoch(recipe)
            if not math.isfinite(measured["train_loss"]):
                raise TrainingError(
                    f"the training loss is {measured['train_loss']} in epoch {epoch}"
                )
            record = {"epoch": epoch, **measured, "lr": lr}
            model.eval()
            record |= loop.evaluate()
            if handle.method.soft:
                for quantizer in handle.quantizers:
                    quantizer.train()
                record |= {f"soft_{name}": value for name, value in loop.evaluate().items()}
            loop.recorder.after_epoch(epoch)
            self.result.history.append(record)
            self.result.train_seconds = before + time.perf_counter() - start
            if time.perf_counter() - saved >= self._execution.checkpoint_seconds:
                self._save_checkpoint(loop)
                saved = time.perf_counter()
            yield record

        _check_finite(model)
        if trial.stop_after:  # a longer trial goes on from it
            self._save_checkpoint(loop)
        self._finish(loop)

    def _finish(self, loop: TrainingLoop) -> None:
        """Harden the trained model, audit it, and measure the final metrics."""
        handle, result = loop.handle, self.result
        weights, curve = loop.recorder.weights(), loop.recorder.curve()
        layers = list(handle.layers)
        handle.harden()
        _check_hardened(handle.model)
        if count := result.trial.recipe.reestimate_batches:
            result.before_reestimation = _reestimate(loop, count)
        state = dump_weights(handle.model)
        _measure(loop, layers, state, result)
        result.weights, result.curve, result.unreadable = weights, curve, loop.unreadable()
        self.weights = state

    def _save_checkpoint(self, loop: TrainingLoop) -> None:
        """Store the state after an epoch, from the first process only."""
        if self._execution.checkpoints is None or distributed.rank() > 0:
            return
        result = self.result
        content = {
            "code": result.code.model_dump(),
            "source": result.trial.source,
            "history": result.history,
            "train_seconds": result.train_seconds,
            **loop.state(),
        }
        self._execution.checkpoints.save(pack(content))

    def _resume(self, loop: TrainingLoop) -> int:
        """Restore the last checkpoint, if there is one, and return the number of epochs done."""
        checkpoints = self._execution.checkpoints
        data = checkpoints.load() if checkpoints is not None else None
        if data is None:
            return 0
        try:
            content = unpack(data)
        except RefusedError as error:
            key = self.result.trial.whole.key
            raise TrainingError(
                f"its checkpoint, checkpoints/{key}.pt, is refused: the file {error}; without it "
                "the trial starts anew"
            ) from error
        recorded = CodeFingerprint.model_validate(content.get("code", {}))
        trial = self.result.trial
        if fingerprint.change(trial, recorded):
            return 0  # epochs of two versions of the code must not be mixed
        if not trial.starts_from(content.get("source")):
            return 0  # nor epochs of two starts
        if len(content["history"]) > trial.epochs:
            return 0  # it is of a longer trial that this one is the beginning of
        self.result.history = content["history"]
        self.result.train_seconds = content["train_seconds"]
        loop.restore(content)
        return len(self.result.history)


def remeasure(trial: Trial, hardened: bytes, execution: ExecutionEnvironment) -> Result:
    """Measure and audit the hardened weights of a trial again.

    The quantizers are built on random weights, and the hardened ones are loaded into them.

    Args:
        trial: The trial.
        hardened: Its serialized hardened weights.
        execution: Where and with which resources the trial is measured.

    Returns:
        A result with what `Training` finds after the last epoch, without a history.

    Raises:
        QbenchError: The data are missing, or the weights are damaged or do not fit.
    """
    start = time.perf_counter()
    result = Result(trial=trial, status="done", started=time.time(), environment=environment())
    result.code = fingerprint.code_of(trial)
    loop = rebuild(trial, hardened, execution)
    try:
        _measure(loop, loop.handle.layers, hardened, result)
    except TrainingError as error:
        raise QbenchError(str(error)) from error
    result.seconds = time.perf_counter() - start
    return result


def rebuild(trial: Trial, hardened: bytes, execution: ExecutionEnvironment) -> TrainingLoop:
    """Build the hardened network of a trial again.

    The quantizers are built on random weights, and the hardened ones are loaded into them.

    Args:
        trial: The trial.
        hardened: Its serialized hardened weights.
        execution: Where and with which resources the network runs.

    Returns:
        The trial with its hardened model, in evaluation mode, and its data.

    Raises:
        QbenchError: The data are missing, or the weights are damaged or do not fit.
    """
    torch.set_num_threads(trial.threads)
    seed_everything(trial.seed)
    try:
        state = load_weights(hardened)
        loop = build(trial, execution, None, trains=False)
        loop.handle.harden().load_state_dict(state)
    except RefusedError as error:
        raise QbenchError(f"the hardened weights are refused: the file {error}") from error
    except RuntimeError as error:  # of load_state_dict
        raise QbenchError(f"the hardened weights do not fit: {_reason(error)}") from error
    except TrainingError as error:
        raise QbenchError(str(error)) from error
    loop.handle.model.eval()
    return loop


def _measure(loop: TrainingLoop, layers: list[Layer], state: bytes, result: Result) -> None:
    """Audit a hardened model and measure the final metrics.

    Args:
        loop: The trial. Its model is hardened.
        layers: Quantized layers, as they were before hardening.
        state: Serialized weights of the model.
        result: Receives what is found.
    """
    handle, model, trial = loop.handle, loop.handle.model, result.trial
    images = loop.task.inputs(next(iter(loop.evaluation)))
    audited = audit(layers, load_weights(state), model, images, handle.places, handle.arrivals)
    model.eval()
    predicted: list[int] = []
    metrics = loop.evaluate(predicted)
    for name, value in metrics.items():
        if math.isnan(value):
            raise TrainingError(f"the {name} of the hardened network is not a number")
    result.metrics, result.audit = metrics, audited
    result.clipped = clipped_text(handle.places)
    result.coverage = handle.coverage(images[:2]).shares if layers else None
    if predicted:
        result.predictions = Predictions.of(predicted, loop.dataset.num_classes)
    result.placed = placed_text(trial.placement, handle.places)
    if not trial.validation:  # examples are test images
        result.examples = loop.task.examples(model, loop.dataset)


def _reestimate(loop: TrainingLoop, count: int) -> dict[str, float]:
    """Estimate the statistics of a hardened model again, and return its metrics before.

    Without batch normalization, there is nothing to do, and no metric.
    """
    model = loop.handle.model.eval()
    if not norms_of(model):
        return {}
    before = loop.evaluate()
    reestimate(model, map(loop.task.inputs, repeated(loop.loader, count)))
    return before


def _reason(error: Exception) -> str:
    """Return why a trial failed, in one line."""
    first, *further = (str(error).strip() or "no message").splitlines()
    if further and first.startswith("Caught "):  # in a loader worker: its traceback follows
        return further[-1]
    if isinstance(error, TrainingError | QbenchError):
        return first
    return f"{type(error).__name__}: {first}"


def _check_finite(model: nn.Module) -> None:
    """Raise TrainingError if a parameter of a trained model is not finite."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise TrainingError(f"after training, {name} is not finite")


def _check_hardened(model: nn.Module) -> None:
    """Raise TrainingError if a parameter of a hardened model is not finite.

    The parameters were finite before, so it is the quantizer that gives such a value.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            layer, _, what = name.rpartition(".")
            raise TrainingError(f"the hardened {what} of '{layer}' is not finite")
