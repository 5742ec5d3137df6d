"""Reading YAML files, and replacing values from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.suite.suite import load_suite
from tests.helpers.suites import GOOD, ROWS, load, problems


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(GOOD)
    with pytest.raises(QbenchError, match=r"did you mean .*digits\.yaml"):
        load_suite(tmp_path / "digit.yaml")


def test_set_overrides_values_and_method_options(tmp_path: Path) -> None:
    suite = load(
        tmp_path, GOOD, "seeds=[7]", "recipe.epochs=3", "methods.ste.scope=layer", "models=resnet18"
    )
    assert suite.seeds == [7]
    assert suite.models == ["resnet18"]
    assert suite.recipe.changes == {"epochs": 3}
    assert suite.methods[0].options == {"scope": "layer"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seeds", "write it as key=value"),
        ("seeds=[", "the value is not YAML"),
        ("methods.stee.scope=layer", "'stee' is not in 'methods'; did you mean 'ste'?"),
        ("methods.ste.scope=leyer", "--set methods.ste.scope=leyer: methods.0.ste.scope: 'leyer'"),
        ("recipe.epoch=3", "did you mean 'epochs'?"),
        ("name.x=3", "has no"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, assignment: str, message: str) -> None:
    assert message in "\n".join(problems(tmp_path, GOOD, assignment))


def test_set_reaches_every_row_of_a_method(tmp_path: Path) -> None:
    suite = load(tmp_path, ROWS, "methods.quantization_networks.temperature_rate=7")
    assert [row.options["temperature_rate"] for row in suite.methods] == [7, 7, 7]
