from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qbench import registry
from qbench.errors import QbenchError

METHODS = Path(__file__).parent.parent / "methods"


def test_every_file_in_methods_is_registered_under_its_name() -> None:
    files = {path.stem for path in METHODS.glob("*.py")} - {"__init__"}
    assert set(registry.names("methods")) == files
    assert {registry.method_class(name).name for name in files} == files


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_says_what_it_is(name: str) -> None:
    cls = registry.method_class(name)
    assert cls.title
    assert cls.quantizes
    assert cls.paper or name == "fp32"


@pytest.mark.parametrize("file", sorted(METHODS.glob("*.py")), ids=lambda path: path.stem)
def test_methods_import_the_plugin_interface_and_nothing_else_of_qbench(file: Path) -> None:
    imports = [line for line in file.read_text().splitlines() if line.startswith("from qbench")]
    modules = {line.split()[1] for line in imports}
    assert modules <= {"qbench.method", "qbench.functional", "qbench.quant.surgery"}


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(QbenchError, match="no such option; did you mean 'scope'"):
        registry.build_method("ste", {"scop": "layer"})


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_number_has_a_range(name: str) -> None:
    for option, field in registry.option_fields(name).items():
        if field.annotation in (int, float):
            with pytest.raises((QbenchError, ValidationError)):
                registry.method_options(name, {option: -(10**6)})


def test_a_later_option_at_its_default_is_no_part_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = registry.method_options("ste", {})
    assert registry.determining_options("ste", {}) == complete
    monkeypatch.setattr(registry.method_class("ste"), "later_options", frozenset({"percentile"}))
    without = {name: value for name, value in complete.items() if name != "percentile"}
    assert registry.determining_options("ste", {}) == without
    assert registry.determining_options("ste", {"percentile": 100}) == without
    assert registry.determining_options("ste", {"percentile": 99})["percentile"] == 99
    assert registry.method_options("ste", {}) == complete


BOUNDED = """
from typing import Annotated, Literal
from qbench.method import Field, Method, Recipe

class Bounded(Method):
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    shares: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    paper_recipe = Recipe(optimizer="sgd", lr=0.1, epochs=9, batch_size=8)
"""


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bounded.py"
    path.write_text(text, encoding="utf-8")
    registry.load_plugin(registry.Plugin.read(path))


@pytest.mark.parametrize("options", [{"momentum": 7}, {"momentum": -0.1}, {"shares": [1, 0]}])
def test_the_bounds_of_an_annotated_option_hold_however_it_is_built(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    load(tmp_path, BOUNDED)
    (name,) = options
    with pytest.raises(QbenchError, match=f"bounded: {name}"):
        registry.build_method("bounded", options)
    with pytest.raises(ValidationError):
        registry.method_options("bounded", options)
    with pytest.raises(ValidationError):
        registry.method_class("bounded")(**options)
    assert registry.method_options("bounded", {"momentum": 0.5})["momentum"] == 0.5


def test_a_misspelt_key_of_a_paper_recipe_is_found_when_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match=r"bounded.py:8: Recipe: epoch: .*did you mean 'epochs'"):
        load(tmp_path, BOUNDED.replace("epochs=9", "epochs=9, epoch=9"))
    with pytest.raises(QbenchError, match="paper_recipe must be a Recipe, not a dict"):
        load(tmp_path, BOUNDED.replace("Recipe(optimizer", "dict(optimizer"))
