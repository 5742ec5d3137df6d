"""Suites: YAML files that name a grid of methods × models × bit-widths × seeds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from qbench import registry
from qbench.attachment import POLICIES
from qbench.bits import Bits
from qbench.document import Document, Location
from qbench.errors import QbenchError, nearest
from qbench.recipe import Recipe

_ROW_KEYS = ("label", "recipe", "published")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


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
        cpus: CPU cores.
        gpus: GPUs; a fraction shares one. None: all trials that fit share the GPUs there are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: float = Field(default=1, gt=0)
    gpus: float | None = Field(default=None, ge=0)


class Row(BaseModel):
    """A method as a suite lists it: a row of the table.

    Attributes:
        method: its name.
        options: its options, where they are not the defaults.
        label: the row's name; by default the method's title, with what sets the row apart.
        recipe: changes to the recipe, for this row.
        published: words of the notes of `results/published.csv` by which to find the row's
            published numbers, where its method has several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    label: str = ""
    recipe: dict[str, Any] = Field(default_factory=dict)
    published: str = ""


class Published(BaseModel):
    """Which published numbers stand beside the measured ones.

    Attributes:
        paper: as `results/published.csv` names it.
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
        published: numbers of a paper to show beside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    title: str = ""
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
    published: Published | None = None

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
        path: the file.
        assignments: ``key=value`` overrides, as of ``--set``.
        plugins: names of methods to add, from method files.

    Raises:
        QbenchError: with every mistake in the file, a line for each: the place, the key, the value
            and the nearest valid one.
    """
    document = Document.read(path)
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
            if not any(location[: len(known)] == known for known in problems):
                problems[location] = message
    if not problems:
        labels = suite.labels()
        for index, label in enumerate(labels):
            if label in labels[:index]:
                problems["methods", index] = (
                    f"a second row is named '{label}'; give one of them another `label`"
                )
    if problems:
        raise QbenchError("\n".join(_told(problems, document)))
    return suite


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
    bits = data.get("bits")
    for index, text in enumerate(bits if isinstance(bits, list) else []):
        try:
            Bits.parse(str(text))
        except ValueError as error:
            yield ("bits", index), str(error)
    methods = data.get("methods")
    for index, entry in enumerate(methods if isinstance(methods, list) else []):
        yield from _method_problems(entry, ("methods", index))
    models = data.get("models")
    for index, name in enumerate(models if isinstance(models, list) else []):
        try:
            registry.check_model_name(str(name))
        except QbenchError as error:
            yield ("models", index), str(error)
    dataset = data.get("dataset")
    if isinstance(dataset, str) and dataset not in registry.names("datasets"):
        yield (
            ("dataset",),
            f"no dataset is named '{dataset}'" + nearest(dataset, registry.names("datasets")),
        )
    for key, repeats in (("bits", bits), ("models", models), ("seeds", data.get("seeds"))):
        if isinstance(repeats, list):
            for index, value in enumerate(repeats):
                if value in repeats[:index]:
                    yield (key, index), f"{value} is there twice"
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
        cls = registry.method_class(name)
        registry.method_options(name, options)
    except QbenchError as error:
        yield location, str(error)
    except ValidationError as error:
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for found, message in _schema(error, known):
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
        if found["type"] == "extra_forbidden":
            words = known or (
                list(Resources.model_fields)
                if location[0] == "resources"
                else list(Suite.model_fields)
            )
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

    return [
        f"{document.where(location)}: {'.'.join(map(str, location))}: {problems[location]}"
        for location in sorted(problems, key=order)
    ]
