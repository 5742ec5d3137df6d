from __future__ import annotations

import pandas as pd
import pytest

from qbench.report.comparison import Difference, compare
from tests.helpers.exchanged import results


def finished(*cells: pd.DataFrame) -> pd.DataFrame:
    frame = pd.concat(cells, ignore_index=True)
    return pd.DataFrame({"stale": "", **frame.assign(value=frame["top1"])})


def only(a: pd.DataFrame, b: pd.DataFrame) -> Difference:
    (found,) = compare(finished(a), finished(b))
    return found


def test_a_difference_is_judged_over_common_seeds() -> None:
    before, after = results("A", 90.0, 91.0, 92.0, 50.0), results("A", 88.0, 89.1, 89.9)
    found = only(before, after)
    assert (found.verdict, found.seeds) == ("worse", 3)
    assert found.change == pytest.approx(-2.0)
    assert only(after, before).verdict == "better"


def test_a_difference_within_the_spread_is_not_significant() -> None:
    assert only(results("A", 90.0, 91.0), results("A", 91.5, 90.5)).verdict == "not significant"
    assert only(results("A", 90.0), results("A", 50.0)).verdict == "not tested"
    assert only(results("A", 90.0, 91.0), results("A", 90.0, 91.0)).verdict == "same"


def test_what_only_one_has_is_told() -> None:
    found = compare(finished(results("A", 90.0)), finished(results("B", 90.0)))
    assert [(each.label, each.verdict) for each in found] == [
        ("A", "only in A"),
        ("B", "only in B"),
    ]


def test_all_that_is_compared_is_one_family() -> None:
    names = "ABCDEFGHIJ"
    before = finished(*(results(name, 90.0, 91.0, 92.0) for name in names))
    after = finished(*(results(name, 89.0, 89.8, 90.7) for name in names))
    assert {each.verdict for each in compare(before, after)} == {"not significant"}
    assert only(results("A", 90.0, 91.0, 92.0), results("A", 89.0, 89.8, 90.7)).verdict == "worse"


def test_what_changed_is_told() -> None:
    before = results("A", 90.0, training='{"lr": 0.1, "epochs": 5}', threads=1)
    after = results("A", 90.0, training='{"lr": 0.02, "epochs": 5}', method="other", threads=2)
    assert only(before, after).settings == "method a → other, lr 0.1 → 0.02, threads 1 → 2"


def test_one_key_with_two_numbers_is_a_conflict() -> None:
    before, after = results("A", 90.0, 91.0), results("A", 90.0, 92.0)
    assert only(before, after).conflicts == ["A--1/32-1"]
    rounded = only(results("A", 90.123456), results("A", 90.1235))
    assert (rounded.conflicts, rounded.verdict) == ([], "same")


def test_numbers_not_to_be_trusted_are_told() -> None:
    found = only(results("A", 90.0, 91.0), results("A", 90.0, 91.0, stale="edited"))
    assert (found.verdict, found.stale) == ("same", ["2 stale in B: edited"])


def test_recipes_of_one_row_are_told_apart() -> None:
    short, long = (results("A", v, training=f'{{"epochs": {v}}}') for v in (5, 20))
    found = compare(finished(short, long.assign(key="k")), finished(short))
    assert [(each.label, each.verdict) for each in found] == [
        ("A [epochs=5]", "same"),
        ("A [epochs=20]", "only in A"),
    ]


def test_a_row_of_b_has_the_name_that_a_gives_to_it() -> None:
    named = results("My quantizer", 90.0, 91.0, method="mine", dataset="Flowers")
    bare = named.assign(label="mine", dataset="folder")
    found = only(named, bare)
    assert (found.label, found.dataset, found.verdict) == ("My quantizer", "Flowers", "same")


def test_a_row_with_other_keys_is_found_by_its_method_and_options() -> None:
    named = results("My quantizer", 90.0, 91.0, method="mine", training='{"lr": 0.1}')
    bare = named.assign(label="mine", training='{"lr": 0.2}', key=named["key"] + "x")
    assert only(named, bare).settings == "lr 0.1 → 0.2"
    other = bare.assign(options='{"power": 2}')
    assert [each.verdict for each in compare(finished(named), finished(other))] == [
        "only in A",
        "only in B",
    ]


def test_results_on_other_data_are_told_apart() -> None:
    one, two = (
        results("A", value, dataset="folder", data=f'{{"files": {value}}}').assign(key=str(value))
        for value in (90.0, 80.0)
    )
    found = compare(finished(one, two), finished(one))
    assert [each.verdict for each in found] == ["same", "only in A"]
