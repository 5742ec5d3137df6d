"""Expand a suite into trials, and find out which of them cannot be trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.parameter import is_lazy

from qbench import registry
from qbench.data import Dataset
from qbench.errors import QbenchError, reason_of
from qbench.method import Method
from qbench.quant.layers import select_layers
from qbench.quant.options import build_method, build_paper_method, determining_options
from qbench.quant.preparation import preparation_of
from qbench.spec.bits import FULL_PRECISION, BitWidths
from qbench.spec.placement import resolve_placement
from qbench.spec.policies import DEFAULT_LAYERS, policy_widths
from qbench.spec.recipe import Recipe
from qbench.spec.trial import FP32, Preparation, TeacherNetwork, Trial, full_precision_trial
from qbench.spec.weights import identify, is_initial
from qbench.suite.suite import MethodRow, Suite
from qbench.tasks import classification

_ANY = BitWidths.parse("1/1")
_SMALL = 1e9  # weights × pixels: about what a core multiplies in a tenth of a second
# Recipe of networks whose weights are given: their trials' keys must not depend on any other.
_UNTRAINED = Recipe(epochs=0, batch_size=1, optimizer="sgd", lr=1.0)


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of a suite, and its place in the table.

    Attributes:
        trial: The trial.
        row: Row of the suite that it belongs to.
        label: Name of that row in the table.
        recipe: ``aligned``, ``paper`` or ``tuned``.
        dataset: Name of the dataset in the table.
        unsupported: Reason why it cannot be trained, or an empty string if it can.
        study: Number of the study that it belongs to, from 1. 0: it belongs to none.
        values: Value on each axis of the search, by name, in a study.
        epochs_before: Number of its epochs that a shorter trial of its study has trained, from
            whose checkpoint it goes on. 0: it starts with the first.
    """

    trial: Trial
    row: MethodRow
    label: str
    recipe: str
    dataset: str
    unsupported: str = ""
    study: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    epochs_before: int = 0

    @property
    def epochs_to_train(self) -> int:
        """Number of its epochs that no shorter trial has trained."""
        return self.trial.epochs - self.epochs_before

    @property
    def name(self) -> str:
        """Readable name, with the label of its row and the values that are searched."""
        trial = self.trial
        name = f"{self.label} {trial.bits} {trial.model} {self.dataset} seed {trial.seed}"
        if self.values:
            name += f" ({', '.join(f'{axis} {value}' for axis, value in self.values.items())})"
        return f"{name}, {trial.length}" if trial.stop_after else name


def expand(suite: Suite, rehearsal: bool = False) -> list[PlannedTrial]:
    """Return the trials of a suite, those of full precision first, each once.

    Args:
        suite: The suite.
        rehearsal: Whether the trials are marked as a rehearsal.

    Returns:
        The trials in the order of models, methods, widths and seeds.

    Raises:
        QbenchError: Changes contradict their recipe, given weights do not exist, or two rows are
            the same.
    """
    return distinct(every_row(suite, rehearsal), lambda planned: planned.trial.key)


def every_row(suite: Suite, rehearsal: bool = False) -> list[PlannedTrial]:
    """Return what `expand` does, but a trial once for each row that it belongs to.

    Args:
        suite: The suite.
        rehearsal: Whether the trials are marked as a rehearsal.

    Raises:
        QbenchError: As in `expand`, but rows may be the same.
    """
    return list({(p.trial.key, p.label): p for p in _Grid(suite, rehearsal).trials()}.values())


def distinct(
    trials: Iterable[PlannedTrial], identity: Callable[[PlannedTrial], Hashable]
) -> list[PlannedTrial]:
    """Return trials, if no two of different rows are the same.

    Args:
        trials: The trials.
        identity: What is equal of the same ones.

    Raises:
        QbenchError: Two rows are the same.
    """
    found: dict[Hashable, PlannedTrial] = {}
    for planned in trials:
        own_row = planned.label if planned.unsupported else ""
        other = found.setdefault((identity(planned), own_row), planned)
        if other.label != planned.label:
            raise QbenchError(
                f"methods: '{other.label}' and '{planned.label}' are the same at "
                f"{planned.trial.bits}: leave one of them out"
            )
    return list(found.values())


class _Grid:
    """Expand a suite into trials."""

    def __init__(self, suite: Suite, rehearsal: bool) -> None:
        self._suite = suite
        self._rehearsal = rehearsal
        self._dataset = registry.build_dataset(suite.dataset, suite.data)
        self._name = self._dataset.label or suite.dataset
        own = {**suite.full_precision, "teacher": None}  # it is the teacher of others
        self._pretraining = _changed(self._dataset.full_precision_recipe, own)

    def trials(self) -> Iterator[PlannedTrial]:
        suite = self._suite
        rows = [
            (row, label, *_method_of(row, suite.recipe.name))
            for row, label in zip(suite.methods, suite.labels(), strict=True)
        ]
        for model in suite.models:
            problem = self._model_problem(model)
            quantized = [
                planned
                for row, label, method, mistake in rows
                if row.method != FP32
                for planned in self._row(model, row, label, method, problem or mistake)
            ]
            listed = any(row.method == FP32 for row in suite.methods)
            if listed or any(planned.trial.needs for planned in quantized):
                title = registry.method_class(FP32).title
                start = self._start(model, suite.seeds[0])
                first = full_precision_trial(start, self._recipe_of(model))
                for seed in suite.seeds:
                    yield PlannedTrial(
                        first.with_seed(seed),
                        MethodRow(method=FP32),
                        title,
                        suite.recipe.name,
                        self._name,
                        problem,
                    )
                yield from self._changed_bases(quantized)
            yield from quantized

    def _changed_bases(self, quantized: Sequence[PlannedTrial]) -> Iterator[PlannedTrial]:
        """Yield the full-precision trials of the networks that methods change, each once."""
        changed = (p for p in quantized if p.trial.has_changed_network and not p.unsupported)
        starts = [planned.trial.base for planned in changed]
        bases = list({base.key: base for base in starts if base is not None}.values())
        changes = [base.prepared for base in bases if base.prepared is not None]
        for base in bases:
            label = _label_of_base(base, changes)
            row, recipe = MethodRow(method=FP32), self._suite.recipe.name
            yield PlannedTrial(base, row, label, recipe, self._name)

    def _start(self, model: str, seed: int) -> Trial:
        """Return the full-precision trial of a model and a seed, which others are changes of."""
        suite, dataset = self._suite, self._dataset
        given = suite.weights.get(model)
        return Trial(
            method=FP32,
            model=model,
            dataset=suite.dataset,
            task=dataset.task,
            bits=str(FULL_PRECISION),
            recipe=self._recipe_of(model),
            seed=seed,
            threads=suite.threads,
            data=dataset.identity(),
            weights=identify(model, given) if given else "",
            processes=suite.resources.processes,
            rehearsal=self._rehearsal,
        )

    def _recipe_of(self, model: str) -> Recipe:
        """Return the recipe of a model's full-precision network."""
        given = self._suite.weights.get(model)
        return self._pretraining if given is None or is_initial(given) else _UNTRAINED

    def _row(
        self, model: str, row: MethodRow, label: str, method: Method, problem: str
    ) -> Iterator[PlannedTrial]:
        suite = self._suite
        layers = suite.layers
        if layers is None:
            layers = method.paper_layers if suite.recipe.name == "paper" else DEFAULT_LAYERS
        start = dict(self._start(model, suite.seeds[0]))
        problems = {model: problem}  # by network
        own: dict[str, Any] = {
            "method": row.method,
            "options": determining_options(method),
            "layers": layers if isinstance(layers, str | dict) else tuple(layers),
        }
        initial = is_initial(suite.weights.get(model, ""))
        for bits in map(BitWidths.parse, row.widths(model, suite.bits)):
            recipe, mistake = self._recipe(row, method, bits)
            pretrained = recipe.initialization == "pretrained"
            task = self._dataset.task
            reason = _refusal(method, policy_widths(layers, bits), task) or mistake
            network = model
            if not (problem or reason):
                network, reason = _declared(method, model, bits)
            if network not in problems:
                problems[network] = self._model_problem(network)
            reason = problems[network] or reason
            preparation = None
            if not reason and (pretrained or initial):
                preparation = self._preparation(network, method, bits)
            changed = network != model or preparation is not None
            if changed and initial:
                reason = reason or (
                    f"it changes {model}, and {start['weights']} is of the unchanged network"
                )
            # Weights that are given are of the unchanged network: the changed one is trained.
            base = self._pretraining if changed else self._recipe_of(model)
            own |= {
                "bits": str(bits),
                "recipe": recipe,
                "full_precision": base if pretrained else None,
                "teacher": self._teacher(model, start["weights"], recipe),
                "network": network if network != model else "",
                "prepared": preparation,
                "placement": resolve_placement(
                    row.placement or suite.placement or method.placement,
                    policy_widths(layers, bits),
                ),
            }
            given = initial or (pretrained and not changed)
            weights = start["weights"] if given else ""
            first = Trial.model_validate({**start, **own, "weights": weights})
            for seed in suite.seeds:
                trial = first.with_seed(seed)
                yield PlannedTrial(trial, row, label, suite.recipe.name, self._name, reason)

    def _teacher(self, model: str, weights: str, recipe: Recipe) -> TeacherNetwork | None:
        """Return the network that teaches trials by a recipe, that of the unchanged model."""
        if recipe.teacher is None:
            return None
        return TeacherNetwork(recipe=self._recipe_of(model), weights=weights)

    def _preparation(self, model: str, method: Method, bits: BitWidths) -> Preparation | None:
        """Return how a method changes a model before it is quantized, or None."""
        dataset = self._dataset

        def build() -> nn.Module:
            return registry.build_model(model, dataset.num_classes, dataset.image_shape[0])

        try:
            return preparation_of(method, bits, build)
        except Exception:  # a mistake in a plugin: its trials fail, and say where
            return None

    def _recipe(self, row: MethodRow, method: Method, bits: BitWidths) -> tuple[Recipe, str]:
        """Return the recipe of a row's trials, and why they cannot be trained by it or ''."""
        suite, recipe, mistake = self._suite, self._dataset.aligned_recipe, ""
        if suite.recipe.name == "paper":
            try:
                recipe = _published_recipe(method, bits) or recipe
            except Exception as error:  # a mistake in a plugin must affect its own row only
                mistake = f"its paper_recipe_for() raised {type(error).__name__}: {error}"
        recipe = _changed(recipe, {**suite.recipe.changes, **row.recipe})
        if not method.trains:
            untrained = {"epochs": 0, "initialization": "pretrained", "teacher": None}
            recipe = _changed(recipe, untrained)
        if self._dataset.task != "classification":
            if recipe.label_smoothing:
                mistake = mistake or "its recipe smooths labels, which is for classification"
            if recipe.teacher is not None:
                mistake = mistake or "its recipe has a teacher, which is for classification"
        return recipe, mistake

    def _model_problem(self, model: str) -> str:
        """Return why a model does not fit the dataset or the suite's layers, or an empty string."""
        layers = self._suite.layers
        try:
            network = without_storage(model, self._dataset)
        except Exception as error:  # a mistake in a model must affect its own trials only
            return f"{model} cannot be built: {reason_of(error)}"
        if lazy := _lazy_layer(network):
            return f"{model} {lazy}"
        if problem := shape_problem(model, self._dataset):
            return problem
        try:
            found = select_layers(network, DEFAULT_LAYERS if layers is None else layers, _ANY)
        except QbenchError as error:
            return str(error)
        return "" if found else f"`layers` leave nothing of {model} to quantize"


def _method_of(row: MethodRow, recipe: str) -> tuple[Method, str]:
    """Return the method of a row, and what is wrong with its `Method.paper_options` or ''."""
    if recipe == "paper":
        try:
            return build_paper_method(row.method, row.options), ""
        except Exception as error:  # a mistake in a plugin must affect its own row only
            return build_method(row.method, row.options), f"its paper_options: {error}"
    return build_method(row.method, row.options), ""


def _declared(method: Method, model: str, bits: BitWidths) -> tuple[str, str]:
    """Return the model that a method declares in place of one, and why it cannot or ''."""
    try:
        return method.network_for(model, bits), ""
    except Exception as error:  # a mistake in a plugin must affect its own row only
        return model, f"its network_for() raised {type(error).__name__}: {error}"


def _label_of_base(base: Trial, others: Sequence[Preparation]) -> str:
    """Return the name of a changed network in full precision, unlike that of any other."""
    full = registry.method_class(FP32).title
    if base.network:
        full += f", {base.network}"
    if base.prepared is None:
        return full
    own = base.prepared
    same = [each for each in others if each.method == own.method]
    differing = [
        f"{name} {value}"
        for name, value in own.options.items()
        if any(each.options.get(name) != value for each in same)
    ]
    if any(each.bits != own.bits for each in same):
        differing.append(f"for {own.bits}")
    title = registry.method_class(own.method).title
    return f"{full}, changed by {title}" + (f" ({', '.join(differing)})" if differing else "")


def _changed(recipe: Recipe, changes: dict[str, object]) -> Recipe:
    fields = recipe.model_dump()
    # Lists belong to the milestones that they are for, and those of rates to the schedule `step`.
    if {"milestones", "gamma"} & set(changes) or changes.get("schedule", "step") != "step":
        fields.pop("milestone_lrs", None)
    if "milestones" in changes:
        fields.pop("milestone_weight_decays", None)
    try:
        return Recipe.model_validate({**fields, **changes})
    except ValidationError as error:
        reasons = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
        raise QbenchError(f"recipe: {reasons}") from error


def _own_tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _lazy_layer(network: nn.Module) -> str:
    """Return what is wrong if a layer learns its size from the first batch, or an empty string."""
    for name, module in network.named_modules():
        if any(is_lazy(each) for each in _own_tensors(module)):
            kind = type(module).__name__
            return f"has a lazy layer, '{name}' ({kind}), which has no weights yet: give its size"
    return ""


def _message(error: Exception) -> str:
    """Return the first line of an error's message, with its type if the message does not tell."""
    told = isinstance(error, RuntimeError | ValueError) and str(error).strip()
    return str(error).strip().splitlines()[0] if told else reason_of(error)


def _published_recipe(method: Method, bits: BitWidths) -> Recipe | None:
    found: object = method.paper_recipe_for(bits)  # the type is what a file says
    if not isinstance(found, Recipe | None):
        raise TypeError(f"it must return a Recipe, not a {type(found).__name__}")
    return found


def _refusal(method: Method, widths: list[BitWidths], task: str) -> str:
    if all(bits.is_float for bits in widths):
        return "32/32 leaves nothing to quantize"
    try:
        reasons = (method.supports(bits, task) for bits in widths if not bits.is_float)
        return next((str(reason) for reason in reasons if reason), "")
    except Exception as error:  # a mistake in a plugin must affect its own row only
        return f"its supports() raised {type(error).__name__}: {error}"


def without_storage(model: str, dataset: Dataset) -> nn.Module:
    """Build a model on the meta device, where it has shapes and names but takes no memory.

    Args:
        model: Name of the model.
        dataset: Dataset that determines the number of classes and channels.

    Returns:
        The model in evaluation mode.

    Raises:
        QbenchError: No model has the name.
    """
    with torch.device("meta"):
        return registry.build_model(model, dataset.num_classes, dataset.image_shape[0]).eval()


def is_small(network: nn.Module, dataset: Dataset) -> bool:
    """Return whether a network runs sooner than torch imports what runs it without storage.

    Args:
        network: The network, which may be on the meta device.
        dataset: Dataset whose images it takes.
    """
    weights = sum(parameter.numel() for parameter in network.parameters())
    return weights * math.prod(dataset.image_shape[1:]) <= _SMALL


def shape_problem(model: str, dataset: Dataset) -> str:
    """Return why a classifier does not map images of a dataset to scores of its classes, or ''.

    Args:
        model: Name of the model.
        dataset: The dataset. Its files may be missing.
    """
    if dataset.task != "classification":
        return ""
    try:
        shape = tuple(classification.scores(_output(model, dataset)).shape)
    except Exception as error:
        size = "×".join(map(str, dataset.image_shape))
        return f"{model} cannot take images of {size}: {_message(error)}"
    if shape != (2, dataset.num_classes):
        return f"{model} maps 2 images to {shape}, not to (2, {dataset.num_classes}) scores"
    return ""


def _output(model: str, dataset: Dataset) -> Any:
    """Return what a classifier returns of two images."""
    network = without_storage(model, dataset)
    if not is_small(network, dataset):
        with suppress(Exception):  # a network that looks at values cannot run without them
            return network(torch.empty(2, *dataset.image_shape, device="meta"))
    network = registry.build_model(model, dataset.num_classes, dataset.image_shape[0])
    with torch.no_grad():
        return network.eval()(torch.zeros(2, *dataset.image_shape))
