from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from qbench.errors import QbenchError
from qbench.suite.grid import PlannedTrial, expand
from qbench.suite.suite import Suite, load_suite

SUITES = Path(__file__).parents[2] / "suites"
GOOD = """\
name: good
dataset: digits
models: [convnet_tiny]
bits: [1/32, 2/2]
methods: [ste, bwn]
seeds: [0, 1]
"""


def load(tmp_path: Path, text: str, *assignments: str) -> Suite:
    path = tmp_path / "suite.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return load_suite(path, assignments)


def problems(tmp_path: Path, text: str, *assignments: str) -> list[str]:
    with pytest.raises(QbenchError) as error:
        load(tmp_path, text, *assignments)
    return str(error.value).replace(f"{tmp_path}/", "").splitlines()


def grid(tmp_path: Path, *assignments: str) -> list[PlannedTrial]:
    return expand(load(tmp_path, GOOD, *assignments))


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
        (GOOD.replace("[0, 1]", "[true]"), "seeds.0: input should be a valid integer"),
        (GOOD.replace("[ste, bwn]", "[my_method.py]"), "no method is named 'my_method.py'"),
        (GOOD + "layers: first\n", "'first' is no layer policy"),
        (GOOD + "recipe: {schedule: step}\n", ""),
        (GOOD + "resources: {cpu: 1}\n", "did you mean 'cpus'?"),
    ],
)
def test_a_bad_file_is_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    if "schedule" in text:
        with pytest.raises(QbenchError, match="milestones"):
            expand(load(tmp_path, text))
    else:
        assert message in problems(tmp_path, text)[0]


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


def test_full_precision_comes_first_and_is_shared(tmp_path: Path) -> None:
    found = grid(tmp_path)
    assert [c.trial.method for c in found][:2] == ["fp32", "fp32"]
    bases = {c.trial.base.key for c in found if c.trial.base}
    assert bases == {c.trial.key for c in found[:2]}


def test_what_a_method_cannot_do_is_known_before_anything_trains(tmp_path: Path) -> None:
    reasons = {(c.trial.method, c.trial.bits): c.unsupported for c in grid(tmp_path)}
    assert reasons["bwn", "2/2"] == "its weights have 1 bit"
    assert reasons["bwn", "1/32"] == ""


def test_a_model_that_cannot_take_the_images_is_refused(tmp_path: Path) -> None:
    found = grid(tmp_path, "models=alexnet")
    assert all(c.unsupported.startswith("alexnet cannot take images of 1×8×8") for c in found)


def test_an_unknown_layer_is_refused_with_the_nearest(tmp_path: Path) -> None:
    found = grid(tmp_path, "layers=['3', '99']")
    assert all("no conv or linear layer '99'" in c.unsupported for c in found)


def key(tmp_path: Path, *assignments: str) -> str:
    return next(c.trial.key for c in grid(tmp_path, *assignments) if c.trial.method == "ste")


@pytest.mark.parametrize(
    "assignment",
    [
        "methods.ste.scope=filter",  # its default
        "recipe.lr=0.02",  # the dataset's own
        "recipe.milestones=[]",
        "published={paper: p, table: 1, dataset: d, model: m}",
        "title=Other",
        "name=other",
        "resources={cpus: 2}",
        "seeds=[0]",
        "bits=[1/32]",
    ],
)
def test_a_key_stays_where_the_number_does(tmp_path: Path, assignment: str) -> None:
    assert key(tmp_path, assignment) == key(tmp_path)


@pytest.mark.parametrize(
    "assignment",
    [
        "methods.ste.scope=layer",
        "recipe.lr=0.5",
        "full_precision.epochs=1",
        "threads=2",
        "layers=all",
        "seeds=[5]",
        "bits=[2/32]",
        "models=resnet_tiny",
    ],
)
def test_a_key_changes_where_the_number_may(tmp_path: Path, assignment: str) -> None:
    assert key(tmp_path, assignment) != key(tmp_path)


def test_a_key_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    there = key(tmp_path, "layers=['3', '7']", "recipe={epochs: 3, lr: 0.5}")
    back = key(tmp_path, "layers=['7', '3']", "recipe={lr: 0.5, epochs: 3}")
    assert there == back


def test_from_scratch_needs_no_full_precision_trial(tmp_path: Path) -> None:
    found = grid(tmp_path, "recipe.initialization=scratch")
    assert {c.trial.method for c in found} == {"ste", "bwn"}


def test_paper_recipes_are_each_method_s_own(tmp_path: Path) -> None:
    found = grid(tmp_path, "recipe=paper", "methods=[bwn, twn]")
    epochs = {c.trial.method: c.trial.recipe.epochs for c in found}
    assert epochs["bwn"] == 55
    assert epochs["twn"] == 60


def test_paper_recipes_quantize_the_layers_that_the_papers_do(tmp_path: Path) -> None:
    found = grid(tmp_path, "recipe=paper", "methods=[bwn, inq, lsq]")
    layers = {c.trial.method: c.trial.layers for c in found}
    assert layers["bwn"] == "skip_first_last"
    assert layers["inq"] == "all"
    assert layers["lsq"] == "first_last_8bit"
    found = grid(tmp_path, "recipe=paper", "methods=[lsq]", "layers=all")
    assert {c.trial.layers for c in found if c.trial.method == "lsq"} == {"all"}
    found = grid(tmp_path, "methods=[lsq]")
    assert {c.trial.layers for c in found if c.trial.method == "lsq"} == {"skip_first_last"}


def test_a_method_that_does_not_train_has_no_epochs_whatever_the_recipe(tmp_path: Path) -> None:
    found = grid(tmp_path, "methods=[ptq_minmax]", "recipe.initialization=scratch")
    (recipe,) = {c.trial.recipe for c in found if c.trial.method == "ptq_minmax"}
    assert recipe.epochs == 0
    assert recipe.initialization == "pretrained"
    assert "fp32" in {c.trial.method for c in found}


def test_a_method_twice_gets_two_rows(tmp_path: Path) -> None:
    found = grid(tmp_path, "methods=[{ste: {scope: layer}}, {ste: {scope: filter}}]")
    assert {c.label for c in found} == {
        "Full precision",
        "STE (scope=layer)",
        "STE (scope=filter)",
    }


ROWS = """\
name: rows
dataset: digits
models: [convnet_tiny]
bits: [2/32]
methods:
  - quantization_networks: {phases: [1, 1, 1]}
    label: Pretrained
    published: fine-tuned
  - quantization_networks:
    label: From scratch
    recipe: {initialization: scratch, epochs: 3}
  - quantization_networks: {phases: [2, 1, 1]}
seeds: [0]
"""


def test_a_row_has_a_label_a_recipe_and_published_numbers_of_its_own(tmp_path: Path) -> None:
    suite = load(tmp_path, ROWS)
    labels = ["Pretrained", "From scratch", "Quantization Networks (phases=[2, 1, 1])"]
    assert suite.labels() == labels
    assert suite.methods[0].published == "fine-tuned"
    recipes = {c.label: c.trial.recipe for c in expand(suite)}
    assert recipes["From scratch"].initialization == "scratch"
    assert recipes["From scratch"].epochs == 3
    assert recipes["Pretrained"].initialization == "pretrained"


def test_a_default_written_out_makes_no_other_trial_and_an_order_does(tmp_path: Path) -> None:
    def key(phases: str) -> str:
        methods = f"methods=[{{quantization_networks: {phases}}}]"
        return expand(load(tmp_path, GOOD, methods))[-1].trial.key

    assert key("{}") == key("{phases: [1, 1, 1]}") == key("{phases: [1.0, 1, 1]}")
    assert key("{phases: [1, 2, 3]}") != key("{phases: [2, 1, 3]}")


def test_set_reaches_every_row_of_a_method(tmp_path: Path) -> None:
    suite = load(tmp_path, ROWS, "methods.quantization_networks.temperature_rate=7")
    assert [row.options["temperature_rate"] for row in suite.methods] == [7, 7, 7]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: From scratch", "label: Pretrained", "suite.yaml:9: methods.1: a second row is"),
        ("label: From", "lable: From", "methods.1.lable: no such key beside a method; did you"),
        ("epochs: 3", "epoch: 3", "suite.yaml:11: methods.1.recipe.epoch: no such key; did you"),
        ("label: From scratch", "label: [1]", "methods.1.label: input should be a valid string"),
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


BY_MODEL = """\
name: by_model
dataset: imagenet
models: [resnet18, resnet50]
bits: [1/32, 2/32, 1/1]
weights: {resnet18: torchvision}
methods:
  - fp32
  - bwn: {}
    bits: [1/32]
  - quantization_networks: {temperature_rate: 10}
    label: QN
    bits: {resnet18: [1/1, 2/32]}
  - quantization_networks: {}
    label: QN
    bits: {resnet50: [2/32]}
seeds: [0]
published:
  - {paper: "arXiv:1911.09464", table: 2, dataset: imagenet, model: resnet18}
  - {paper: "arXiv:1911.09464", table: 3, dataset: imagenet, model: resnet50}
"""


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


def test_given_weights_are_a_trial_without_training(tmp_path: Path) -> None:
    grid = expand(load(tmp_path, BY_MODEL))
    given, trained = (c.trial for c in grid if c.trial.method == "fp32")
    assert (given.weights, given.recipe.epochs) == ("torchvision:IMAGENET1K_V1", 0)
    assert (trained.weights, trained.recipe.epochs) == ("", 90)
    quantized = next(c.trial for c in grid if c.label == "QN")
    assert quantized.base == given
    assert quantized.source == given.key
    assert given.source is not None
    assert trained.source is None


def test_the_file_of_given_weights_is_part_of_a_key_and_its_path_is_not(tmp_path: Path) -> None:
    keys = []
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"another")):
        (tmp_path / name).write_bytes(content)
        grid = expand(load(tmp_path, BY_MODEL, f"weights.resnet18={tmp_path / name}"))
        keys.append(grid[0].trial.key)
    assert keys[0] == keys[1] != keys[2]


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


def test_what_came_later_changes_no_key_by_its_default(tmp_path: Path) -> None:
    """Keys as they were before data, weights, precision and processes were part of them."""
    base, _, first, *_ = grid(tmp_path)
    assert (base.trial.key, first.trial.key) == ("7d8efa4b1ce70d1f", "6628a17233d68ec5")
    for change in ("recipe.precision=bfloat16", "recipe.steps=3", "resources.processes=2"):
        assert grid(tmp_path, change)[2].trial.key != first.trial.key


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_that_comes_with_qbench_is_sound(path: Path) -> None:
    suite = load_suite(path)
    able = {planned.row.method for planned in expand(suite) if not planned.unsupported}
    optional = {"torchao", "parq", "brevitas"}  # whose libraries may not be installed
    assert {row.method for row in suite.methods} - optional <= able
