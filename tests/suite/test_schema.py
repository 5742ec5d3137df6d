from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from qbench.suite.schema import suite_schema
from qbench.suite.suite import Suite

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "suite.schema.json"
SUITES = sorted((ROOT / "suites").glob("*.yaml"))
GOOD: dict[str, Any] = {
    "name": "good",
    "dataset": "digits",
    "models": ["convnet_tiny"],
    "bits": ["1/32", "3(±4)/32"],
    "methods": ["ste"],
    "seeds": [0],
}


def refused(**changes: Any) -> bool:
    return not Draft202012Validator(suite_schema()).is_valid({**GOOD, **changes})


def test_the_file_is_the_schema_of_the_present_suites() -> None:
    written = json.loads(FILE.read_text(encoding="utf-8"))
    assert written == suite_schema(), f"run `qbench schema > {FILE.relative_to(ROOT)}`"


def test_it_is_a_schema_of_every_key_that_a_suite_has_and_says_what_each_is() -> None:
    found = suite_schema()
    Draft202012Validator.check_schema(found)
    assert set(found["properties"]) == set(Suite.model_fields)
    assert all(schema.get("description") for schema in found["properties"].values())


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_editors_find_it_and_it_accepts_the_suites_that_come_with_qbench(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert first == "# yaml-language-server: $schema=../docs/suite.schema.json"
    Draft202012Validator(suite_schema()).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "short",
    [
        {"models": "convnet_tiny", "bits": "2/2", "methods": "ste", "seeds": 3},
        {"methods": [{"ste": None}, {"ste": {"scope": "layer"}, "label": "Layer"}]},
        {"methods": [{"my_own": {"anything": 1}}]},
        {"methods": [{"ste": {}, "bits": {"convnet_tiny": ["2/2"]}, "recipe": {"epochs": 3}}]},
        {"recipe": "paper"},
        {"tables": {"rows": "model", "cell": "top1/top5"}},
        {"tables": [{}, {"columns": "model", "third": "blocks"}]},
        {"recipe": {"name": "aligned", "epochs": 3}},
        {"models": ["resnet18"], "weights": "torchvision", "layers": "all"},
        {"published": {"paper": "p", "table": 4, "dataset": "d", "model": "m"}},
        {"bits": ["3(+-4)/32"], "layers": ["conv1"], "resources": {"gpus": 0.5}},
        {"resources": {"time_limit": "12 h"}},
    ],
    ids=str,
)
def test_every_short_form_is_accepted(short: dict[str, Any]) -> None:
    assert not refused(**short)


@pytest.mark.parametrize(
    "mistake",
    [
        {"sead": 3},
        {"seeds": ["x"]},
        {"bits": ["two/2"]},
        {"methods": [{"ste": {"scop": "filter"}}]},
        {"methods": [{"ste": {"percentile": "all"}}]},
        {"recipe": {"name": "alined"}},
        {"recipe": {"epochs": -3}},
        {"resources": {"cpu": 2}},
        {"resources": {"time_limit": "soon"}},
        {"published": {"paper": "p"}},
        {"tables": {"rows": "methods"}},
    ],
    ids=str,
)
def test_mistakes_are_refused(mistake: dict[str, Any]) -> None:
    assert refused(**mistake)
