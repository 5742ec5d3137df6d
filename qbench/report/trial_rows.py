"""Rows of trials: one for each trial, with all that tables, figures and files show of it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.quant.options import build_method
from qbench.report.claim import Likeness, likeness
from qbench.report.columns import as_printed
from qbench.report.cost import Footprints
from qbench.report.presentation import shown_metrics
from qbench.report.problems import noted
from qbench.report.tables.text import DASH
from qbench.spec.bits import BitWidths
from qbench.spec.metrics import MEASURED
from qbench.spec.recipe import Recipe
from qbench.spec.result import Shares
from qbench.spec.trial import FP32, Trial
from qbench.store.tags import AUDIT, CLIPPED, PLACED, UNREADABLE, before_reestimation, coverage_of
from qbench.suite.grid import PlannedTrial
from qbench.suite.published import Number, PublishedNumbers
from qbench.suite.suite import Suite

if TYPE_CHECKING:
    from qbench.store.mlflow import Store
    from qbench.store.run import Run

NAN = float("nan")


@functools.cache
def _as_json(recipe: Recipe) -> str:
    """Return a recipe as JSON. The cache helps because thousands of trials share a few recipes."""
    return recipe.model_dump_json()


def _coverage(found: Shares | None, bits: BitWidths) -> dict[str, object]:
    """Return the shares (%) that are quantized, of what the bit-widths ask for."""
    if found is None:
        return {"w_coverage": NAN, "mac_coverage": NAN, "partly": ""}
    share = found.multiply_adds
    if bits.activations.is_float:
        share = found.weight_operands
    elif bits.weights.is_float:
        share = found.activation_operands
    return {
        "w_coverage": 100 * found.weights,
        "mac_coverage": 100 * share,
        "partly": found.partly,
    }


def _paper_network(found: Likeness, number: Number | None) -> str:
    """Return whether the network is that of a published number, or nothing if it is not known."""
    if number is None or number.network is None:
        return ""
    return f"no: {found.network}" if found.network else "yes"


class TrialRows:
    """Builder of the rows of a suite's trials.

    Args:
        suite: The suite.
        dataset: Dataset of the suite. Its files may be missing.
        results: Results folder. A file ``published.csv`` there takes precedence over the installed
            one.
        store: The store of finished trials.

    Raises:
        QbenchError: The suite names published numbers that do not exist, or the words of a row
            select none.
    """

    def __init__(self, suite: Suite, dataset: Dataset, results: Path, store: Store) -> None:
        self._suite = suite
        self._dataset = dataset
        self._store = store
        self._footprints = Footprints(dataset)
        self._problems: list[str] = []
        self._published = {
            model: PublishedNumbers(results, wanted)
            for model in suite.models
            if (wanted := suite.published_for(model)) is not None
        }
        for row in suite.methods:
            wrong = [numbers.check(row) for numbers in self._published.values()]
            if wrong and all(wrong):
                raise QbenchError(f"{suite.name}: {wrong[0]}")

    @property
    def problems(self) -> list[str]:
        """Problems found so far: what could not be made of the rows, and why."""
        return [*self._footprints.problems, *self._problems]

    def row(
        self, planned: PlannedTrial, *, status: str, reason: str, stale: str, run: Run | None
    ) -> dict[str, object]:
        """Return the row of one trial.

        Args:
            planned: The trial, with its row in the suite.
            status: ``done``, ``failed``, ``missing`` or ``unsupported``.
            reason: Why the trial failed or cannot be run. Otherwise an empty string.
            stale: Why the result is stale. An empty string if it is current.
            run: MLflow run of the trial, or None if the store has none.

        Returns:
            The columns of `qbench.report.columns.TRIAL_COLUMNS` in their order, with the metrics of
            the trial's task only (float, %). Numbers that are not known are NaN, texts are empty.
        """
        trial = planned.trial
        done = run if status == "done" else None
        tags = done.tags if done is not None else {}
        metrics = self._store.metrics(done) if done is not None else {}
        recorded = done.metrics if done is not None else {}
        first, *_ = self._dataset.shown
        bits = BitWidths.parse(trial.bits)
        beside = self._published.get(trial.model)
        changed = trial.method == FP32 and trial.has_changed_network  # no paper prints it
        number = beside.find(planned.row, bits) if beside and not changed else None
        return {
            "key": trial.key,
            "method": trial.method,
            "label": planned.label,
            "options": json.dumps(trial.options, sort_keys=True),
            "model": trial.model,
            "dataset": self._dataset.label or trial.dataset,
            "bits": trial.bits,
            "w_bits": bits.weights.bits,
            "a_bits": bits.activations.bits,
            "seed": trial.seed,
            "recipe": planned.recipe,
            "epochs": trial.epochs,
            "status": status,
            "reason": reason,
            **{name: metrics.get(name, NAN) for name in MEASURED[trial.task]},
            "soft_gap": recorded.get(f"soft_{first}", NAN) - recorded.get(first, NAN),
            "reestimation": metrics.get(first, NAN) - before_reestimation(tags).get(first, NAN),
            "train_seconds": recorded.get("train_seconds", NAN),
            "seconds": recorded.get("seconds", NAN),
            "audit": tags.get(AUDIT, ""),
            "layers": str(trial.layers),
            "placement": trial.placement,
            "threads": trial.threads,
            "training": _as_json(trial.recipe),
            "teacher": trial.recipe.teacher.text if trial.recipe.teacher else "",
            **self._claim(planned, number),
            "unreadable": tags.get(UNREADABLE, ""),
            "clipped": tags.get(CLIPPED, ""),
            "placed": tags.get(PLACED, ""),
            **_coverage(coverage_of(tags), bits),
            "stale": stale,
            **self._network(trial, status),
            **self._policy(trial, done),
            "base": trial.base.key if trial.base else "",
            "prepared": trial.prepared.method if trial.prepared else "",
            "network": trial.architecture,
        }

    def _claim(self, planned: PlannedTrial, number: Number | None) -> dict[str, object]:
        first, *_ = self._dataset.shown
        value = number.values.get(first, NAN) if number else NAN
        found = Likeness()
        wanted = self._suite.published_for(planned.trial.model)
        if wanted is not None and value == value:
            with noted(self._problems, f"the claim of {planned.label}"):
                method = build_method(planned.trial.method, planned.trial.options)
                found = likeness(
                    planned,
                    wanted,
                    self._suite,
                    self._dataset,
                    method,
                    number.network if number else None,
                )
        return {
            "published": self._shown(number) if number else "",
            "source": number.source if number else "",
            "published_value": value,
            "published_decimals": len(as_printed(value).partition(".")[2])
            if value == value
            else NAN,
            "claim_unlike": found.unlike,
            "claim_apart": found.apart,
            "paper_network": _paper_network(found, number),
        }

    def _shown(self, number: Number) -> str:
        """Return a published number as ``58.8/81.7``, with a dash for a missing value."""
        values = [number.values.get(name) for name in shown_metrics(self._dataset)]
        return "/".join(DASH if value is None else as_printed(value) for value in values)

    def _policy(self, trial: Trial, done: Run | None) -> dict[str, object]:
        weights, inputs = None, None
        if done is not None:
            with noted(self._problems, f"the levels of {trial.name}"):
                weights, inputs = self._store.levels(done)
        start: str = trial.recipe.initialization
        if trial.weights and (trial.method == FP32 or start == "pretrained"):
            start = f"given: {trial.weights}"
        if trial.prepared and trial.method != FP32:
            start = f"pretrained, network changed by {trial.prepared.method}"
        return {
            "w_levels": NAN if weights is None else weights,
            "a_levels": NAN if inputs is None else inputs,
            "start": start,
            "augmentation": self._dataset.augmented,
        }

    def _network(self, trial: Trial, status: str) -> dict[str, object]:
        found = self._footprints.of(trial) if status != "unsupported" else None
        return {
            "first_layer": found.first_layer if found else "",
            "last_layer": found.last_layer if found else "",
            "weight_mb": found.cost.megabytes if found else NAN,
            "full_weight_mb": found.full.megabytes if found else NAN,
            "gbops": found.cost.gbops if found else NAN,
            "full_gbops": found.full.gbops if found else NAN,
        }
