from __future__ import annotations

from pathlib import Path

import pytest

from qbench import registry
from qbench.errors import QbenchError
from qbench.suite.bundled import bundled_folder, bundled_suites, suite_file
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite

ROOT = Path(__file__).parents[2]


def test_the_suites_of_the_repository_are_installed() -> None:
    written = {path.stem for path in (ROOT / "suites").glob("*.yaml")}
    assert set(bundled_suites()) == written
    assert (bundled_folder() / "published.csv").samefile(ROOT / "suites" / "published.csv")


def test_a_suite_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qn_bias").mkdir()  # where the results of that suite might be
    assert load_suite(Path("qn_bias")) == load_suite(ROOT / "suites" / "qn_bias.yaml")


@pytest.mark.parametrize(
    ("suite", "models", "rows"),
    [
        ("imagenet_lowbit", {"alexnet_bn"}, {("XNOR-Net", "1/1"), ("HWGQ", "1/2"), ("TBN", "1/2")}),
        (
            "imagenet_lowbit",
            {"resnet18"},
            {("XNOR-Net", "1/1"), ("HWGQ", "1/2"), ("TBN", "1/2"), ("ABC-Net", "1/1")},
        ),
        (
            "imagenet_aligned",
            {"resnet18", "resnet50"},
            {
                *(("BNN", "1/1"), ("BinaryConnect", "1/1"), ("XNOR-Net", "1/1"), ("HWGQ", "1/2")),
                *(("TBN", "1/2"), ("ABC-Net", "1/1"), ("Bi-Real", "1/1"), ("ReActNet", "1/1")),
            },
        ),
    ],
)
def test_given_weights_leave_out_no_row_of_a_method_that_changes_the_network(
    suite: str, models: set[str], rows: set[tuple[str, str]]
) -> None:
    found = [planned for planned in expand(load_suite(Path(suite))) if not planned.unsupported]
    for model in models:
        there = {(each.label, each.trial.bits) for each in found if each.trial.model == model}
        assert rows <= there


def test_a_file_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qn_bias").write_text("name: mine\n")
    assert suite_file(Path("qn_bias")) == Path("qn_bias")


def test_the_nearest_name_is_given() -> None:
    with pytest.raises(QbenchError, match=r"'digits_strat'; did you mean 'digits_start'\?"):
        suite_file(Path("digits_strat"))


@pytest.mark.parametrize("path", ["digits_start.yaml", "folder/digits_start"])
def test_a_path_is_no_name(path: str) -> None:
    assert suite_file(Path(path)) == Path(path)


def test_fashion_quick_has_every_method_that_quantizes_weights() -> None:
    suite = load_suite(Path("fashion_quick"))
    others = ("friesen_domingos", "rep_q_vit")  # of activations alone, of transformers
    every = [name for name in registry.names("methods") if name not in others]
    assert sorted({row.method for row in suite.methods}) == every
    assert len(suite.seeds) == 5
    assert suite.data == {"image_size": 14, "train_images": 12_000}
