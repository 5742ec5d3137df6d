"""A row for each trial: everything that tables, figures and files say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from qbench import registry
from qbench.bits import Bits
from qbench.claim import Likeness, likeness
from qbench.cost import Footprints
from qbench.data import Dataset
from qbench.grid import Cell
from qbench.metrics import MEASURED
from qbench.published import Number, PublishedNumbers
from qbench.suite import Suite
from qbench.trial import Trial

if TYPE_CHECKING:
    from mlflow.entities import Run

    from qbench.store import Store

DASH = "–"
NAN = float("nan")
TRIAL_COLUMNS = {
    "key": "The trial's key: a hash of everything that determines its numbers.",
    "method": "The method, as suites name it; fp32 is the full-precision network.",
    "label": "The row of the table.",
    "options": "All options of the method, as JSON.",
    "model": "The network.",
    "dataset": "The data set.",
    "bits": "Widths asked for: weights/activations; 32 is full precision.",
    "w_bits": "Bits of a quantized layer's weight.",
    "a_bits": "Bits of a quantized layer's input.",
    "seed": "Of everything random.",
    "recipe": "aligned: one recipe for all methods; paper: each method's own.",
    "epochs": "Passes over the training data; 0: quantized and evaluated only.",
    "status": "done, failed, missing (not run yet) or unsupported.",
    "reason": "Why it failed or is not supported.",
    "top1": "Top-1 accuracy on the test split, %, after the last epoch, hardened.",
    "top5": "Top-5 accuracy, %.",
    "test_loss": "Cross-entropy on the test split.",
    "map50_voc07": "Mean average precision at IoU 0.5 by VOC2007's 11 points, %.",
    "map50": "Mean average precision at IoU 0.5, every point, %.",
    "map": "Mean average precision, IoU 0.5 to 0.95 as COCO's, %.",
    "train_seconds": "Seconds of training, evaluation after each epoch included.",
    "seconds": "Seconds of the whole trial.",
    "audit": "Empty where the promise of k bits holds; else the first layer that breaks it.",
    "threads": "Torch's threads on a CPU.",
    "training": "The recipe's values, as JSON.",
    "published": "The published number, as tables show it.",
    "source": "Where that is from.",
    "published_value": "The published value of the metric that counts, %.",
    "published_decimals": "Digits behind its point.",
    "claim_unlike": "Why the published number is not one of this setting; empty where it is.",
    "claim_apart": "In what else the trial departs from it.",
    "unreadable": "Items of the data that could not be read and were left out.",
    "first_layer": "Widths of the first conv or linear layer, W/A.",
    "last_layer": "Widths of the last, W/A.",
    "w_levels": "Distinct values of a quantized weight, the most that any layer (or filter) has.",
    "a_levels": "Distinct values of a quantized layer's input, likewise, on a batch of images.",
    "start": "pretrained: from the full-precision trial of the same seed; scratch; or the weights "
    "given.",
    "augmentation": "What is drawn anew for each training image.",
    "weight_mb": "Packed weights in 10^6 bytes.",
    "full_weight_mb": "Weights of the same network in full precision, in 10^6 bytes.",
    "gbops": "Bit-operations of one image, in 10^9.",
    "full_gbops": "Those of the same network in full precision.",
}


class TrialRows:
    """Makes the rows of a suite's trials.

    Args:
        suite: the suite.
        dataset: its dataset.
        results: the results folder, for published numbers.
        store: where finished trials are.

    Raises:
        QbenchError: the suite names published numbers that there are not.
    """

    def __init__(self, suite: Suite, dataset: Dataset, results: Path, store: Store) -> None:
        self._suite = suite
        self._dataset = dataset
        self._store = store
        self._footprints = Footprints(dataset)
        self._published = {
            model: PublishedNumbers(results, wanted)
            for model in suite.models
            if (wanted := suite.published_for(model)) is not None
        }

    def row(self, cell: Cell, status: str, reason: str, run: Run | None) -> dict[str, object]:
        """One trial's row: the `TRIAL_COLUMNS` of its task.

        Args:
            cell: the trial.
            status: ``done``, ``failed``, ``missing`` or ``unsupported``.
            reason: why it failed or cannot be run.
            run: what the store has of it.
        """
        trial = cell.trial
        done = run if status == "done" else None
        tags = done.data.tags if done is not None else {}
        metrics = done.data.metrics if done is not None else {}
        bits = Bits.parse(trial.bits)
        beside = self._published.get(trial.model)
        number = beside.find(cell.row, bits) if beside else None
        return {
            "key": trial.key,
            "method": trial.method,
            "label": cell.label,
            "options": json.dumps(trial.options, sort_keys=True),
            "model": trial.model,
            "dataset": trial.dataset,
            "bits": trial.bits,
            "w_bits": bits.weights.bits,
            "a_bits": bits.activations.bits,
            "seed": trial.seed,
            "recipe": cell.recipe,
            "epochs": trial.recipe.epochs,
            "status": status,
            "reason": reason,
            **{name: metrics.get(f"final_{name}", NAN) for name in MEASURED[trial.task]},
            "train_seconds": metrics.get("train_seconds", NAN),
            "seconds": metrics.get("seconds", NAN),
            "audit": tags.get("qbench.audit", ""),
            "threads": trial.threads,
            "training": trial.recipe.model_dump_json(),
            **self._claim(cell, number),
            "unreadable": tags.get("qbench.unreadable", ""),
            **self._policy(trial, done),
            **self._cost(trial, status),
        }

    def _claim(self, cell: Cell, number: Number | None) -> dict[str, object]:
        first, *_ = self._dataset.shown
        value = number.values.get(first, NAN) if number else NAN
        found = Likeness()
        wanted = self._suite.published_for(cell.trial.model)
        if wanted is not None and value == value:
            method = registry.build_method(cell.trial.method, cell.trial.options)
            found = likeness(cell, wanted, self._suite, self._dataset, method)
        return {
            "published": "/".join(map(_printed, map(number.values.get, self._dataset.shown)))
            if number
            else "",
            "source": number.source if number else "",
            "published_value": value,
            "published_decimals": len(_printed(value).partition(".")[2]) if value == value else NAN,
            "claim_unlike": found.unlike,
            "claim_apart": found.apart,
        }

    def _policy(self, trial: Trial, done: Run | None) -> dict[str, object]:
        weights, inputs = self._store.levels(done) if done is not None else (None, None)
        start: str = trial.recipe.initialization
        if trial.weights and (trial.method == "fp32" or start == "pretrained"):
            start = f"given: {trial.weights}"
        return {
            "w_levels": NAN if weights is None else weights,
            "a_levels": NAN if inputs is None else inputs,
            "start": start,
            "augmentation": self._dataset.augmented,
        }

    def _cost(self, trial: Trial, status: str) -> dict[str, object]:
        found = self._footprints.of(trial) if status != "unsupported" else None
        return {
            "first_layer": found.first_layer if found else "",
            "last_layer": found.last_layer if found else "",
            "weight_mb": found.cost.megabytes if found else NAN,
            "full_weight_mb": found.full.megabytes if found else NAN,
            "gbops": found.cost.gbops if found else NAN,
            "full_gbops": found.full.gbops if found else NAN,
        }


def _printed(value: float | None) -> str:
    """A published value as its table has it: with a digit behind the point, or more."""
    return DASH if value is None else max(f"{value:.1f}", f"{value:g}", key=len)
