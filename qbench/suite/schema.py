"""The JSON schema of a suite's file, by which editors complete and check it as it is written.

It describes what stands in files, short forms included, where `qbench.suite.suite.Suite` is what
they come to. What it cannot say (which widths a method has, rows that need a label) is checked when
a suite is loaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, TypeAdapter

from qbench import registry
from qbench.spec.layout import TableLayout
from qbench.spec.policies import POLICIES
from qbench.spec.recipe import Recipe
from qbench.suite.suite import MethodRow, Published, Resources, Suite

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WIDTH = r"\d+(\((±|\+-|\+/-)\d+\))?"
_TIME = r"^[0-9]+(\.[0-9]+)? ?(s|min|h|d)$"
_TEXT = {"type": "string"}  # also a name that an editor cannot know: of a plugin, of torchvision
_RECIPES = {"enum": ["aligned", "paper"]}


def suite_schema() -> Schema:
    """Return the schema, with the methods, models and datasets that are installed."""
    found = Suite.model_json_schema()
    properties = _described(Suite, found["properties"])
    properties["title"].pop("default")
    published = _described(Published, Published.model_json_schema()["properties"])
    for value in published.values():
        value["type"] = ["string", "number"]
    layers = [form for form in properties["layers"]["anyOf"] if form != _TEXT]
    resources = _any_of(Resources)
    resources["properties"]["time_limit"]["anyOf"].append({"type": "string", "pattern": _TIME})
    forms: dict[str, Schema] = {
        "dataset": _name("datasets"),
        "models": _one_or_more(_name("models")),
        "bits": _one_or_more(_reference("width")),
        "methods": _one_or_more(_reference("row")),
        "seeds": _one_or_more(properties["seeds"]["items"]),
        "recipe": {"anyOf": [_RECIPES, _reference("recipe")]},
        "full_precision": _any_of(Recipe),
        "layers": {"anyOf": [{"enum": list(POLICIES)}, *layers]},
        "resources": resources,
        "published": _one_or_more(_object(published, required=list(published))),
        "tables": _one_or_more(_any_of(TableLayout)),
        "weights": {"anyOf": [_TEXT, {"type": "object", "additionalProperties": _TEXT}]},
    }
    for name, form in forms.items():
        properties[name] = {"description": properties[name]["description"]} | form
    values = _any_of(Recipe)["properties"]
    return {
        "$schema": DIALECT,
        "title": "A qbench suite",
        "description": "A grid of methods × models × bit-widths × seeds.",
        **_object(properties, required=found["required"]),
        "$defs": {
            "width": {"type": "string", "pattern": f"^ *{_WIDTH} */ *{_WIDTH} *$"},
            "recipe": _object({"name": _RECIPES} | values),
            "row": _row(),
        },
    }


def _row() -> Schema:
    """A row of a suite: a method's name, or its options and what else the row has."""
    beside = _described(MethodRow, MethodRow.model_json_schema()["properties"])
    widths = _one_or_more(_reference("width"))
    of_models = {"type": "object", "additionalProperties": widths}
    forms = {
        "recipe": _any_of(Recipe),
        "bits": {"anyOf": [*widths["anyOf"], of_models]},
    }
    keys = {name: beside[name] for name in ("label", "published")}
    keys |= {name: {"description": beside[name]["description"]} | forms[name] for name in forms}
    mapping = {
        "type": "object",
        "properties": {name: _options(name) for name in registry.names("methods")} | keys,
        "additionalProperties": {"type": ["object", "null"]},  # methods of --methods
        "minProperties": 1,
    }
    return {"anyOf": [_name("methods"), mapping]}


def _options(name: str) -> Schema:
    """A method's options, or nothing at all."""
    cls = registry.method_class(name)
    found = TypeAdapter(cls).json_schema()
    known = _described(cls, found.get("properties", {}))
    about = f"{cls.title}: {cls.quantizes}" if cls.quantizes else cls.title
    mapping = _object(known, required=found.get("required", []))
    return {"description": about} | mapping | {"type": ["object", "null"]}


def _name(kind: registry.Kind) -> Schema:
    return {"anyOf": [{"enum": registry.names(kind)}, _TEXT]}


def _one_or_more(item: Schema) -> Schema:
    return {"anyOf": [{"type": "array", "minItems": 1, "items": item}, item]}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _any_of(model: type[BaseModel]) -> Schema:
    """A mapping with any of a model's fields, of which none is needed."""
    return _object(_described(model, model.model_json_schema()["properties"]))


def _object(properties: Schema, required: Iterable[str] = ()) -> Schema:
    needed = {"required": list(required)} if required else {}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **needed,
    }


def _described(cls: type, properties: Schema) -> Schema:
    """Properties with what the docstring of their class says of them, without made-up titles."""
    told = _attributes(cls)
    described = {}
    for name, schema in properties.items():
        rest = {key: value for key, value in schema.items() if key != "title"}
        described[name] = ({"description": told[name]} if name in told else {}) | rest
    return described


def _attributes(cls: type) -> dict[str, str]:
    """The attributes that a Google-style docstring describes."""
    text = inspect.getdoc(cls) or ""
    section = re.search(r"^Attributes:\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^[ ]{4}(?=\w[\w, ]*:)", section[1], flags=re.MULTILINE)
    pairs = (entry.split(":", 1) for entry in entries if ":" in entry)
    return {name: " ".join(about.replace("``", "`").split()) for name, about in pairs}
