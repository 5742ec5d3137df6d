"""What tuning changes in a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qbench.report.studies import means_of
from qbench.report.tuning_effect import Effect, effects, tables, to_frame
from tests.helpers.frames import full, trials

NOISE = (-0.1, 0.0, 0.1)


def table(means: dict[str, float], bits: str = "2/2", **more: Any) -> pd.DataFrame:
    """Rows of three seeds, or studies, whose differences all have the same small spread."""
    random = np.random.default_rng(0)
    cells = [
        trials(
            label, *(mean + noise + random.normal(0, 0.05) for noise in NOISE), bits=bits, **more
        )
        for label, mean in means.items()
    ]
    return pd.concat([full(95, 95.1, 95.2), *cells], ignore_index=True)


def only(aligned: pd.DataFrame, tuned: pd.DataFrame, **more: Any) -> Effect:
    (found,) = effects(aligned, tuned, "top1", **more)
    return found


def test_pairs_that_both_tables_tell_apart_can_flip() -> None:
    aligned = table({"A": 80, "B": 85, "C": 90, "D": 90.01})
    tuned = table({"A": 88, "B": 86, "C": 91, "D": 91.01})
    found = only(aligned, tuned)
    assert (found.rows, found.pairs) == (4, 6)
    assert (found.told_aligned, found.told_tuned, found.told_both) == (5, 5, 5)  # C and D are tied
    assert found.flips == 1  # A and B
    assert found.moves == pytest.approx(1.0, abs=0.1)  # the median of 8, 1, 1, 1


def test_the_rank_correlation_is_spearmans_and_has_an_interval() -> None:
    aligned = table({"A": 80, "B": 85, "C": 90, "D": 92})
    tuned = table({"A": 88, "B": 86, "C": 93, "D": 91})
    found = only(aligned, tuned)
    expected = stats.spearmanr([80, 85, 90, 92], [88, 86, 93, 91]).statistic
    assert found.correlation == pytest.approx(expected)
    assert found.correlation_low <= found.correlation <= found.correlation_high
    sure = only(aligned, aligned)
    assert (sure.correlation_low, sure.correlation_high) == pytest.approx((1, 1))


def cells(**tops: tuple[float, ...]) -> pd.DataFrame:
    """Rows with these values over their seeds."""
    rows = [trials(label, *values, bits="2/2") for label, values in tops.items()]
    return pd.concat([full(95, 95.1, 95.2), *rows], ignore_index=True)


def test_draws_in_which_all_rows_tie_do_not_hide_the_interval() -> None:
    aligned = cells(A=(50, 50, 50.4), B=(50, 50, 50.5), C=(50, 52.3, 50))
    found = only(aligned, table({"A": 80, "B": 85, "C": 90}))
    assert np.isfinite([found.correlation, found.correlation_low, found.correlation_high]).all()


def test_rows_that_all_tie_have_no_rank_correlation() -> None:
    aligned = cells(A=(50, 51, 52), B=(51, 52, 50), C=(52, 50, 51))
    tuned = table({"A": 80, "B": 85, "C": 90})
    found = only(aligned, tuned)
    assert np.isnan(found.correlation)
    changes, *_ = tables([found], tuned, {}, "top1")
    assert changes.rows[0][2] == ""


def test_published_differences_are_counted_at_the_same_bits() -> None:
    aligned, tuned = table({"A": 80, "B": 85, "C": 90}), table({"A": 81, "B": 86, "C": 91})
    found = only(aligned, tuned, published={("2", "2"): [0.3, 0.9, 1.5], ("1", "1"): [0.1]})
    assert (found.within, found.published) == (2, 3)
    assert only(aligned, tuned).published == 0


def test_rows_that_one_table_lacks_or_doubts_are_not_compared() -> None:
    means = {"A": 80.0, "B": 85.0, "C": 90.0, "D": 91.0}
    aligned, tuned = table(means), table(means | {"E": 92.0})
    assert only(aligned, tuned).rows == 4
    failed = tuned.assign(status=tuned["status"].mask(tuned["key"] == "A--2/2-0", "failed"))
    assert only(aligned, failed).rows == 3
    audited = failed.assign(audit=failed["audit"].mask(failed["label"] == "B", "9 levels"))
    assert effects(aligned, audited, "top1") == []  # two rows have no rank correlation
    assert effects(aligned.iloc[:0], tuned, "top1") == []


def test_tables_show_the_effect_and_the_gains_with_the_largest_first() -> None:
    aligned, tuned = table({"A": 80, "B": 85, "C": 90}), table({"A": 81, "B": 89, "C": 92})
    more = trials("A", 70, 70, 70, bits="1/1"), trials("A", 78, 78, 78, bits="1/1")
    aligned, tuned = (pd.concat(each) for each in ((aligned, more[0]), (tuned, more[1])))
    found = effects(aligned, tuned, "top1", published={("2", "2"): [1.0, 9.0]})
    changes, gains = tables(found, tuned, means_of(aligned, "top1"), "top1")
    assert changes.title == "What tuning changes: net"
    assert changes.rows == [
        ["2/2", "3", "1.00 (1.00 to 1.00)", "3", "3", "3", "3", "0", "2.00", "1 of 2"]
    ]
    assert [column.title for column in gains.columns] == ["Method", "2/2", "1/1", "Mean"]
    assert gains.rows == [
        ["A", "1.00", "8.00", "4.50"],
        ["B", "4.00", "", "4.00"],
        ["C", "2.00", "", "2.00"],
    ]
    assert to_frame(found)["flips"].tolist() == [0]


def test_without_aligned_results_there_is_no_table() -> None:
    assert tables([], table({"A": 80, "B": 85, "C": 90}), {}, "top1") == []
