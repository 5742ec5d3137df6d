"""Reading YAML files, and replacing values from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.suite.suite import load_suite
from qbench.suite.yaml import parse_assignment
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


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *[("010", "10"), ("001", "1"), ("-07", "-7"), ("08", "8"), ("00", "0"), ("00.5", "0.5")],
        *[("0o7", "7"), ("0x10", "16"), ("0b11", "3"), ("1_000", "1000"), ("1_0.5", "10.5")],
        *[("1:30", "90, a time with its unit as in '90 s'"), ("1:30.5", "90.5"), ("-1:00", "-60")],
        *[("yes", "true"), ("No", "false"), ("on", "true"), ("OFF", "false")],
    ],
)
def test_what_versions_of_yaml_read_differently_is_refused_with_what_to_write(
    tmp_path: Path, written: str, meant: str
) -> None:
    for value in (written, f"[x, {written}]", f"{{{written}: x}}"):
        (found,) = [
            line
            for line in problems(tmp_path, f"{GOOD}data: {value}\n")
            if line.startswith("suite.yaml:7: ")
        ]
        assert f"{written} " in found
        assert f"write {meant}" in found
        assert f"or '{written}' in quotes for text" in found
        assert found.removeprefix("suite.yaml:7: ") in problems(tmp_path, GOOD, f"data={value}")[0]


def test_a_date_is_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, f"{GOOD}title: 2020-01-01\n")
    assert found == (
        "suite.yaml:7: 2020-01-01 is a date in YAML; write '2020-01-01' in quotes for text"
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *[("'010'", "010"), ('"1:30"', "1:30"), ("'yes'", "yes"), ("y", "y"), ("01a", "01a")],
        *[("10", 10), ("-0", 0), ("+1", 1), ("0.5", 0.5), (".5", 0.5), ("5.", 5.0)],
        *[("1.0e-04", 1e-4), ("1e-04", "1e-04"), ("TRUE", True), ("~", None)],
        *[("2/2", "2/2"), ("arXiv:1911.09464", "arXiv:1911.09464")],
    ],
)
def test_what_every_version_reads_alike_is_read(written: str, read: object) -> None:
    assert parse_assignment(f"a={written}") == ("a", read)


@pytest.mark.parametrize(
    "assignment",
    [
        *["threads=true", "recipe.epochs=true", "full_precision.lr=true", "resources.cpus=true"],
        *["resources.time_limit=true", "recipe.milestones=[true]", "seeds=[true]"],
        *["methods=[{ste: {percentile: true}}]", "methods=[{ste: {}, recipe: {epochs: true}}]"],
    ],
)
def test_true_is_not_one(tmp_path: Path, assignment: str) -> None:
    found = problems(
        tmp_path, GOOD, *assignment.split(" ", 1) if "dataset" in assignment else [assignment]
    )
    assert any("truth value" in line or "whole number" in line for line in found)


def test_true_is_no_size(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, GOOD, "dataset=imagenet", "data={image_size: true}")
    assert "data.image_size: is no truth value" in found


def test_true_is_true(tmp_path: Path) -> None:
    suite = load(tmp_path, GOOD, "recipe={nesterov: true}")
    assert suite.recipe.changes == {"nesterov": True}
