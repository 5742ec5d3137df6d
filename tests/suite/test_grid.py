"""Suites as trials, and the keys of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench import registry
from qbench.errors import QbenchError
from qbench.method import BitWidths, Method, Recipe
from qbench.suite.grid import expand
from tests.helpers.suites import BY_MODEL, GOOD, grid, load


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


@pytest.mark.usefixtures("foreign_models")
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            "lazy",
            "lazy has a lazy layer, '2' (LazyLinear), which has no weights yet: give its size",
        ),
        ("raises", "raises cannot be built: KeyError: 'width'"),
        (
            "wrapped",
            "wrapped cannot take images of 1×8×8: a classifier returns logits, or a tuple of them, "
            "not dict",
        ),
        ("too_few_scores", "too_few_scores maps 2 images to (2, 9), not to (2, 10) scores"),
        ("branched", ""),
        ("looks_at_values", ""),
    ],
)
def test_a_model_is_accepted_or_refused_alone(tmp_path: Path, model: str, reason: str) -> None:
    found = grid(tmp_path, f"models=[convnet_tiny, {model}]", "methods=[ste]")
    reasons = {c.trial.model: c.unsupported for c in found}
    assert reasons == {"convnet_tiny": "", model: reason}


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


def test_a_paper_recipe_may_depend_on_the_widths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_width(self: Method, bits: BitWidths) -> Recipe | None:
        if bits.weights.bits == 1:
            return None
        return Recipe(epochs=10 * bits.weights.bits, batch_size=8, optimizer="sgd", lr=0.1)

    monkeypatch.setattr(registry.method_class("ste"), "paper_recipe_for", by_width)
    found = grid(tmp_path, "recipe=paper", "methods=[ste]", "bits=[1/32, 2/2, 4/32]")
    epochs = {c.trial.bits: c.trial.recipe.epochs for c in found if c.trial.method == "ste"}
    assert epochs == {"1/32": 20, "2/2": 20, "4/32": 40}, "without one: that of the dataset, 20"
    aligned = grid(tmp_path, "methods=[ste]", "bits=[4/32]")
    assert {c.trial.recipe.epochs for c in aligned if c.trial.method == "ste"} == {20}


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (lambda self, bits: {"lr": 1}, "raised TypeError: it must return a Recipe, not a dict"),
        (lambda self, bits: 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_mistake_in_a_paper_recipe_affects_its_own_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: object, reason: str
) -> None:
    monkeypatch.setattr(registry.method_class("ste"), "paper_recipe_for", recipe)
    reasons = {c.trial.method: c.unsupported for c in grid(tmp_path, "recipe=paper", "bits=[1/32]")}
    assert reasons == {"fp32": "", "bwn": "", "ste": f"its paper_recipe_for() {reason}"}


def test_paper_options_are_those_of_the_paper_s_recipe_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ste = registry.method_class("ste")
    monkeypatch.setattr(ste, "paper_options", {"momentum": 0.5, "percentile": 99.0}, raising=False)

    def options(*assignments: str) -> dict[str, object]:
        found = grid(tmp_path, *assignments)
        return next(c.trial.options for c in found if c.trial.method == "ste")

    own = options("recipe=paper")
    assert (own["momentum"], own["percentile"]) == (0.5, 99.0)
    set_here = options("recipe=paper", "methods=[{ste: {momentum: 0.8}}]")
    assert (set_here["momentum"], set_here["percentile"]) == (0.8, 99.0), "the suite's come first"
    assert options()["momentum"] == 0.9


def test_a_mistake_in_paper_options_affects_its_own_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.method_class("ste"), "paper_options", {"momentun": 0.5})
    reasons = {c.trial.method: c.unsupported for c in grid(tmp_path, "recipe=paper", "bits=[1/32]")}
    assert reasons["bwn"] == ""
    assert reasons["ste"].startswith("its paper_options: ste: ")
    assert "momentum" in reasons["ste"]


def test_a_recipe_that_smooths_labels_is_not_for_detection(tmp_path: Path) -> None:
    changes = ("dataset=shapes", "models=[ssd_tiny]", "methods=[lsq]", "bits=[4/4]")
    (reason,) = {
        c.unsupported
        for c in grid(tmp_path, *changes, "recipe.label_smoothing=0.1")
        if c.trial.method == "lsq"
    }
    assert reason == "its recipe smooths labels, which is for classification"


def test_a_list_of_rates_that_does_not_fit_the_milestones_is_an_error(tmp_path: Path) -> None:
    rates = "recipe={name: paper, milestone_lrs: [0.01, 0.001]}"
    with pytest.raises(QbenchError, match="milestone_lrs has 2 values and milestones has 4"):
        grid(tmp_path, rates, "methods=[bwn]")
    found = grid(tmp_path, rates.replace("]", ", 1e-4, 1e-5]"), "methods=[bwn]")
    (recipe,) = {c.trial.recipe for c in found if c.trial.method == "bwn"}
    assert recipe.milestone_lrs == (0.01, 0.001, 1e-4, 1e-5)


def test_other_milestones_a_factor_or_a_schedule_drop_the_lists_of_a_paper(tmp_path: Path) -> None:
    def recipe(changes: str) -> Recipe:
        found = grid(tmp_path, f"recipe={{name: paper, {changes}}}", "methods=[bwn]", "bits=[1/32]")
        return next(c.trial.recipe for c in found if c.trial.method == "bwn")

    moved = recipe("milestones: [30, 40]")
    assert (moved.milestone_lrs, moved.milestone_weight_decays) == ((), ())
    assert moved.gamma == 0.1
    other = recipe("gamma: 0.5")
    assert (other.milestone_lrs, len(other.milestone_weight_decays)) == ((), 4)
    cosine = recipe("schedule: cosine")
    assert (cosine.milestone_lrs, len(cosine.milestone_weight_decays)) == ((), 4)
    assert len(recipe("epochs: 60").milestone_lrs) == 4
    assert len(recipe("schedule: step, lr: 0.1").milestone_lrs) == 4


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


def test_bnn_may_leave_the_image_at_full_precision_as_its_paper_does(tmp_path: Path) -> None:
    found = grid(tmp_path, "recipe=paper", "methods=[bnn]", "bits=[1/1, 1/32]")
    reasons = {str(c.trial.bits): c.unsupported for c in found if c.trial.method == "bnn"}
    assert not reasons["1/1"]
    assert reasons["1/32"]  # all of its layers must have binary inputs but the first


def test_a_trial_says_where_its_activation_quantizers_sit(tmp_path: Path) -> None:
    def placements(*assignments: str) -> dict[str, str]:
        found = grid(tmp_path, "bits=[2/32, 2/2]", *assignments)
        return {f"{c.trial.method} {c.trial.bits}": c.trial.placement for c in found}

    of_methods = placements("methods=[lsq, jacob, quantization_networks]")
    assert of_methods == {
        "fp32 32/32": "layer_inputs",
        "lsq 2/32": "layer_inputs",
        "lsq 2/2": "layer_inputs",
        "jacob 2/32": "layer_inputs",
        "jacob 2/2": "after_activation_and_add",
        "quantization_networks 2/32": "layer_inputs",
        "quantization_networks 2/2": "after_activation",
    }
    of_suite = placements("methods=[lsq, jacob]", "placement=after_activation")
    assert {of_suite["lsq 2/2"], of_suite["jacob 2/2"]} == {"after_activation"}
    assert of_suite["lsq 2/32"] == "layer_inputs"
    of_row = placements(
        "methods=[{jacob: {}, placement: layer_inputs}, lsq]", "placement=after_activation"
    )
    assert (of_row["jacob 2/2"], of_row["lsq 2/2"]) == ("layer_inputs", "after_activation")


def test_the_key_names_a_placement_only_where_activations_are_quantized(tmp_path: Path) -> None:
    def key(*assignments: str) -> str:
        return grid(tmp_path, "methods=[lsq]", *assignments)[-1].trial.key

    for bits in ("bits=[2/32]", "bits=[2/2]"):
        assert key(bits) == key(bits, "placement=layer_inputs")
    assert key("bits=[2/32]") == key("bits=[2/32]", "placement=after_activation")
    assert key("bits=[2/2]") != key("bits=[2/2]", "placement=after_activation")


def test_a_method_that_does_not_train_has_no_epochs_whatever_the_recipe(tmp_path: Path) -> None:
    found = grid(tmp_path, "methods=[ptq_minmax]", "recipe.initialization=scratch")
    (recipe,) = {c.trial.recipe for c in found if c.trial.method == "ptq_minmax"}
    assert recipe.epochs == 0
    assert recipe.initialization == "pretrained"
    assert "fp32" in {c.trial.method for c in found}


def test_a_default_written_out_makes_no_other_trial_and_an_order_does(tmp_path: Path) -> None:
    def key(phases: str) -> str:
        methods = f"methods=[{{quantization_networks: {phases}}}]"
        return expand(load(tmp_path, GOOD, methods))[-1].trial.key

    assert key("{}") == key("{phases: [1, 1, 1]}") == key("{phases: [1.0, 1, 1]}")
    assert key("{phases: [1, 2, 3]}") != key("{phases: [2, 1, 3]}")


def test_two_rows_that_are_the_same_are_refused(tmp_path: Path) -> None:
    rows = "methods=[quantization_networks, {quantization_networks: {phases: [1, 1, 1]}}]"
    with pytest.raises(
        QbenchError,
        match=r"'Quantization Networks' and .*phases.* are the same at .* leave one",
    ):
        expand(load(tmp_path, GOOD, rows))
    for label in ("methods=[dorefa, {dorefa: {}, label: again}]", "methods=[dorefa, dorefa]"):
        with pytest.raises(QbenchError):
            expand(load(tmp_path, GOOD, label))


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


def test_what_came_later_changes_no_key_by_its_default(tmp_path: Path) -> None:
    """Keys as they were before data, weights, precision and processes were part of them."""
    base, _, first, *_ = grid(tmp_path)
    assert (base.trial.key, first.trial.key) == ("7d8efa4b1ce70d1f", "6628a17233d68ec5")
    for change in (
        *("recipe.precision=bfloat16", "recipe.steps=3", "resources.processes=2"),
        *("recipe.warmup_epochs=1", "recipe.label_smoothing=0.1", "recipe.epsilon=1e-5"),
        "recipe.weight_decay_on=weights",
        "recipe={schedule: step, milestones: [5], milestone_lrs: [0.01]}",
        "recipe={milestones: [5], milestone_weight_decays: [0]}",
    ):
        assert grid(tmp_path, change)[2].trial.key != first.trial.key


CHANGING = """\
name: changing
dataset: digits
models: [convnet_tiny]
bits: [1/1, 1/2]
methods: [ste, xnor, hwgq]
seeds: [0, 1]
"""


def test_a_changed_network_is_trained_in_full_precision_and_shared(tmp_path: Path) -> None:
    found = expand(load(tmp_path, CHANGING))
    full = [c for c in found if c.trial.method == "fp32"]
    assert [(c.label, c.trial.seed) for c in full] == [
        (label, seed)
        for label in (
            "Full precision",
            "Full precision, changed by XNOR-Net",
            "Full precision, changed by HWGQ",
        )
        for seed in (0, 1)
    ]
    assert found[: len(full)] == full, "they come first"
    by_key = {c.trial.key: c for c in full}
    starts = {
        (c.trial.method, c.trial.bits, c.trial.seed): by_key[c.trial.source or ""]
        for c in found
        if c not in full and not c.unsupported
    }
    for (method, _, seed), start in starts.items():
        assert start.trial.seed == seed
        assert start.trial.recipe == full[0].trial.recipe
        assert start.trial.prepared is None if method == "ste" else start.trial.prepared
    assert starts["hwgq", "1/1", 0] is starts["hwgq", "1/2", 0]
    assert starts["xnor", "1/1", 0] is not starts["hwgq", "1/1", 0]


def test_changed_networks_of_one_method_have_names_of_their_own(tmp_path: Path) -> None:
    rows = "methods=[{wrpn: {widen: 2}, label: A}, {wrpn: {widen: 3}, label: B}]"
    found = expand(load(tmp_path, CHANGING, rows))
    labels = dict.fromkeys(c.label for c in found if c.trial.method == "fp32")
    assert list(labels) == [
        "Full precision",
        "Full precision, changed by WRPN (widen 2)",
        "Full precision, changed by WRPN (widen 3)",
    ]


def test_from_scratch_no_changed_network_is_trained(tmp_path: Path) -> None:
    found = expand(load(tmp_path, CHANGING, "recipe.initialization=scratch"))
    assert not [c for c in found if c.trial.prepared or c.trial.method == "fp32"]


def test_a_network_that_only_some_widths_change_is_shared_by_the_others(tmp_path: Path) -> None:
    found = expand(load(tmp_path, CHANGING, "methods=[binary_connect]", "bits=[1/32, 1/1]"))
    changed = {c.trial.bits: bool(c.trial.prepared) for c in found if c.trial.method != "fp32"}
    assert changed == {"1/32": False, "1/1": True}


def test_a_changed_network_is_trained_where_weights_of_the_unchanged_one_are_given(
    tmp_path: Path,
) -> None:
    (tmp_path / "w.pt").write_bytes(b"anything")
    given = f"weights.convnet_tiny={tmp_path / 'w.pt'}"
    found = [c.trial for c in expand(load(tmp_path, CHANGING, given)) if not c.unsupported]
    trained = [trial for trial in expand(load(tmp_path, CHANGING)) if not trial.unsupported]
    for method in ("xnor", "hwgq"):
        starts = [trial.base for trial in found if trial.method == method]
        assert {(start.weights, start.recipe.epochs) for start in starts if start} == {("", 40)}
        keys = [t.trial.key for t in trained if t.trial.method == method]
        assert [trial.key for trial in found if trial.method == method] == keys
    assert {t.weights[:7] for t in found if t.method == "ste"} == {"sha256:"}
    assert {t.recipe.epochs for t in found if t.method == "fp32"} == {0, 40}


def test_a_backbone_of_the_unchanged_network_is_refused_for_a_changed_one(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"anything")
    given = f"weights.convnet_tiny='finetune:{tmp_path / 'w.pt'}'"
    found = expand(load(tmp_path, CHANGING, given))
    (reason,) = {c.unsupported for c in found if c.label == "XNOR-Net" and c.trial.bits == "1/1"}
    assert reason.startswith("it changes convnet_tiny, and finetune:sha256:")
    assert not any(c.unsupported for c in found if c.trial.method == "ste")


def test_a_declared_network_is_trained_once_for_all_methods_that_declare_it(
    tmp_path: Path,
) -> None:
    changes = ("models=[resnet_tiny]", "methods=[ste, bnn, binary_connect, xnor, tbn, hwgq]")
    found = expand(load(tmp_path, CHANGING, *changes, "seeds=[0]"))
    full = [c for c in found if c.trial.method == "fp32"]
    networks = ["bnn_resnet8", "tbn_resnet8", "hwgq_resnet8"]
    assert [c.label for c in full] == [
        "Full precision",
        *(f"Full precision, {network}" for network in networks),
    ]
    assert [c.trial.network for c in full] == ["", *networks]
    keys = [c.trial.key for c in full]
    starts = {c.trial.method: c.trial.source for c in found[4:] if not c.unsupported}
    assert starts == {
        "ste": keys[0],
        **dict.fromkeys(("bnn", "binary_connect"), keys[1]),
        **dict.fromkeys(("xnor", "tbn"), keys[2]),
        "hwgq": keys[3],
    }


def test_a_declared_network_is_part_of_the_key_and_is_built_from_scratch_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = ("models=[resnet_tiny]", "methods=[hwgq]", "recipe.initialization=scratch")
    before = expand(load(tmp_path, CHANGING, *scratch))
    assert {c.trial.network for c in before} == {"hwgq_resnet8"}
    monkeypatch.setattr(registry.method_class("hwgq"), "networks", {})
    after = expand(load(tmp_path, CHANGING, *scratch))
    assert {c.trial.network for c in after} == {""}
    assert {c.trial.key for c in before}.isdisjoint(c.trial.key for c in after)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (lambda self, model, bits: "resnet8", "resnet8 cannot be built: no model is named"),
        (lambda self, model, bits: 1 / 0, "its network_for() raised ZeroDivisionError"),
    ],
)
def test_a_mistake_in_a_declared_network_affects_its_own_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: object, reason: str
) -> None:
    monkeypatch.setattr(registry.method_class("ste"), "network_for", declared)
    reasons = {c.trial.method: c.unsupported for c in grid(tmp_path, "bits=[1/32]")}
    assert reasons["bwn"] == reasons["fp32"] == ""
    assert reasons["ste"].startswith(reason)


def test_a_mistake_in_prepare_is_left_to_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.method_class("ste"), "prepare", lambda *_: 1 / 0)
    assert not any(c.unsupported or c.trial.prepared for c in grid(tmp_path, "bits=[1/32]"))


def test_a_teacher_is_trained_even_if_nothing_starts_from_it(tmp_path: Path) -> None:
    found = grid(tmp_path, "recipe.teacher={weight: 0.5}", "recipe.initialization=scratch")
    full = [each.trial for each in found if each.trial.method == "fp32"]
    taught = [each.trial for each in found if each.trial.method != "fp32"]
    assert {each.seed: each.key for each in full} == {
        each.seed: each.taught_by.key for each in taught if each.taught_by
    }
    assert all(each.base is None for each in taught)
    assert all(each.recipe.teacher is None for each in full)


def test_a_teacher_without_weight_leaves_every_key(tmp_path: Path) -> None:
    plain, without = grid(tmp_path), grid(tmp_path, "recipe.teacher.weight=0")
    assert [each.trial.key for each in plain] == [each.trial.key for each in without]


def test_the_teacher_of_a_changed_network_is_the_unchanged_one(tmp_path: Path) -> None:
    found = grid(tmp_path, "methods=[react_net]", "bits=[1/1]", "recipe.teacher={}")
    (first, *_) = [each.trial for each in found if each.trial.method == "react_net"]
    assert first.base is not None
    assert first.base.prepared is not None
    assert first.taught_by is not None
    assert first.taught_by.prepared is None
    assert set(first.sources) < {each.trial.key for each in found}


def test_what_is_not_trained_has_no_teacher(tmp_path: Path) -> None:
    found = grid(tmp_path, "methods=[ptq_minmax]", "recipe.teacher={}")
    assert all(each.trial.teacher is None for each in found)
    assert all(each.trial.recipe.teacher is None for each in found)


def test_a_teacher_is_for_classification(tmp_path: Path) -> None:
    found = grid(tmp_path, "dataset=shapes", "models=[ssd_tiny]", "recipe.teacher={}")
    reasons = {each.unsupported for each in found if each.trial.method == "ste"}
    assert reasons == {"its recipe has a teacher, which is for classification"}


def test_a_full_precision_network_has_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match=r"full_precision.teacher: a full-precision network has"):
        grid(tmp_path, "full_precision.teacher={}")
