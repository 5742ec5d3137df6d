"""Find the mistakes in a suite's file.

Every finder yields pairs of a location, the keys and indices that lead to a value, and a message
that says what is wrong there and what would be valid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qbench import registry
from qbench.errors import QbenchError, nearest
from qbench.quant.options import boolean_problems, option_fields, validate_method
from qbench.spec.bits import BitWidths
from qbench.spec.findings import plain
from qbench.spec.layout import unknown_metrics
from qbench.spec.names import ROW_KEYS
from qbench.spec.policies import POLICIES
from qbench.spec.recipe import Recipe
from qbench.spec.weights import identify
from qbench.spec.words import counted
from qbench.suite import optuna_search
from qbench.suite.short_forms import row_fields
from qbench.suite.tuning import Tuning
from qbench.suite.yaml import Document, Location

if TYPE_CHECKING:
    from qbench.suite.suite import Suite

Problem = tuple[Location, str]
_MAX_LINE_LENGTH = 1000
_MAX_PROBLEMS = 30
_MAX_TRIALS = 100_000
# Folders of the results that qbench uses itself, next to those of suites.
_RESERVED_FOLDERS = ("artifacts", "rehearsal")


def problems_of_content(data: dict[str, Any]) -> Iterator[Problem]:
    """Find mistakes that the schema cannot see: in names, widths, options and recipes.

    Args:
        data: Content of the file without short forms, as `qbench.suite.short_forms.spelled_out`
            returns it. Parts of the wrong type are skipped; the schema finds those.
    """
    bits, models, methods = data.get("bits"), data.get("models"), data.get("methods")
    if str(data.get("name")) in _RESERVED_FOLDERS:
        yield ("name",), f"'{data['name']}' is a folder of the results that is not a suite's"
    yield from _bits_problems(bits, ("bits",))
    for index, entry in enumerate(methods if isinstance(methods, list) else []):
        yield from _method_problems(entry, ("methods", index))
        yield from _row_bits_problems(entry, ("methods", index))
    yield from _model_problems(models, ("models",))
    yield from _data_problems(data.get("dataset"), data.get("data"))
    yield from _table_problems(data.get("tables"), data.get("dataset"), data.get("data"))
    yield from _weights_problems(data.get("weights"), models)
    for key in ("bits", "models", "seeds"):
        yield from _repetition_problems(data.get(key), key)
    yield from _layer_problems(data.get("layers", "all"))
    recipe = data.get("recipe")
    if isinstance(recipe, dict) and isinstance(recipe.get("changes"), dict):
        yield from _recipe_problems(recipe["changes"], ("recipe",))
    yield from _tuning_problems(data)
    if isinstance(data.get("full_precision"), dict):
        yield from _recipe_problems(data["full_precision"], ("full_precision",))
        if "teacher" in data["full_precision"]:
            yield (
                ("full_precision", "teacher"),
                "a full-precision network has no teacher: it is that of the quantized ones; "
                "write it under `recipe`",
            )


def _tuning_problems(data: dict[str, Any]) -> Iterator[Problem]:
    """Find a key ``tuning`` without a recipe, an absent library, and too many validation images.

    With another recipe that is written, as by ``--set recipe.name=aligned``, the key has no effect.
    """
    recipe, tuning, options = data.get("recipe"), data.get("tuning"), data.get("data", {})
    tuned = isinstance(recipe, dict) and recipe.get("name") == "tuned"
    if "tuning" in data and recipe is None:
        yield ("tuning",), "is for `recipe: tuned`, which is missing"
    optuna = tuned and isinstance(tuning, dict) and tuning.get("search") == "optuna"
    if optuna and (reason := optuna_search.missing()):
        yield ("tuning", "search"), reason
    if not tuned or data.get("dataset") not in registry.names("datasets"):
        return
    wanted = Tuning().validation if tuning is None else None  # the schema finds another type
    if isinstance(tuning, dict):
        wanted = tuning.get("validation", Tuning().validation)
    with contextlib.suppress(QbenchError):  # `_data_problems` finds it
        dataset = registry.build_dataset(
            data["dataset"], options if isinstance(options, dict) else {}
        )
        # Images that are not trained on anyway may be enough, which only the data tell.
        if dataset.missing() or not isinstance(wanted, int) or 2 * wanted <= dataset.sizes()[0]:
            return
        try:
            dataset.splits(wanted)
        except QbenchError as error:
            yield ("tuning", "validation"), str(error)


def problems_of_schema(
    error: ValidationError, keys: Sequence[str], keys_of: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Problem]:
    """Put the findings of pydantic into plain words.

    Args:
        error: What pydantic raised.
        keys: Valid keys, to suggest one for an unknown key.
        keys_of: Valid keys inside some of the keys, such as ``resources``.
    """
    for found in error.errors():
        location = found["loc"]
        if location[:1] == ("layers",):
            yield ("layers",), "write a policy, a list of layers, or widths by layer"
        elif found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = (keys_of or {}).get(str(location[0]), keys)
            yield location, f"no such key{nearest(str(location[-1]), known)}"
        elif found["type"] == "missing" and not isinstance(location[-1], int):
            yield location, "is missing, and a suite needs it"
        elif found["type"] == "string_pattern_mismatch":
            yield location, f"{found['input']!r}: letters, digits, - and _ only"
        else:
            yield location, plain(found)


def problems_of_suite(suite: Suite) -> dict[Location, str]:
    """Find mistakes that only a complete suite shows: rows of the same name, and too many trials.

    Args:
        suite: A suite without other mistakes.

    Returns:
        A message by location.
    """
    if problems := dict(_label_problems(suite)):
        return problems
    trials = suite.max_trials()
    if trials > _MAX_TRIALS:
        return {("seeds",): f"{trials:,} trials; a suite has {_MAX_TRIALS:,} at most"}
    return {}


def describe(problems: Mapping[Location, str], document: Document) -> str:
    """Return a line for each problem: file and line, keys, message.

    Args:
        problems: A message by location.
        document: The file, which knows the lines of its values.

    Returns:
        Lines in the order of the file, 30 at most, each of 1000 characters at most.
    """

    def order(location: Location) -> tuple[int, str]:
        line = document.where(location).rpartition(":")[2]
        return (int(line) if line.isdigit() else 0, str(location))

    lines = [
        f"{document.where(location)}: {'.'.join(map(str, location))}: {problems[location]}"
        for location in sorted(problems, key=order)
    ]
    shown = [_shortened(line) for line in lines[:_MAX_PROBLEMS]]
    if len(lines) > _MAX_PROBLEMS:
        shown.append(f"and {counted(len(lines) - _MAX_PROBLEMS, 'more mistake')}")
    return "\n".join(shown)


def _shortened(line: str) -> str:
    return line if len(line) <= _MAX_LINE_LENGTH else f"{line[:_MAX_LINE_LENGTH]} …"


def _label_problems(suite: Suite) -> Iterator[Problem]:
    """Find rows of the same name that have a model and widths in common."""
    seen: set[tuple[str, str, str]] = set()
    for index, (row, label) in enumerate(zip(suite.methods, suite.labels(), strict=True)):
        places = {(label, m, bits) for m in suite.models for bits in row.widths(m, suite.bits)}
        if places & seen:
            yield (
                ("methods", index),
                f"a second row is named '{label}'; give one of them another `label`",
            )
        seen |= places


def _data_problems(dataset: Any, options: Any) -> Iterator[Problem]:
    if not isinstance(dataset, str):
        return
    if dataset not in registry.names("datasets"):
        yield ("dataset",), str(registry.unknown("datasets", dataset))
    elif isinstance(options, dict):
        try:
            registry.build_dataset(dataset, options)
        except QbenchError as error:
            yield ("data",), str(error)


def _table_problems(tables: Any, dataset: Any, options: Any) -> Iterator[Problem]:
    if not isinstance(tables, list) or dataset not in registry.names("datasets"):
        return
    with contextlib.suppress(QbenchError):  # `_data_problems` finds it
        task = registry.build_dataset(dataset, options if isinstance(options, dict) else {}).task
        for index, entry in enumerate(tables):
            for message in unknown_metrics(entry, task):
                yield ("tables", index, "cell"), message


def _bits_problems(bits: Any, location: Location) -> Iterator[Problem]:
    for index, text in enumerate(bits if isinstance(bits, list) else []):
        try:
            BitWidths.parse(str(text))
        except ValueError as error:
            yield (*location, index), str(error)


def _row_bits_problems(entry: Any, location: Location) -> Iterator[Problem]:
    """Find mistakes in the widths of a row. It may name models and widths that the suite lacks."""
    own = entry.get("bits") if isinstance(entry, dict) else None
    if isinstance(own, dict):
        yield from _model_problems(own, (*location, "bits"))
        for model, widths in own.items():
            yield from _bits_problems(widths, (*location, "bits", str(model)))
    else:
        yield from _bits_problems(own, (*location, "bits"))


def _weights_problems(choices: Any, models: Any) -> Iterator[Problem]:
    if isinstance(choices, str) and isinstance(models, list):
        each = ", ".join(f"{model}: …" for model in models)
        yield ("weights",), f"'{choices}' is a file of one model; name one for each: {{{each}}}"
    if not isinstance(choices, dict):
        return
    yield from _model_problems(choices, ("weights",))
    for model, choice in choices.items():
        try:
            identify(str(model), str(choice))
        except QbenchError as error:
            yield ("weights", str(model)), str(error)


def _model_problems(names: Any, location: Location) -> Iterator[Problem]:
    """Find names that no model has, in the items of a list or the keys of a mapping."""
    for index, name in enumerate(names if isinstance(names, list | dict) else []):
        try:
            registry.check_model_name(str(name))
        except QbenchError as error:
            yield (*location, index if isinstance(names, list) else str(name)), str(error)


def _method_problems(entry: Any, location: Location) -> Iterator[Problem]:
    row = row_fields(entry)
    name, options = (row["method"], row.get("options", {})) if row else (None, None)
    if row is None or not isinstance(name, str) or not isinstance(options, dict):
        if isinstance(entry, dict) and len(entry) > 1:
            for key in list(entry)[1:]:
                if key not in ROW_KEYS:
                    yield (*location, key), f"no such key beside a method{nearest(key, ROW_KEYS)}"
            return
        yield location, f"write a method as `name` or `name: {{option: value}}`, not {entry!r}"
        return
    if isinstance(row.get("recipe"), dict):
        yield from _recipe_problems(row["recipe"], (*location, "recipe"))
    try:
        for option, message in boolean_problems(name, options):
            yield (*location, name, option), message
        validate_method(name, options)
    except QbenchError as error:
        yield location, str(error)
    except ValidationError as error:
        known = list(option_fields(name))
        absent = {
            each["loc"]
            for each in error.errors()
            if each["type"].startswith("missing") and len(each["loc"]) == 1
        }
        for found, message in problems_of_schema(error, known):
            if found in absent:
                message = f"'{name}' has no default for this option; write a value"
            yield (*location, name, *found), message


def _repetition_problems(values: Any, key: str) -> Iterator[Problem]:
    seen = set()
    for index, value in enumerate(map(repr, values if isinstance(values, list) else [])):
        if value in seen:
            yield (key, index), f"{values[index]} is there twice"
        seen.add(value)


def _layer_problems(layers: Any) -> Iterator[Problem]:
    if isinstance(layers, str) and layers not in POLICIES:
        yield ("layers",), f"'{layers}' is no layer policy{nearest(layers, POLICIES)}"
    for name, text in layers.items() if isinstance(layers, dict) else []:
        try:
            BitWidths.parse(str(text))
        except ValueError as error:
            yield ("layers", str(name)), str(error)


def _recipe_problems(changes: dict[str, Any], location: Location) -> Iterator[Problem]:
    """Check changes by applying them to a recipe that is complete."""
    schedule: dict[str, Any] = {"milestones": [1], "final_lr": 1e-9}
    for name in ("milestone_lrs", "milestone_weight_decays"):
        if isinstance(changes.get(name), list):  # the recipe may have milestones for them
            schedule |= {"milestones": range(1, 1 + len(changes[name])), "schedule": "step"}
    complete = {"epochs": 1, "batch_size": 1, "optimizer": "sgd", "lr": 1.0, **schedule}
    try:
        Recipe.model_validate({**complete, **changes})
    except ValidationError as error:
        for found, message in problems_of_schema(error, list(Recipe.model_fields)):
            yield (*location, *found), message
