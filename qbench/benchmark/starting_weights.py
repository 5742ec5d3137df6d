"""Bring the full-precision weights that trials start from into the spool, where workers find them.

Weights are either given by the suite (``weights``), or trained by a full-precision trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qbench import registry
from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.spec.trial import Trial, given_weights_key
from qbench.spec.weights import identify
from qbench.store.mlflow import Store
from qbench.store.spool import Spool
from qbench.store.tags import was_imported
from qbench.suite.suite import Suite
from qbench.train import weights

if TYPE_CHECKING:
    from qbench.store.run import Run


def problems(
    trials: Sequence[Trial], suite: Suite, dataset: Dataset, spool: Spool
) -> dict[str, str]:
    """Return what is wrong with given weights, or what a run downloads for them.

    Files are read, and weights must fit their models, as far as that can be told without the data.

    Args:
        trials: Trials to train.
        suite: The suite that names the weights.
        dataset: Dataset of the suite, which the networks are built for.
        spool: Where weights are kept. What is there already is in order.

    Returns:
        A sentence for each model with a problem.
    """
    found = {}
    for model, choice, _ in _wanted(trials, suite, spool):
        text = weights.missing(model, choice)
        if not dataset.missing():
            if text:
                text = weights.misfit(model, choice, dataset.num_classes) or text
            else:
                text = _fetched(model, choice, dataset)[1]
        if text:
            found[model] = text
    return found


def bring_given(
    trials: Sequence[Trial], suite: Suite, dataset: Dataset, spool: Spool
) -> dict[str, str]:
    """Bring the weights that a suite gives into the spool, unless they are there already.

    Args:
        trials: Trials to train.
        suite: The suite that names the weights.
        dataset: Dataset of the suite, which the networks are built for.
        spool: Where weights are kept.

    Returns:
        Why weights cannot be found or do not fit their network, by model. The others are there.
    """
    failed = {}
    for model, choice, identity in _wanted(trials, suite, spool):
        if "missing:" in identity:
            failed[model] = weights.missing(model, choice)
            continue
        data, reason = _fetched(model, choice, dataset)
        if reason:
            failed[model] = reason
            continue
        scratch = spool.root / "fetched" / given_weights_key(model, identity)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        spool.keep_weights(scratch.name, scratch)
        scratch.unlink()
    return failed


def fetch_trained(keys: Iterable[str], runs: Mapping[str, Run], store: Store, spool: Spool) -> None:
    """Bring the weights of finished full-precision trials from the store into the spool.

    Args:
        keys: Keys of full-precision trials. Those that are not finished, and those whose result was
            imported without weights, are skipped.
        runs: MLflow run of each trial that has ended, by key.
        store: The store that holds the weights.
        spool: Where weights are kept.

    Raises:
        QbenchError: The store cannot be read.
    """
    for key in keys:
        run = runs.get(key)
        if run is None or run.status != "FINISHED" or was_imported(run):
            continue
        if not spool.weights_path(key).exists():
            scratch = spool.root / "fetched" / key
            scratch.mkdir(parents=True, exist_ok=True)
            fetched = store.fetch(run, "weights.pt", scratch)
            spool.keep_weights(key, fetched)
            fetched.unlink()


def elsewhere(keys: Iterable[str], runs: Mapping[str, Run], spool: Spool) -> set[str]:
    """Return the trials whose results were imported and whose weights are not in the spool.

    Args:
        keys: Keys of trials.
        runs: MLflow run of each trial that has ended, by key.
        spool: Where weights are kept.
    """
    imported = {key for key in keys if key in runs and was_imported(runs[key])}
    return {key for key in imported if not spool.weights_path(key).exists()}


def _fetched(model: str, choice: str, dataset: Dataset) -> tuple[bytes, str]:
    """Return serialized weights, or why they cannot be read or do not fit."""
    network = registry.build_model(model, dataset.num_classes, dataset.image_shape[0])
    try:
        return weights.fetch(model, choice, network), ""
    except QbenchError as error:
        return b"", str(error)


def _wanted(trials: Sequence[Trial], suite: Suite, spool: Spool) -> Iterator[tuple[str, str, str]]:
    """Yield model, choice and identity of given weights that the spool does not have yet."""
    for model in dict.fromkeys(trial.model for trial in trials if trial.weights):
        choice = suite.weights[model]
        identity = identify(model, choice)
        if not spool.weights_path(given_weights_key(model, identity)).exists():
            yield model, choice, identity
