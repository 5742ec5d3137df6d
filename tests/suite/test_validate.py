"""Mistakes in suites are found and explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.suite.grid import expand
from tests.helpers.suites import BY_MODEL, GOOD, ROWS, load, problems


def test_every_mistake_is_shown_at_once_with_its_line(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
        name: bad
        dataset: digit
        models: [convnet_tny]
        bits: [1/32, 9/32]
        methods:
          - ste: {scop: filter}
          - dorfea
          - quantization_networks: {temperature_rate: hot}
        seeds: [0, x]
        recipe: {name: alined, epochs: -3}
        sead: 3
        """,
    )
    expected = [
        "suite.yaml:2: dataset: no dataset is named 'digit'; did you mean 'digits'?",
        "suite.yaml:3: models.0: no model is named 'convnet_tny'; did you mean 'convnet_tiny'?",
        "suite.yaml:4: bits.1: 9 bits: a width is 1 to 8 bits",
        "suite.yaml:6: methods.0.ste.scop: no such key; did you mean 'scope'?",
        "suite.yaml:7: methods.1: no method is named 'dorfea'; did you mean 'dorefa'?",
        "suite.yaml:8: methods.2.quantization_networks.temperature_rate:",
        "suite.yaml:9: seeds.1:",
        "suite.yaml:10: recipe.epochs:",
        "suite.yaml:10: recipe.name: 'alined' is not one; did you mean 'aligned'?",
        "suite.yaml:11: sead: no such key; did you mean 'seeds'?",
    ]
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start), line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "suite.yaml:2: 'name' is written twice"),
        ("a: [1\nb: 2\n", "suite.yaml:2: not YAML"),
        ("- a\n", "expected `key: value` lines, found a list"),
        ("", "found nothing"),
        ("a: !!python/object/apply:os.system [ls]\n", "suite.yaml:1: anchors, aliases and tags"),
        ("a: &x 1\nb: *x\n", "anchors, aliases and tags"),
        (GOOD.replace("good", "../evil"), "suite.yaml:1: name: '../evil'"),
        (GOOD.replace("good", "/etc/x"), "letters, digits, - and _ only"),
        (GOOD.replace("[0, 1]", "[0, 0]"), "suite.yaml:6: seeds.1: 0 is there twice"),
        (GOOD.replace("[0, 1]", "[true]"), "seeds.0: must be a whole number, not True"),
        (GOOD.replace("[ste, bwn]", "[my_method.py]"), "no method is named 'my_method.py'"),
        (GOOD + "layers: first\n", "'first' is no layer policy"),
        (GOOD + "recipe: {schedule: step}\n", ""),
        (GOOD + "resources: {cpu: 1}\n", "did you mean 'cpus'?"),
        (
            GOOD.replace("[convnet_tiny]", "[convnet_tiny, resnet20]") + "weights: finetune:a.pt\n",
            "suite.yaml:7: weights: 'finetune:a.pt' is a file of one model; name one for each: "
            "{convnet_tiny: …, resnet20: …}",
        ),
    ],
)
def test_a_bad_file_is_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    if "schedule" in text:
        with pytest.raises(QbenchError, match="milestones"):
            expand(load(tmp_path, text))
    else:
        assert message in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: From scratch", "label: Pretrained", "suite.yaml:9: methods.1: a second row is"),
        ("label: From", "lable: From", "methods.1.lable: no such key beside a method; did you"),
        ("epochs: 3", "epoch: 3", "suite.yaml:11: methods.1.recipe.epoch: no such key; did you"),
        ("label: From scratch", "label: [1]", "methods.1.label: must be a text"),
        ("[2, 1, 1]", "[2, 1, 0]", "suite.yaml:12: methods.2.quantization_networks.phases.2:"),
        ("[2, 1, 1]", "[2, 1]", "suite.yaml:12: methods.2.quantization_networks.phases.2:"),
        ("seeds: [0]", "seeds: [0]\npublished: {papr: x}", "published.papr: no such key"),
        ("seeds: [0]", "seeds: [0]\ntables: {row: bits}", "tables.row: no such key; did you mean"),
        ("seeds: [0]", "seeds: [0]\ntables: {rows: bit}", "tables.rows: 'bit' is not one; did"),
        ("seeds: [0]", "seeds: [0]\ntables: {rows: bits}", "rows and columns are both 'bits'"),
        ("seeds: [0]", "seeds: [0]\ntables: [{cell: top1/top2}]", "'top2' is no metric of class"),
    ],
)
def test_a_bad_row_is_refused_in_words(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert message in "\n".join(problems(tmp_path, ROWS.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{resnet50: [2/32]}",
            "{resnet5: [2/32]}",
            "suite.yaml:15: methods.3.bits.resnet5: no",
        ),
        ("[1/1, 2/32]", "[1/1, 2/x]", "suite.yaml:12: methods.2.bits.resnet18.1: 'x'"),
        (
            "resnet18: torchvision",
            "resnet18: torchvision:V9",
            "suite.yaml:5: weights.resnet18: re",
        ),
        (
            "seeds: [0]",
            "seeds: [0]\ndata: {rot: x}",
            "data: imagenet: no option 'rot'",
        ),
        ("{resnet50: [2/32]}", "[2/32]", "methods.3: a second row is named 'QN'"),
    ],
)
def test_mistakes_in_what_is_said_by_model_are_told(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert message in "\n".join(problems(tmp_path, BY_MODEL.replace(old, new)))
