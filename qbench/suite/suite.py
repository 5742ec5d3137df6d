"""Suites: YAML files that describe a grid of methods × models × bit-widths × seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from qbench import registry
from qbench.errors import QbenchError
from qbench.files import resolved
from qbench.spec.booleans import no_boolean
from qbench.spec.layout import TableLayout
from qbench.spec.placement import Placement
from qbench.suite.bundled import suite_file
from qbench.suite.short_forms import row_fields, spelled_out
from qbench.suite.tuning import Tuning
from qbench.suite.validate import (
    describe,
    problems_of_content,
    problems_of_schema,
    problems_of_suite,
)
from qbench.suite.yaml import Document, Location
from qbench.train.limits import Limits

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_MAX_TITLE_LENGTH = 300
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


def _seconds(value: Any) -> Any:
    """Convert a time with a unit, such as ``20 min``, to seconds. Other values stay as they are."""
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d)", value, re.ASCII)
        if match is None:
            raise ValueError(f"'{value}' is no time; write 90 s, 20 min, 12 h or 2 d")
        return float(match[1]) * _SECONDS[match[2]]
    return value


class RecipeChoice(BaseModel):
    """Recipes that a suite trains with.

    Attributes:
        name: ``aligned`` (default): the same recipe for every method, that of the dataset;
            ``paper``: the recipe that each method's paper publishes; ``tuned``: the recipe and the
            options that are best for each method on validation images, with equal effort
            (`Tuning`).
        changes: Values that replace those of the recipe, for every method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["aligned", "paper", "tuned"] = "aligned"
    changes: dict[str, Any] = Field(default_factory=dict)


class Resources(BaseModel):
    """Resources of the machine that one trial takes.

    Attributes:
        cpus: CPU cores of a trial. By default one; on a GPU with data on disk, as many as load the
            data fast enough.
        gpus: GPUs of a trial. A fraction shares a GPU. By default, all trials that run at the same
            time share the GPUs that there are.
        processes: Number of processes that train a trial together. Each has its share of every
            batch and of the CPUs and GPUs. It is part of a trial's key. Default: 1.
        time_limit: Longest duration of a trial, in seconds or as ``90 s``, ``20 min``, ``12 h`` or
            ``2 d``. A trial that takes longer fails. By default there is no limit.
        memory: Memory in GiB that the process of a trial may take in addition to what it has at
            the start. A trial that takes more fails. By default there is no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cpus: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    processes: int = Field(default=1, ge=1)
    time_limit: Annotated[float, BeforeValidator(_seconds), Field(gt=0)] | None = None
    memory: float | None = Field(default=None, gt=0)

    _no_boolean = field_validator("*", mode="before")(no_boolean)

    @property
    def limits(self) -> Limits:
        """Limits of time and memory of one trial."""
        return Limits(self.time_limit, self.memory)

    def process(self, cpus: float, gpus: float, loader_workers: float) -> tuple[float, float]:
        """Return the resources that one process of a trial takes.

        Args:
            cpus: CPU cores of the machine.
            gpus: GPUs of the machine.
            loader_workers: CPU cores that it takes to load a GPU's data.

        Returns:
            CPU cores and GPUs of the process; fractions of a GPU are possible.
        """
        own_cpus = self.cpus / self.processes if self.cpus else 1.0
        if self.cpus is None and gpus:
            own_cpus = max(1.0, min(loader_workers, cpus // gpus))
        if self.gpus is not None:
            return own_cpus, self.gpus / self.processes
        if not gpus or self.processes > 1:
            return own_cpus, 1.0 if gpus else 0.0
        # Every trial gets a share of a GPU; as many share one as have CPUs to load its data.
        return own_cpus, min(1.0, max(0.1, own_cpus * gpus / cpus))


class MethodRow(BaseModel):
    """A method as a suite lists it, which is a row of the table.

    Attributes:
        method: Name of the method.
        options: Options of the method that differ from their defaults.
        label: Name of the row. By default, the method's title, with the options and the changes to
            the recipe if the method has several rows.
        recipe: Changes to the recipe for this row.
        published: Words in the notes of ``suites/published.csv`` that select the published numbers
            of this row if the method has several.
        bits: Bit-widths of this row, or those of each model that the row is for. Only widths that
            the suite has count. By default, all widths of the suite.
        placement: Where the quantizers of activations sit in this row. By default, that of the
            suite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    label: str = Field(default="", max_length=_MAX_TITLE_LENGTH)
    recipe: dict[str, Any] = Field(default_factory=dict)
    published: str = ""
    bits: list[str] | dict[str, list[str]] | None = None
    placement: Placement | None = None

    def widths(self, model: str, suite: list[str]) -> list[str]:
        """Return the widths of the row for a model.

        Args:
            model: Name of the model.
            suite: Widths ``W/A`` of the suite.

        Returns:
            Those widths of the suite that the row has; none if the row is not for the model.
        """
        own = self.bits.get(model, []) if isinstance(self.bits, dict) else self.bits
        return suite if own is None else [width for width in suite if width in own]


class Published(BaseModel):
    """Table of a paper whose numbers the leaderboard shows next to the measured ones.

    Attributes:
        paper: Paper as ``suites/published.csv`` names it.
        table: Number of the table in the paper. Empty if the source has none, as a README.
        dataset: Dataset that the numbers were measured on.
        model: Model that the numbers were measured with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    paper: str
    table: str = ""
    dataset: str
    model: str

    @property
    def source(self) -> str:
        """The paper, and the table if it has one."""
        return f"{self.paper}, Table {self.table}" if self.table else self.paper


class Suite(BaseModel):
    """A grid of trials, as a suite's file describes it.

    Attributes:
        name: Name of the suite, which is also the name of the results folder and of the MLflow
            experiment. Letters, digits, ``-`` and ``_``; 64 characters at most.
        title: Heading of the tables.
        dataset: Name of the dataset.
        models: Names of the models.
        bits: Bit-widths of weights and activations as ``W/A``, such as ``3(±4)/32`` or ``2/2``.
            They are the columns of the table.
        methods: Methods, which are the rows of the table.
        seeds: Random seeds. There is one trial for each. With ``recipe: tuned``, which has seeds of
            its own, those of the results with the aligned recipe that are shown beside it.
        recipe: ``aligned`` (default), ``paper`` or ``tuned``, with changes.
        tuning: Effort of ``recipe: tuned``. By default, three studies of seven trials and three
            seeds.
        full_precision: Changes to the recipe of the full-precision networks.
        layers: Which layers are quantized: a policy, names of layers, or widths by layer. By
            default, all but the first and the last layer; where recipes are the papers', what the
            paper of each method says.
        placement: Where the quantizers of activations sit: ``layer_inputs``, at the input of each
            quantized layer; ``after_activation``, behind each ReLU; or
            ``after_activation_and_add``, also at additions. By default, where each method has them.
        threads: Threads of torch in a trial on a CPU, 1 to 256. Default: 1.
        resources: Resources of the machine that a trial takes.
        published: Tables of papers whose numbers are shown next to the measured ones, for each
            model those that name it. A single entry is for every model.
        tables: How the tables are arranged.
        deploy: Formats that finished trials are deployed to after training: ``onnx``. Tables then
            show what was exported, and its measured latency.
        data: Options of the dataset. ``root`` is the folder of its files.
        weights: Origin of the full-precision weights of each model that is not trained here:
            ``torchvision``, ``torchvision:NAME`` or a file. With ``backbone:`` before it, a
            detector starts from these weights of its backbone. With ``finetune:`` before it, a
            classifier starts from these weights of all its layers but the last.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    title: str = Field(default="", max_length=_MAX_TITLE_LENGTH)
    dataset: str
    models: list[str] = Field(min_length=1)
    bits: list[str] = Field(min_length=1)
    methods: list[MethodRow] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**31, strict=True)]] = Field(min_length=1)
    recipe: RecipeChoice = RecipeChoice()
    tuning: Tuning = Tuning()
    full_precision: dict[str, Any] = Field(default_factory=dict)
    layers: str | list[str] | dict[str, str] | None = None
    placement: Placement | None = None
    threads: int = Field(default=1, ge=1, le=256)
    resources: Resources = Resources()
    published: list[Published] = Field(default_factory=list)
    tables: list[TableLayout] = Field(default_factory=lambda: [TableLayout()], min_length=1)
    deploy: list[Literal["onnx"]] = Field(default_factory=list)
    data: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)

    _no_boolean = field_validator("threads", mode="before")(no_boolean)

    @field_validator("data")
    @classmethod
    def _resolve_root(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Resolve the folder of the data, which workers read from other working directories."""
        root = data.get("root")
        return {**data, "root": str(resolved(root))} if isinstance(root, str) else data

    def published_for(self, model: str) -> Published | None:
        """Return the published table that a model's numbers are shown next to, or None."""
        named = [each for each in self.published if each.model == model]
        return next(iter(named or (self.published if len(self.published) == 1 else [])), None)

    @property
    def is_tuned(self) -> bool:
        """Whether its recipe is ``tuned``."""
        return self.recipe.name == "tuned"

    def max_trials(self) -> int:
        """Return an upper bound of the number of trials.

        It counts full-precision trials, and trials that their method does not support.
        """
        quantized = sum(len(row.widths(m, self.bits)) for row in self.methods for m in self.models)
        each = len(self.seeds)
        if self.is_tuned:
            each = self.tuning.studies * (self.tuning.most_trials + self.tuning.seeds)
        return each * (quantized + len(self.models))

    def labels(self) -> list[str]:
        """Return the name of each of `methods`: its label, or its title and what sets it apart."""
        names = [row.method for row in self.methods]
        labels = []
        for row in self.methods:
            title = registry.method_class(row.method).title
            apart = {**row.options, **row.recipe}
            if row.placement is not None:
                apart["placement"] = row.placement
            shown = ", ".join(f"{key}={value}" for key, value in apart.items())
            repeated = names.count(row.method) > 1 and shown
            labels.append(row.label or (f"{title} ({shown})" if repeated else title))
        return labels


def load_suite(path: Path, assignments: Sequence[str] = (), plugins: Sequence[str] = ()) -> Suite:
    """Read and check a suite's file.

    Args:
        path: Path of the file, or name of a suite that is installed with qbench.
        assignments: Changes ``key=value``, as those of the option ``--set``.
        plugins: Names of methods, from method files, that are added unless the suite lists them.

    Returns:
        The suite.

    Raises:
        QbenchError: The file has mistakes. The message has a line for each: the place, the keys,
            the value and the nearest valid one.
    """
    document = Document.read(suite_file(path))
    document.data = _with_methods(document.data, plugins)
    for assignment in assignments:
        document.set(assignment)
    data = spelled_out(_with_methods(document.data, plugins))  # one may have replaced the list
    problems = dict(reversed(list(problems_of_content(data))))  # the first one of each location
    if isinstance(data.get("methods"), list):
        data["methods"] = [row_fields(entry) or entry for entry in data["methods"]]
    try:
        suite = Suite.model_validate(data)
    except ValidationError as error:
        keys, nested = list(Suite.model_fields), _nested_keys()
        for location, message in problems_of_schema(error, keys, nested):
            key = str(location[0])
            if key in ("published", "tables") and isinstance(document.data[key], dict):
                location = (key, *location[2:])  # the file has no list there
            if not any(_overlap(location, known) for known in problems):
                problems[location] = message
    if not problems:
        problems = problems_of_suite(suite)
    if problems:
        raise QbenchError(describe(problems, document))
    return suite


def _with_methods(data: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the content of a suite, with the methods that it does not list yet at the end."""
    methods = data.get("methods")
    rows = [methods] if isinstance(methods, str | dict) else methods
    if not (isinstance(rows, list) and names):
        return data
    present = {(row_fields(entry) or {}).get("method") for entry in rows}
    return {**data, "methods": [*rows, *(n for n in dict.fromkeys(names) if n not in present)]}


def _nested_keys() -> dict[str, list[str]]:
    """Return the valid keys inside those keys of a suite whose own keys are fixed."""
    parts: dict[str, type[BaseModel]] = {
        "resources": Resources,
        "tuning": Tuning,
        "published": Published,
        "tables": TableLayout,
    }
    return {key: list(part.model_fields) for key, part in parts.items()}


def _overlap(first: Location, second: Location) -> bool:
    """Return whether one of two locations is within the other."""
    return all(a == b for a, b in zip(first, second, strict=False))
