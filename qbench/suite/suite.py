"""Suites: YAML files that name a grid of methods × models × bit-widths × seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from qbench import registry
from qbench.errors import QbenchError, nearest
from qbench.spec.bits import Bits
from qbench.spec.layout import Arrangement, unknown_metrics
from qbench.spec.policies import POLICIES
from qbench.spec.recipe import Recipe
from qbench.spec.weights import identify
from qbench.suite.bundled import suite_file
from qbench.suite.yaml import Document, Location
from qbench.train.limits import Limits

_ROW_KEYS = ("label", "recipe", "published", "bits")
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_LONGEST = 300  # characters of a title or a label
_LONGEST_LINE = 1000
_MOST_TOLD = 30
_MOST_TRIALS = 100_000
_OWN_FOLDERS = ("artifacts", "rehearsal")  # of the results, beside those of suites
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


def _seconds(value: Any) -> Any:
    """A time in seconds, of which ``20 min`` is another way to write 1200."""
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d)", value, re.ASCII)
        if match is None:
            raise ValueError(f"'{value}' is no time; write 90 s, 20 min, 12 h or 2 d")
        return float(match[1]) * _UNITS[match[2]]
    return value


class RecipeChoice(BaseModel):
    """Which recipes a suite trains by.

    Attributes:
        name: ``aligned``: one recipe for every method, the dataset's; ``paper``: each method's
            published one.
        changes: values that replace a recipe's own, for every method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["aligned", "paper"] = "aligned"
    changes: dict[str, Any] = Field(default_factory=dict)


class Resources(BaseModel):
    """What one trial takes of the machine.

    Attributes:
        cpus: CPU cores. None: one, or for data on disk as many as feed its GPU.
        gpus: GPUs; a fraction shares one. None: all trials that fit share the GPUs there are.
        processes: how many train it together, each with its share of every batch and of the CPUs
            and GPUs. Part of a trial's key.
        time_limit: how long it may take, in seconds or as ``90 s``, ``20 min``, ``12 h``, ``2 d``;
            then it has failed. None: as long as it takes.
        memory: GiB that its process may take beyond what it has before; then it has failed. None:
            what the machine has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cpus: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    processes: int = Field(default=1, ge=1)
    time_limit: Annotated[float, BeforeValidator(_seconds), Field(gt=0)] | None = None
    memory: float | None = Field(default=None, gt=0)

    @property
    def limits(self) -> Limits:
        """What one trial may take."""
        return Limits(self.time_limit, self.memory)

    def process(self, cpus: float, gpus: float, feeding: float) -> tuple[float, float]:
        """What one process takes of the machine.

        Args:
            cpus: of the machine.
            gpus: of the machine.
            feeding: cores that feed a GPU with the suite's data.

        Returns:
            Its CPUs and its GPUs.
        """
        own_cpus = self.cpus / self.processes if self.cpus else 1.0
        if self.cpus is None and gpus:
            own_cpus = max(1.0, min(feeding, cpus // gpus))
        if self.gpus is not None:
            return own_cpus, self.gpus / self.processes
        if not gpus or self.processes > 1:
            return own_cpus, 1.0 if gpus else 0.0
        # Every trial gets a GPU's slice; as many share one as have CPUs to feed it.
        return own_cpus, min(1.0, max(0.1, own_cpus * gpus / cpus))


class Row(BaseModel):
    """A method as a suite lists it: a row of the table.

    Attributes:
        method: its name.
        options: its options, where they are not the defaults.
        label: the row's name; by default the method's title, with what sets the row apart.
        recipe: changes to the recipe, for this row.
        published: words of the notes of `suites/published.csv` by which to find the row's
            published numbers, where its method has several.
        bits: the widths of this row, or those of each model that it is for; None: the suite's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    label: str = Field(default="", max_length=_LONGEST)
    recipe: dict[str, Any] = Field(default_factory=dict)
    published: str = ""
    bits: list[str] | dict[str, list[str]] | None = None

    def widths(self, model: str, suite: list[str]) -> list[str]:
        """The row's widths for a model, among the suite's; none where it is not for the model."""
        own = self.bits.get(model, []) if isinstance(self.bits, dict) else self.bits
        return suite if own is None else [width for width in suite if width in own]


class Published(BaseModel):
    """Which published numbers stand beside the measured ones.

    Attributes:
        paper: as `suites/published.csv` names it.
        table: of the paper.
        dataset: what the numbers were measured on.
        model: likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    paper: str
    table: str
    dataset: str
    model: str


class Suite(BaseModel):
    """A grid of trials, as its file describes it.

    Attributes:
        name: names the results folder and the MLflow experiment.
        title: heading of the tables.
        dataset: the dataset.
        models: the models.
        bits: widths, columns of the table.
        methods: the methods, rows of the table.
        seeds: one trial for each.
        recipe: ``aligned`` or ``paper``, with changes.
        full_precision: changes to the recipe of the full-precision networks.
        layers: which layers are quantized; None: all but the first and the last, or what each
            method's paper says where recipes are the papers'.
        threads: torch's threads in a trial on a CPU.
        resources: what a trial takes of the machine.
        published: numbers of papers to show beside, for each model those that name it; a single
            entry is for every model.
        tables: how the tables are arranged.
        data: options of the dataset; ``root`` is where its files are.
        weights: for each model whose full-precision weights are not trained here, where they are
            from: ``torchvision``, ``torchvision:NAME``, or a file; for a detector that starts from
            those of its backbone, the same with ``backbone:`` before it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    title: str = Field(default="", max_length=_LONGEST)
    dataset: str
    models: list[str] = Field(min_length=1)
    bits: list[str] = Field(min_length=1)
    methods: list[Row] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**31, strict=True)]] = Field(min_length=1)
    recipe: RecipeChoice = RecipeChoice()
    full_precision: dict[str, Any] = Field(default_factory=dict)
    layers: str | list[str] | dict[str, str] | None = None
    threads: int = Field(default=1, ge=1, le=256)
    resources: Resources = Resources()
    published: list[Published] = Field(default_factory=list)
    tables: list[Arrangement] = Field(default_factory=lambda: [Arrangement()], min_length=1)
    data: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)

    def published_for(self, model: str) -> Published | None:
        """Which published numbers stand beside a model's, if any."""
        named = [each for each in self.published if each.model == model]
        return next(iter(named or (self.published if len(self.published) == 1 else [])), None)

    def most_trials(self) -> int:
        """Trials, full-precision ones and those that no method can do among them."""
        quantized = sum(len(row.widths(m, self.bits)) for row in self.methods for m in self.models)
        return len(self.seeds) * (quantized + len(self.models))

    def labels(self) -> list[str]:
        """A name for each of `methods`: its own, or its title with what sets it apart."""
        names = [row.method for row in self.methods]
        labels = []
        for row in self.methods:
            title = registry.method_class(row.method).title
            apart = {**row.options, **row.recipe}
            shown = ", ".join(f"{key}={value}" for key, value in apart.items())
            repeated = names.count(row.method) > 1 and shown
            labels.append(row.label or (f"{title} ({shown})" if repeated else title))
        return labels


def load_suite(path: Path, assignments: Sequence[str] = (), plugins: Sequence[str] = ()) -> Suite:
    """Read and check a suite file.

    Args:
        path: Path of the file, or name of a suite that is installed with qbench.
        assignments: ``key=value`` overrides, as of ``--set``.
        plugins: names of methods to add, from method files.

    Raises:
        QbenchError: with every mistake in the file, a line for each: the place, the key, the value
            and the nearest valid one.
    """
    document = Document.read(suite_file(path))
    for assignment in assignments:
        document.set(assignment)
    data = _normalised(document.data)
    if isinstance(data.get("methods"), list):
        present = {(_row(entry) or {}).get("method") for entry in data["methods"]}
        data["methods"] += [name for name in plugins if name not in present]
    problems = dict(reversed(list(_meaning(data))))
    if isinstance(data.get("methods"), list):
        data["methods"] = [_row(entry) or entry for entry in data["methods"]]
    try:
        suite = Suite.model_validate(data)
    except ValidationError as error:
        for location, message in _schema(error):
            if location[0] in ("published", "tables") and isinstance(
                document.data[location[0]], dict
            ):
                location = (location[0], *location[2:])  # as it is written: not in a list
            if not any(_one_within_the_other(location, known) for known in problems):
                problems[location] = message
    if not problems:
        problems = dict(_label_problems(suite))
    if not problems and (trials := suite.most_trials()) > _MOST_TRIALS:
        problems = {("seeds",): f"{trials:,} trials; a suite has {_MOST_TRIALS:,} at most"}
    if problems:
        raise QbenchError("\n".join(_told(problems, document)))
    return suite


def _one_within_the_other(first: Location, second: Location) -> bool:
    return all(a == b for a, b in zip(first, second, strict=False))


def _label_problems(suite: Suite) -> Iterator[tuple[Location, str]]:
    """Rows of one name with the same cell."""
    seen: set[tuple[str, str, str]] = set()
    for index, (row, label) in enumerate(zip(suite.methods, suite.labels(), strict=True)):
        cells = {(label, m, bits) for m in suite.models for bits in row.widths(m, suite.bits)}
        if cells & seen:
            yield (
                ("methods", index),
                f"a second row is named '{label}'; give one of them another `label`",
            )
        seen |= cells


def _normalised(data: dict[str, Any]) -> dict[str, Any]:
    """Spell out the short forms: ``models: m``, ``recipe: aligned``, ``bits: 2/2``."""
    data = dict(data)
    for key in ("models", "bits", "methods"):
        if isinstance(data.get(key), str | dict):
            data[key] = [data[key]]
    if isinstance(data.get("methods"), list):
        data["methods"] = list(data["methods"])
    if isinstance(data.get("seeds"), int):
        data["seeds"] = [data["seeds"]]
    for key in ("published", "tables"):
        if isinstance(data.get(key), dict):
            data[key] = [data[key]]
    if isinstance(data.get("weights"), str) and isinstance(data.get("models"), list):
        data["weights"] = dict.fromkeys(map(str, data["models"]), data["weights"])
    recipe = data.get("recipe")
    if isinstance(recipe, str):
        data["recipe"] = {"name": recipe}
    elif isinstance(recipe, dict):
        changes = {key: value for key, value in recipe.items() if key != "name"}
        data["recipe"] = {"name": recipe.get("name", "aligned"), "changes": changes}
    return data


def _row(entry: Any) -> dict[str, Any] | None:
    """The fields of a `Row` from ``name`` or ``{name: options, label: …}``; None of others."""
    if isinstance(entry, str):
        return {"method": entry}
    if not isinstance(entry, dict):
        return None
    rest = {key: value for key, value in entry.items() if key in _ROW_KEYS}
    names = [key for key in entry if key not in rest]
    if len(names) != 1:
        return None
    return {"method": names[0], "options": entry[names[0]] or {}, **rest}


def _meaning(data: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    """Mistakes that the schema cannot see: names, widths, options and recipes."""
    bits, models, methods = data.get("bits"), data.get("models"), data.get("methods")
    if str(data.get("name")) in _OWN_FOLDERS:
        yield ("name",), f"'{data['name']}' is a folder of the results that is not a suite's"
    yield from _bits_problems(bits, ("bits",))
    for index, entry in enumerate(methods if isinstance(methods, list) else []):
        yield from _method_problems(entry, ("methods", index))
        yield from _row_bits_problems(entry, ("methods", index))
    yield from _model_problems(models, ("models",))
    yield from _data_problems(data.get("dataset"), data.get("data"))
    if isinstance(data.get("tables"), list) and data.get("dataset") in registry.names("datasets"):
        task = registry.build_dataset(data["dataset"]).task
        for index, entry in enumerate(data["tables"]):
            for message in unknown_metrics(entry, task):
                yield ("tables", index, "cell"), message
    if isinstance(data.get("weights"), dict):
        yield from _weights_problems(data["weights"])
    for key, repeats in (("bits", bits), ("models", models), ("seeds", data.get("seeds"))):
        if isinstance(repeats, list):
            seen = set()
            for index, value in enumerate(map(repr, repeats)):
                if value in seen:
                    yield (key, index), f"{repeats[index]} is there twice"
                seen.add(value)
    layers = data.get("layers", "all")
    if isinstance(layers, str) and layers not in POLICIES:
        yield ("layers",), f"'{layers}' is no layer policy{nearest(layers, POLICIES)}"
    if isinstance(layers, dict):
        for name, text in layers.items():
            try:
                Bits.parse(str(text))
            except ValueError as error:
                yield ("layers", str(name)), str(error)
    recipe = data.get("recipe")
    if isinstance(recipe, dict) and isinstance(recipe.get("changes"), dict):
        yield from _recipe_problems(recipe["changes"], ("recipe",))
    if isinstance(data.get("full_precision"), dict):
        yield from _recipe_problems(data["full_precision"], ("full_precision",))


def _data_problems(dataset: Any, options: Any) -> Iterator[tuple[Location, str]]:
    if not isinstance(dataset, str):
        return
    if dataset not in registry.names("datasets"):
        yield (
            ("dataset",),
            f"no dataset is named '{dataset}'" + nearest(dataset, registry.names("datasets")),
        )
    elif isinstance(options, dict):
        try:
            registry.build_dataset(dataset, options)
        except QbenchError as error:
            yield ("data",), str(error)


def _bits_problems(bits: Any, location: Location) -> Iterator[tuple[Location, str]]:
    for index, text in enumerate(bits if isinstance(bits, list) else []):
        try:
            Bits.parse(str(text))
        except ValueError as error:
            yield (*location, index), str(error)


def _row_bits_problems(entry: Any, location: Location) -> Iterator[tuple[Location, str]]:
    """Mistakes in the widths of a row. Models and widths that the suite leaves out are none."""
    own = entry.get("bits") if isinstance(entry, dict) else None
    if isinstance(own, dict):
        yield from _model_problems(own, (*location, "bits"))
        for model, widths in own.items():
            yield from _bits_problems(widths, (*location, "bits", str(model)))
    else:
        yield from _bits_problems(own, (*location, "bits"))


def _weights_problems(choices: dict[Any, Any]) -> Iterator[tuple[Location, str]]:
    yield from _model_problems(choices, ("weights",))
    for model, choice in choices.items():
        try:
            identify(str(model), str(choice))
        except QbenchError as error:
            yield ("weights", str(model)), str(error)


def _model_problems(names: Any, location: Location) -> Iterator[tuple[Location, str]]:
    """Names that no model has: the items of a list, or the keys of a mapping."""
    for index, name in enumerate(names if isinstance(names, list | dict) else []):
        try:
            registry.check_model_name(str(name))
        except QbenchError as error:
            yield (*location, index if isinstance(names, list) else str(name)), str(error)


def _method_problems(entry: Any, location: Location) -> Iterator[tuple[Location, str]]:
    row = _row(entry)
    name, options = (row["method"], row.get("options", {})) if row else (None, None)
    if row is None or not isinstance(name, str) or not isinstance(options, dict):
        if isinstance(entry, dict) and len(entry) > 1:
            for key in list(entry)[1:]:
                if key not in _ROW_KEYS:
                    yield (*location, key), f"no such key beside a method{nearest(key, _ROW_KEYS)}"
            return
        yield location, f"write a method as `name` or `name: {{option: value}}`, not {entry!r}"
        return
    if isinstance(row.get("recipe"), dict):
        yield from _recipe_problems(row["recipe"], (*location, "recipe"))
    try:
        registry.method_options(name, options)
    except QbenchError as error:
        yield location, str(error)
    except ValidationError as error:
        for found, message in _schema(error, list(registry.option_fields(name))):
            yield (*location, name, *found), message


def _recipe_problems(changes: dict[str, Any], location: Location) -> Iterator[tuple[Location, str]]:
    """Check changes on a recipe that has everything else."""
    schedule = {"milestones": [1], "final_lr": 1e-9}
    neutral = {"epochs": 1, "batch_size": 1, "optimizer": "sgd", "lr": 1.0, **schedule}
    try:
        Recipe.model_validate({**neutral, **changes})
    except ValidationError as error:
        for found, message in _schema(error, list(Recipe.model_fields)):
            yield (*location, *found), message


def _schema(
    error: ValidationError, known: Sequence[str] | None = None
) -> Iterator[tuple[Location, str]]:
    """Pydantic's findings in plain words."""
    for found in error.errors():
        location = found["loc"]
        if location[:1] == ("layers",):
            yield ("layers",), "write a policy, a list of layers, or widths by layer"
        elif found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            parts: dict[str, type[BaseModel]] = {
                "resources": Resources,
                "published": Published,
                "tables": Arrangement,
            }
            words = known or list(parts.get(str(location[0]), Suite).model_fields)
            yield location, f"no such key{nearest(str(location[-1]), words)}"
        elif found["type"] == "missing":
            yield location, "is missing, and a suite needs it"
        elif found["type"] == "value_error":
            yield location, str(found["ctx"]["error"])
        elif found["type"] == "literal_error":
            words = re.findall(r"'([^']*)'", found["ctx"]["expected"])
            yield location, f"{found['input']!r} is not one{nearest(str(found['input']), words)}"
        elif found["type"] == "string_pattern_mismatch":
            yield location, f"{found['input']!r}: letters, digits, - and _ only"
        else:
            message = found["msg"][0].lower() + found["msg"][1:]
            yield location, f"{message}, not {found['input']!r}"


def _told(problems: dict[Location, str], document: Document) -> list[str]:
    """A line for each problem: place, key, message; in the file's order."""

    def order(location: Location) -> tuple[int, str]:
        line = document.where(location).rpartition(":")[2]
        return (int(line) if line.isdigit() else 0, str(location))

    lines = [
        f"{document.where(location)}: {'.'.join(map(str, location))}: {problems[location]}"
        for location in sorted(problems, key=order)
    ]
    more = [f"and {len(lines) - _MOST_TOLD} more mistakes"] if len(lines) > _MOST_TOLD else []
    return [_clipped(line) for line in lines[:_MOST_TOLD]] + more


def _clipped(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …"
