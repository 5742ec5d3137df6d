from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from qbench.report.columns import BY_NAME, COLUMNS
from qbench.report.summary import columns_of
from tests.helpers.frames import full, summary, trials


def row(label: str, *cells: pd.DataFrame, bits: str = "1/32") -> dict[str, Any]:
    found = summary(*cells)
    (only,) = found[(found["label"] == label) & (found["bits"] == bits)].to_dict("records")
    return {str(name): value for name, value in only.items()}


def standings(*cells: pd.DataFrame) -> dict[str, str]:
    found = summary(*cells)
    return dict(zip(found["label"], found["standing"], strict=True))


def bold(*cells: pd.DataFrame) -> set[str]:
    found = summary(*cells)
    return set(found.loc[found["bold"], "label"])


def test_a_result_is_a_method_at_a_width_over_its_seeds() -> None:
    found = row("A", full(99.0, 99.0, 99.0), trials("A", 97.0, 98.0, 99.0))
    assert (found["n"], found["seeds"], found["status"]) == (3, 3, "done")
    assert (found["mean"], found["std"]) == pytest.approx((98.0, 1.0))
    assert found["metric"] == "top1"


def test_every_column_is_described_and_every_described_one_is_there() -> None:
    exported: dict[str, Any] = {"exported": "yes", "flips": 0, "onnx_mb": 0.1, "latency_ratio": 1.5}
    found = summary(trials("A", 97.0, top5=1.0, map50=1.0, map=1.0, **exported))
    assert list(found) == [column.name for column in COLUMNS]
    assert all(column.about.endswith(".") and column.title for column in COLUMNS)
    assert {c.group for c in columns_of(found, "cost", "policy")} == {"cost", "policy"}


def test_seeds_that_are_not_done_do_not_count() -> None:
    partly = trials("A", 97.0, "failed", "missing", reason="broke")
    found = row("A", partly, trials("B", 90.0, 91.0, 92.0))
    assert (found["n"], found["seeds"], found["status"]) == (1, 3, "partly")
    assert found["standing"] == "untested"
    assert row("A", trials("A", "missing"))["status"] == "missing"
    assert row("A", trials("A", "missing", "failed"))["status"] == "failed"


def test_the_drop_is_over_pairs_of_one_seed() -> None:
    found = row("A", full(99.0, 98.0, "failed"), trials("A", 97.0, 97.0, 50.0))
    assert found["full_precision"] == 98.5
    assert (found["drop"], found["drop_std"]) == pytest.approx((1.5, math.sqrt(0.5)))


def test_the_gap_of_soft_quantizers_is_a_mean_over_seeds() -> None:
    cells = trials("A", 97.0, 98.0, "failed"), trials("B", 97.0)
    found = summary(cells[0].assign(soft_gap=[1.0, 2.0, math.nan]), cells[1])
    gaps = dict(zip(found["label"], found["soft_gap"], strict=True))
    assert gaps["A"] == pytest.approx(1.5)
    assert math.isnan(gaps["B"])


def test_a_changed_network_is_compared_with_its_own_full_precision() -> None:
    changed = full(80.0, 82.0, prepared="a", base="").assign(
        label="Full precision, changed by A", key=["one", "two"]
    )
    found = summary(
        full(90.0, 92.0, prepared="", base=""),
        changed,
        trials("A", 79.0, 80.0, prepared="a").assign(base=["one", "two"]),
        trials("B", 79.0, 80.0, prepared="", base="plain"),
    ).set_index("label")
    assert found["full_precision"].to_dict() == {
        "Full precision": 91.0,
        "Full precision, changed by A": 81.0,
        "A": 81.0,
        "B": 91.0,
    }
    assert found.loc["A", "drop"] == pytest.approx(1.5)
    assert found.loc["B", "drop"] == pytest.approx(11.5)
    assert list(found.loc[found["method"] == "fp32", "standing"]) == ["", ""], "not in a contest"


def test_a_declared_network_is_compared_with_its_own_full_precision() -> None:
    same = {"prepared": "", "base": ""}
    own = full(80.0, 82.0, network="other", **same).assign(label="own", key=["one", "two"])
    pretrained = trials("A", 79.0, 80.0, network="other", prepared="")
    found = summary(
        full(90.0, 92.0, network="net", **same),
        own,
        pretrained.assign(base=["one", "two"]),
        trials("Scratch", 79.0, 80.0, network="other", **same),
        trials("Alone", 79.0, 80.0, network="third", **same),
        trials("Plain", 79.0, 80.0, network="net", prepared="", base="plain"),
    ).set_index("label")
    expected = {"A": 81.0, "Scratch": 81.0, "Plain": 91.0}
    assert found["full_precision"][list(expected)].to_dict() == expected
    assert found["full_precision"].isna().to_dict()["Alone"]
    assert found.loc["own", "standing"] == ""
    assert found.loc["A", "network"] == "other"


def test_standings_come_from_a_paired_test() -> None:
    best = trials("Best", 95.0, 96.0, 97.0, 96.0)
    close = trials("Close", 95.5, 95.4, 96.9, 95.9)
    worse = trials("Worse", 80.0, 81.1, 82.2, 80.9)
    assert standings(best, close, worse) == {"Best": "best", "Close": "tied", "Worse": "worse"}
    assert bold(best, close, worse) == set()  # a tie
    assert bold(best, worse) == {"Best"}


def test_what_only_the_correction_saves_is_behind_and_makes_no_tie() -> None:
    best = trials("Best", 95.0, 96.0, 97.0)
    behind = [trials(f"Behind {i}", 94.0, 94.8, 96.2) for i in range(4)]
    found = standings(best, *behind)
    assert set(found.values()) == {"best", "behind"}
    assert bold(best, *behind) == {"Best"}


def test_rows_that_are_the_same_function_count_once() -> None:
    cells = [trials(f"R{i}", 90.0 - i, 91.2 - i * i, 92.0 - i) for i in range(3)]
    cells = [cell.assign(test_loss=[i, i + 0.1, i + 0.2]) for i, cell in enumerate(cells)]
    twin = cells[0].assign(label="Twin", key=["x", "y", "z"])
    chance = cells[1].assign(label="Chance", key=["u", "v", "w"], test_loss=[7.0, 7.1, 7.2])
    found = summary(*cells, twin, chance).set_index("label")
    assert found["same_as"].to_dict() == {"R0": "", "R1": "", "R2": "", "Twin": "R0", "Chance": ""}
    assert found.loc["Twin", "standing"] == "best"
    p = row("R2", *cells, twin, chance)["p_holm"]
    assert p == row("R2", *cells, chance)["p_holm"], "the family has not grown"


def test_ranks_say_what_the_seeds_leave_open() -> None:
    cells = [
        trials(f"R{i}", *(90.0 - 10 * (i > 2) + 0.1 * seed * (i + 1) for seed in range(3)))
        for i in range(6)
    ]
    found = summary(*cells).set_index("label")["ranks"]
    assert found.to_dict() == {f"R{i}": "1–3" if i < 3 else "4–6" for i in range(6)}
    assert row("A", trials("A", 90.0), trials("B", 80.0))["ranks"] == "", "one seed leaves all open"


def test_a_tie_is_not_bold() -> None:
    assert bold(trials("A", 95.0, 96.0, 97.0), trials("B", 95.2, 95.9, 96.8)) == set()
    assert bold(trials("A", 95.0, 96.0, 97.0)) == set()


def test_one_seed_is_not_tested_and_not_bold() -> None:
    assert standings(trials("A", 97.0), trials("B", 50.0)) == {"A": "best", "B": "untested"}
    assert bold(trials("A", 97.0), trials("B", 50.0)) == set()


def test_what_is_flawed_is_not_compared() -> None:
    flawed = trials("Flawed", 99.0, 99.0, audit="9 levels, 4 promised", stale="")
    stale = trials("Stale", 99.0, 99.0, stale="its file has changed")
    others = trials("Failed", 99.0, "failed", stale=""), trials("A", 50.0, 51.0, stale="")
    assert standings(flawed, stale, *others) == {
        "Flawed": "untested",
        "Stale": "untested",
        "Failed": "untested",
        "A": "best",
    }


def test_widths_models_and_datasets_are_columns_of_their_own() -> None:
    cells = [trials(name, value, value + 1) for name, value in (("A", 90.0), ("B", 50.0))]
    others = [cell.assign(bits="2/2") for cell in cells]
    more = [cell.assign(model="other") for cell in cells]
    found = summary(*cells, *others, *more)
    assert list(found.loc[found["label"] == "A", "standing"]) == ["best"] * 3


def test_what_stands_alone_has_no_standing() -> None:
    assert standings(trials("A", 90.0, 91.0), trials("B", "failed")) == {"A": "", "B": ""}


def claimed(*values: float, **more: str) -> pd.DataFrame:
    cell = trials("A", *values, published_value=69.1, source="a paper, Table 2")
    return cell.assign(**more)


def test_a_claim_is_beside_the_measurement_and_never_in_it() -> None:
    found = row("A", claimed(68.0, 68.1, 68.2))
    assert found["mean"] == pytest.approx(68.1)
    assert (found["published"], found["delta"]) == pytest.approx((69.1, -1.0))
    assert found["verdict"] == "short by 1.00"
    assert row("A", claimed(69.0))["verdict"] == "one seed"


def test_a_claim_about_something_else_is_never_judged() -> None:
    found = row("A", claimed(69.1, 69.2, claim_unlike="published for imagenet"))
    assert (found["verdict"], found["verdict_note"]) == ("not judged", "published for imagenet")
    assert found["published"] == 69.1
    assert math.isnan(found["delta"])
    found = row("A", claimed(69.1, 69.2, audit="9 levels, 4 promised"))
    assert (found["verdict"], found["verdict_note"]) == ("not judged", "it is not k-bit")


def test_a_verdict_says_what_was_done_otherwise() -> None:
    assert row("A", claimed(69.1, 69.2, claim_apart="recipe aligned"))["verdict_note"] == (
        "recipe aligned"
    )


def test_what_is_not_published_has_no_verdict() -> None:
    found = row("A", trials("A", 69.1, 69.2))
    assert found["verdict"] == ""
    assert math.isnan(found["delta"])


def test_protocols_that_are_not_as_most_are_marked() -> None:
    recipe = '{"lr": 0.1, "epochs": 20}'
    cells = [trials(label, 9.0, training=recipe, start="pretrained") for label in "AB"]
    other = trials("C", 9.0, training='{"lr": 0.5}', start="scratch", epochs=30)
    calibrated = trials("D", 9.0, training="{}", start="pretrained", epochs=0)
    found = summary(*cells, other, calibrated).set_index("label")["differs"].to_dict()
    assert found == {
        "A": "",
        "B": "",
        "C": "start scratch, epochs 30, lr 0.5",
        "D": "epochs 0",
    }


def test_layers_whose_activations_are_not_quantized_differ_from_none_of_their_kind() -> None:
    cells = [
        trials(label, 9.0, bits=bits, first_layer=f"8/{activations}")
        for label in "ABC"
        for bits, activations in (("2/2", "8"), ("4/4", "8"), ("2/32", "32"))
    ]
    other = trials("D", 9.0, bits="2/32", first_layer="32/32")
    found = summary(*cells, other)
    assert found.set_index(["label", "bits"])["differs"].to_dict() == {
        **{(label, bits): "" for label in "ABC" for bits in ("2/2", "4/4", "2/32")},
        ("D", "2/32"): "first layer 32/32",
    }


@pytest.mark.parametrize(
    ("levels", "most"), [([3, 3], 3.0), ([3.0, 4.0], 4.0), ([float("nan"), 3.0], 3.0)]
)
def test_levels_are_the_most_that_a_seed_has(levels: list[float], most: float) -> None:
    found = row("A", trials("A", 97.0, 98.0).assign(w_levels=levels))
    assert found["w_levels"] == most
    assert math.isnan(found["a_levels"])


def test_costs_are_set_beside_full_precision() -> None:
    fp = full(99.0, 99.0, train_seconds=10.0, epochs=40)
    packed = trials("A", 97.0, 98.0, train_seconds=7.5, weight_mb=0.5, full_weight_mb=8.0)
    found = row("A", fp, packed.assign(gbops=2.0, full_gbops=64.0))
    assert (found["compression"], found["bops_ratio"]) == (16.0, 32.0)
    assert found["train_ratio"] == pytest.approx(1.5)  # by epoch: 7.5 / 20 over 10 / 40


def test_the_audit_is_told() -> None:
    assert row("A", trials("A", 97.0))["audit"] == "k-bit"
    assert row("A", trials("A", 97.0, audit="has 9 levels"))["audit"] == "has 9 levels"
    assert row("A", trials("A", "missing"))["audit"] == ""


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("mean", 97.126, "97.13"),
        ("delta", 0.5, "+0.50"),
        ("delta", -0.5, "-0.50"),
        ("compression", 31.96, "32.0×"),
        ("epochs", 20, "20"),
        ("w_levels", 4.0, "4"),
        ("mean", float("nan"), ""),
        ("bold", True, "yes"),
        ("label", "A", "A"),
        ("published", 69.0, "69.0"),
        ("published", 58.72, "58.72"),
    ],
)
def test_a_column_says_its_values(name: str, value: object, text: str) -> None:
    assert BY_NAME[name].text(value) == text


def test_a_row_that_is_partly_quantized_is_neither_bold_nor_judged() -> None:
    partly = "'lstm.weight_ih_l0' and 7 more in full precision"
    more: dict[str, Any] = {"w_coverage": 40.0, "mac_coverage": 30.0, "partly": partly}
    more["published_value"] = 90.0
    cells = trials("A", 97.0, 97.1, 97.2, **more), trials("B", 80.0, 80.1, 80.2)
    assert bold(*cells) == set()
    found = row("A", *cells)
    assert (found["w_coverage"], found["mac_coverage"], found["partly"]) == (40, 30, partly)
    assert (found["verdict"], found["verdict_note"]) == ("not judged", "it is partly quantized")


def test_older_results_have_no_coverage() -> None:
    found = row("A", trials("A", 97.0))
    assert math.isnan(found["w_coverage"])
    assert found["partly"] == ""
