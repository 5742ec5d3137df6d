"""Options of methods: their bounds, their defaults, and what of them is in a trial's key."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from qbench import registry
from qbench.errors import QbenchError
from qbench.method import Method
from qbench.plugins import Plugin, load_plugin
from qbench.quant.options import (
    build_method,
    build_paper_method,
    determining_options,
    method_options,
    option_fields,
    option_problems,
    validate_method,
)
from qbench.suite.grid import expand
from qbench.suite.suite import Suite
from tests.helpers.methods import NAMES
from tests.helpers.plugins import BOUNDED


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(QbenchError, match="no such option; did you mean 'scope'"):
        build_method("ste", {"scop": "layer"})


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_number_has_a_range(name: str) -> None:
    for option, field in option_fields(name).items():
        if field.annotation in (int, float):
            with pytest.raises(QbenchError):
                build_method(name, {option: -(10**6)})


def test_options_are_the_same_however_they_are_written() -> None:
    short, long = build_method("ste", {"percentile": 99}), build_method("ste", {"percentile": 99.0})
    assert method_options(short) == method_options(long)
    assert method_options(short).keys() == option_fields("ste").keys()


def test_a_later_option_at_its_default_is_no_part_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def determining(options: dict[str, Any]) -> dict[str, Any]:
        return determining_options(build_method("ste", options))

    complete = method_options(build_method("ste", {}))
    assert determining({}) == complete
    monkeypatch.setattr(registry.method_class("ste"), "later_options", frozenset({"percentile"}))
    without = {name: value for name, value in complete.items() if name != "percentile"}
    assert determining({}) == without
    assert determining({"percentile": 100}) == without
    assert determining({"percentile": 99})["percentile"] == 99
    assert method_options(build_method("ste", {})) == complete


@pytest.mark.parametrize("options", [{"momentum": 7}, {"momentum": -0.1}, {"shares": [1, 0]}])
def test_the_bounds_of_an_annotated_option_hold_however_it_is_built(
    options: dict[str, Any],
) -> None:
    load_plugin(Plugin("bounded.py", BOUNDED))
    (name,) = options
    with pytest.raises(QbenchError, match=f"bounded: {name}"):
        build_method("bounded", options)
    with pytest.raises(ValidationError):
        validate_method("bounded", options)
    with pytest.raises(ValidationError):
        registry.method_class("bounded")(**options)
    assert method_options(build_method("bounded", {"momentum": 0.5}))["momentum"] == 0.5


def test_expanding_a_suite_validates_the_options_of_a_row_once() -> None:
    counting = """
from qbench.method import Method, Uniform

class Counting(Method):
    weights = Uniform()
    size: float = 1.0
    built = []

    def __post_init__(self):
        self.built.append(self)
"""
    load_plugin(Plugin("counting.py", counting))
    suite = Suite.model_validate(
        {
            "name": "counted",
            "dataset": "digits",
            "models": ["convnet_tiny", "resnet_tiny"],
            "bits": ["2/2", "4/4"],
            "methods": [{"method": "counting", "options": {"size": 0.5}}],
            "seeds": [0, 1],
        }
    )
    built: Any = registry.method_class("counting").__dict__["built"]
    built.clear()
    trials = [each.trial for each in expand(suite) if each.trial.method == "counting"]
    assert len(trials) == 8
    assert {trial.options["size"] for trial in trials} == {0.5}
    assert len(built) == 1


def test_an_option_of_an_installed_method_that_cannot_be_recorded_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Typed(Method):
        """A method."""

        dtype: torch.dtype = torch.float32

    monkeypatch.setitem(registry._of_files["methods"], "typed", Typed)
    with pytest.raises(QbenchError, match="typed: option 'dtype': a suite cannot write"):
        method_options(build_method("typed", {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_method_declares_its_options_as_a_plugin_must(name: str) -> None:
    assert list(option_problems(registry.method_class(name))) == []


@pytest.mark.parametrize("name", ["scope", "granularity"])
def test_options_of_a_suite_come_before_those_of_the_paper_whatever_their_name(name: str) -> None:
    found = method_options(build_paper_method("parq", {name: "per_tensor", "period": 3}))
    assert (found["scope"], found["period"], found["steepness"]) == ("layer", 3, 75.0)
    assert method_options(build_paper_method("parq", {}))["scope"] == "filter"
    assert method_options(build_method("parq", {}))["steepness"] == 10.0


def test_a_value_of_a_wrong_type_is_named_in_plain_words() -> None:
    with pytest.raises(QbenchError, match="ste: momentum: must be a number, not 'x'"):
        build_method("ste", {"momentum": "x"})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("twn", {"threshold": True}, "twn: threshold: is no truth value; write a number or a text"),
        (
            "quantization_networks",
            {"phases": [1, 2]},
            r"quantization_networks: phases.2: is missing from \[1, 2\]",
        ),
        (
            "quantization_networks",
            {"phases": [1, 2, 3, 4]},
            "phases: must have at most 3 values, not",
        ),
    ],
)
def test_values_are_refused_as_in_a_suite(
    method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(QbenchError, match=message):
        build_method(method, options)


def test_a_truth_value_is_an_option_where_one_is_taken() -> None:
    assert method_options(build_method("admm", {"extragradient": False}))["extragradient"] is False
