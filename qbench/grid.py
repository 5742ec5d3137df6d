"""From a suite to its trials, each with its verdict: can it be trained at all?"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import nn

from qbench import registry
from qbench.attachment import DEFAULT_LAYERS, policy_widths, select_layers
from qbench.bits import FULL_PRECISION, Bits
from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.method import Method
from qbench.recipe import Recipe
from qbench.suite import Row, Suite
from qbench.trial import Trial, full_precision_trial


@dataclass(frozen=True)
class Cell:
    """One trial of a suite.

    Attributes:
        trial: what would be trained.
        row: the row of the suite that it is from.
        label: that row's name in the table.
        recipe: ``aligned`` or ``paper``.
        unsupported: why it cannot be trained; empty where it can.
    """

    trial: Trial
    row: Row
    label: str
    recipe: str
    unsupported: str = ""

    @property
    def name(self) -> str:
        """What a user knows it by."""
        trial = self.trial
        return f"{self.label} {trial.bits} {trial.model} {trial.dataset} seed {trial.seed}"


def expand(suite: Suite) -> list[Cell]:
    """The suite's trials in its own order, full-precision ones first.

    Raises:
        QbenchError: the changes to a recipe contradict it.
    """
    return list({cell.trial.key: cell for cell in _cells(suite)}.values())


def _cells(suite: Suite) -> Iterator[Cell]:
    dataset = registry.build_dataset(suite.dataset)
    pretraining = _changed(dataset.full_precision_recipe, suite.full_precision)
    rows = list(zip(suite.methods, suite.labels(), strict=True))
    for model in suite.models:
        problem = _model_problem(model, suite)
        quantized = [
            cell
            for row, label in rows
            if row.method != "fp32"
            for cell in _row(suite, dataset, pretraining, model, row, label, problem)
        ]
        listed = any(row.method == "fp32" for row in suite.methods)
        for seed in suite.seeds:
            base = full_precision_trial(
                model, suite.dataset, dataset.task, pretraining, seed, suite.threads
            )
            if listed or any(cell.trial.base == base for cell in quantized):
                title = registry.method_class("fp32").title
                yield Cell(base, Row(method="fp32"), title, suite.recipe.name, problem)
        yield from quantized


def _row(
    suite: Suite,
    dataset: Dataset,
    pretraining: Recipe,
    model: str,
    row: Row,
    label: str,
    problem: str,
) -> Iterator[Cell]:
    method = registry.build_method(row.method, row.options)
    recipe = dataset.aligned_recipe
    if suite.recipe.name == "paper" and method.paper_recipe:
        recipe = Recipe.model_validate(method.paper_recipe)
    recipe = _changed(recipe, {**suite.recipe.changes, **row.recipe})
    if not method.trains:
        recipe = _changed(recipe, {"epochs": 0, "initialization": "pretrained"})
    layers = suite.layers
    if layers is None:
        layers = method.paper_layers if suite.recipe.name == "paper" else DEFAULT_LAYERS
    pretrained = recipe.initialization == "pretrained"
    for bits in map(Bits.parse, suite.bits):
        reason = problem or _refusal(method, policy_widths(layers, bits), dataset.task)
        for seed in suite.seeds:
            trial = Trial(
                method=row.method,
                options=registry.method_options(row.method, row.options),
                model=model,
                dataset=suite.dataset,
                task=dataset.task,
                bits=str(bits),
                layers=layers,
                recipe=recipe,
                full_precision=pretraining if pretrained else None,
                seed=seed,
                threads=suite.threads,
            )
            yield Cell(trial, row, label, suite.recipe.name, reason)


def _changed(recipe: Recipe, changes: dict[str, object]) -> Recipe:
    try:
        return Recipe.model_validate({**recipe.model_dump(), **changes})
    except ValidationError as error:
        reasons = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
        raise QbenchError(f"recipe: {reasons}") from error


def _refusal(method: Method, widths: list[Bits], task: str) -> str:
    if all(bits.is_float for bits in widths):
        return "32/32 leaves nothing to quantize"
    try:
        reasons = (method.supports(bits, task) for bits in widths if not bits.is_float)
        return next((str(reason) for reason in reasons if reason), "")
    except Exception as error:  # a plugin's mistake costs its own row only
        return f"its supports() raised {type(error).__name__}: {error}"


def _model_problem(model: str, suite: Suite) -> str:
    """Why the model cannot take the dataset's images or the suite's layers, or ''."""
    layers = suite.layers
    if problem := _shape_problem(model, suite.dataset):
        return problem
    if layers is None or isinstance(layers, str):
        return ""
    try:
        net = _without_storage(model, registry.build_dataset(suite.dataset))
        select_layers(net, layers, FULL_PRECISION)
    except QbenchError as error:
        return str(error)
    return ""


@functools.cache
def _shape_problem(model: str, dataset_name: str) -> str:
    dataset = registry.build_dataset(dataset_name)
    try:
        net = _without_storage(model, dataset)
        net(torch.empty(2, *dataset.image_shape, device="meta"))
    except (RuntimeError, ValueError) as error:
        shape = "×".join(map(str, dataset.image_shape))
        reason = str(error).splitlines()[0]
        return f"{model} cannot take images of {shape}: {reason}"
    return ""


def _without_storage(model: str, dataset: Dataset) -> nn.Module:
    """A model for a dataset on the meta device: shapes and names, and no memory."""
    with torch.device("meta"):
        return registry.build_model(model, dataset.num_classes, dataset.image_shape[0]).eval()
