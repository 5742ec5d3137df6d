"""Suites as their files describe them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from qbench.models import is_timm
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from tests.helpers.suites import BY_MODEL, GOOD, ROWS, grid, load

SUITES = Path(__file__).parents[2] / "suites"


def test_a_method_twice_gets_two_rows(tmp_path: Path) -> None:
    found = grid(tmp_path, "methods=[{ste: {scope: layer}}, {ste: {scope: filter}}]")
    assert {c.label for c in found} == {
        "Full precision",
        "STE (scope=layer)",
        "STE (scope=filter)",
    }


def test_a_row_has_a_label_a_recipe_and_published_numbers_of_its_own(tmp_path: Path) -> None:
    suite = load(tmp_path, ROWS)
    labels = ["Pretrained", "From scratch", "Quantization Networks (phases=[2, 1, 1])"]
    assert suite.labels() == labels
    assert suite.methods[0].published == "fine-tuned"
    recipes = {c.label: c.trial.recipe for c in expand(suite)}
    assert recipes["From scratch"].initialization == "scratch"
    assert recipes["From scratch"].epochs == 3
    assert recipes["Pretrained"].initialization == "pretrained"


def test_a_row_may_have_widths_of_its_own_for_each_model(tmp_path: Path) -> None:
    suite = load(tmp_path, BY_MODEL)
    found = [(c.label, c.trial.model, c.trial.bits) for c in expand(suite)]
    assert found == [
        ("Full precision", "resnet18", "32/32"),
        ("BWN", "resnet18", "1/32"),
        ("QN", "resnet18", "2/32"),  # in the order of the suite's bits
        ("QN", "resnet18", "1/1"),
        ("Full precision", "resnet50", "32/32"),
        ("BWN", "resnet50", "1/32"),
        ("QN", "resnet50", "2/32"),
    ]


def test_models_and_widths_that_are_set_aside_leave_rows_as_they_are(tmp_path: Path) -> None:
    suite = load(tmp_path, BY_MODEL, "models=[resnet50]", "bits=[2/32]")
    assert [c.label for c in expand(suite) if c.trial.method != "fp32"] == ["QN"]
    assert suite.published_for("resnet50") == suite.published[1]


def test_published_numbers_are_those_of_the_model(tmp_path: Path) -> None:
    suite = load(tmp_path, BY_MODEL)
    assert [suite.published_for(m) for m in suite.models] == suite.published
    alone = suite.model_copy(update={"published": suite.published[:1]})
    assert alone.published_for("anything") == suite.published[0]
    assert suite.published_for("anything") is None


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_that_comes_with_qbench_is_sound(path: Path) -> None:
    suite = load_suite(path)
    if any(map(is_timm, suite.models)) and find_spec("timm") is None:
        pytest.skip("timm is not installed")
    able = {planned.row.method for planned in expand(suite) if not planned.unsupported}
    optional = {"torchao", "parq", "brevitas"}  # whose libraries may not be installed
    assert {row.method for row in suite.methods} - optional <= able


def test_the_folder_of_the_data_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    here = load(tmp_path, BY_MODEL, "data.root=images")
    assert here.data == {"root": str(tmp_path / "images")}
    at_home = load(tmp_path, BY_MODEL, "data.root=~/images")
    assert at_home.data == {"root": "/home/anna/images"}


def test_the_methods_of_files_are_added_once(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(GOOD, encoding="utf-8")
    suite = load_suite(path, plugins=["dorefa", "ste", "dorefa"])
    assert [row.method for row in suite.methods] == ["ste", "bwn", "dorefa"]
