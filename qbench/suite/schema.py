"""JSON schema of a suite's file, with which editors complete and check the file.

It describes files with their short forms, whereas `qbench.suite.suite.Suite` describes what they
mean. What a schema cannot express (which widths a method has, which rows need a label) is checked
when a suite is loaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, TypeAdapter

from qbench import registry
from qbench.quant.options import build_method, method_options, quantizes
from qbench.spec.layout import TableLayout
from qbench.spec.placement import PLACEMENTS
from qbench.spec.policies import POLICIES
from qbench.spec.recipe import Recipe, Teacher
from qbench.suite.suite import MethodRow, Published, Resources, Suite
from qbench.suite.tuning import Tuning

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WIDTH_PATTERN = r"\d+(\((±|\+-|\+/-)\d+\))?"
_TIME = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(s|min|h|d)$"}
# Editors cannot know all names: there are plugins, and the models of torchvision.
_ANY_TEXT = {"type": "string"}
_RECIPES = {"enum": ["aligned", "paper", "tuned"]}


def suite_schema() -> Schema:
    """Return the JSON schema, with the names of installed methods, models and datasets."""
    found = Suite.model_json_schema()
    properties = _described(Suite, found["properties"])
    properties["title"].pop("default")
    numbers = Published.model_json_schema()
    published = _described(Published, numbers["properties"])
    for value in published.values():
        value["type"] = ["string", "number"]
    layers = [form for form in properties["layers"]["anyOf"] if form != _ANY_TEXT]
    resources = _any_of(Resources)
    resources["properties"]["time_limit"]["anyOf"].append(_TIME)
    forms: dict[str, Schema] = {
        "dataset": _name("datasets"),
        "models": _one_or_more(_name("models")),
        "bits": _one_or_more(_reference("width")),
        "methods": _one_or_more(_reference("row")),
        "seeds": _one_or_more(properties["seeds"]["items"]),
        "recipe": {"anyOf": [_RECIPES, _reference("recipe")]},
        "tuning": _any_of(Tuning),
        "full_precision": _any_of(Recipe),
        "layers": {"anyOf": [{"enum": list(POLICIES)}, *layers]},
        "placement": {"enum": list(PLACEMENTS)},
        "resources": resources,
        "published": _one_or_more(_object(published, required=numbers["required"])),
        "tables": _one_or_more(_any_of(TableLayout)),
        "weights": {"anyOf": [_ANY_TEXT, {"type": "object", "additionalProperties": _ANY_TEXT}]},
    }
    for name, form in forms.items():
        properties[name] = {"description": properties[name]["description"]} | form
    values = _recipe()["properties"]
    return {
        "$schema": DIALECT,
        "title": "A qbench suite",
        "description": "A grid of methods × models × bit-widths × seeds.",
        **_object(properties, required=found["required"]),
        "$defs": {
            "width": {"type": "string", "pattern": f"^ *{_WIDTH_PATTERN} */ *{_WIDTH_PATTERN} *$"},
            "recipe": _object({"name": _RECIPES} | values),
            "row": _row(),
        },
    }


def _row() -> Schema:
    """Return the schema of an entry of ``methods``: a name, or a mapping with options and more."""
    beside = _described(MethodRow, MethodRow.model_json_schema()["properties"])
    widths = _one_or_more(_reference("width"))
    of_models = {"type": "object", "additionalProperties": widths}
    forms = {
        "recipe": _recipe(),
        "bits": {"anyOf": [*widths["anyOf"], of_models]},
        "placement": {"enum": list(PLACEMENTS)},
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


def _recipe() -> Schema:
    """Return the schema of changes to a recipe."""
    found = _any_of(Recipe)
    found["properties"]["teacher"]["anyOf"] = [_any_of(Teacher), {"type": "null"}]
    return found


def _options(name: str) -> Schema:
    """Return the schema of a method's options, which may be null."""
    cls = registry.method_class(name)
    found = TypeAdapter(cls).json_schema()
    known = _described(cls, found.get("properties", {}))
    defaults = method_options(build_method(name, {})) if "required" not in found else {}
    for option in known.keys() & defaults.keys():
        known[option]["default"] = defaults[option]  # as a suite writes it
    about = ": ".join(filter(None, (cls.title, quantizes(name))))
    mapping = _object(known, required=found.get("required", []))
    return {"description": about} | mapping | {"type": ["object", "null"]}


def _name(kind: registry.Kind) -> Schema:
    return {"anyOf": [{"enum": registry.names(kind)}, _ANY_TEXT]}


def _one_or_more(item: Schema) -> Schema:
    return {"anyOf": [{"type": "array", "minItems": 1, "items": item}, item]}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _any_of(model: type[BaseModel]) -> Schema:
    """Return the schema of a mapping with fields of a class, none of which is required."""
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
    """Describe properties with the docstring of their class, and drop pydantic's titles."""
    told = _attributes(cls)
    described = {}
    for name, schema in properties.items():
        rest = {key: value for key, value in schema.items() if key != "title"}
        described[name] = ({"description": told[name]} if name in told else {}) | rest
    return described


def _attributes(cls: type) -> dict[str, str]:
    """Return the descriptions of a Google-style docstring's attributes, by name."""
    text = inspect.getdoc(cls) or ""
    section = re.search(r"^Attributes:\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^[ ]{4}(?=\w[\w, ]*:)", section[1], flags=re.MULTILINE)
    pairs = (entry.split(":", 1) for entry in entries if ":" in entry)
    return {name: " ".join(about.replace("``", "`").split()) for name, about in pairs}
