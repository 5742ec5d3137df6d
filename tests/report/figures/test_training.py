from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from qbench.report.figures import training
from qbench.report.figures.style import OTHERS
from tests.helpers.figures import (
    LABELS,
    WIDTHS,
    Suite,
    data,
    legend,
    suite,
    with_soft,
)


def test_trials_without_histories_have_no_curves(tmp_path: Path) -> None:
    trials, histories = suite()
    assert training.training_curves(trials, histories.iloc[:0], tmp_path) == []


def test_panels_are_in_the_order_of_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        training, "_curves_panel", lambda _, curves, __: drawn.append(curves["bits"].iloc[0])
    )
    trials, histories = suite()
    unsupported = (trials["label"] == "STE") & (trials["bits"] == "2/32")
    trials = trials.assign(status=trials["status"].mask(unsupported, "unsupported"))
    training.training_curves(trials, histories, tmp_path)
    assert drawn == list(WIDTHS)


def test_training_accuracy_is_dashed(saved: list[Figure]) -> None:
    trials, histories = suite(epochs=5)
    training.training_curves(trials, histories.assign(train_top1=99.5), Path())
    (figure,) = saved
    assert legend(figure) == [*LABELS, "on training images"]
    for axes in figure.axes:
        dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
        assert len(dashed) == len(LABELS)
        assert all(set(np.asarray(line.get_ydata())) == {99.5} for line in dashed)


def test_of_many_methods_the_best_eight_have_lines_of_their_own(saved: list[Figure]) -> None:
    trials, histories = suite()
    more, curves = [], []
    for i in range(9):
        key = f"more{i}/" + trials["key"]
        more.append(trials.assign(key=key, label=f"More {i}", method=f"more_{i}"))
        top1 = histories["top1"] - 1 - i
        curves.append(histories.assign(key=f"more{i}/" + histories["key"], top1=top1))
    every = pd.concat([trials, *(each[trials["method"] == "ste"] for each in more)])
    training.training_curves(every, pd.concat([histories, *curves]), Path())
    (figure,) = saved
    assert legend(figure) == [*LABELS, *(f"More {i}" for i in range(4)), "other methods"]
    colors = [line.get_color() for line in figure.axes[0].get_lines()]
    assert colors.count(OTHERS["color"]) == 5


def test_soft_is_dashed_and_hard_is_solid_and_both_are_means(saved: list[Figure]) -> None:
    trials, histories = suite(epochs=5)
    histories = with_soft(histories)
    training.soft_and_hard(trials, histories, Path())
    (figure,) = saved
    assert [axes.get_title() for axes in figure.axes] == list(WIDTHS)
    for axes, bits in zip(figure.axes, WIDTHS, strict=True):
        means = histories[histories["key"].str.startswith(f"net/STE/{bits}/")].groupby("epoch")
        soft, hard = axes.get_lines()
        assert (soft.get_linestyle(), hard.get_linestyle()) == ("--", "-")
        for line, column in ((soft, "soft_top1"), (hard, "top1")):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5])
            np.testing.assert_allclose(np.asarray(line.get_ydata()), means[column].mean())


def test_only_methods_with_soft_quantizers_are_named(saved: list[Figure]) -> None:
    trials, histories = suite()
    training.soft_and_hard(trials, with_soft(histories, "TWN"), Path())
    training.training_curves(trials, histories, Path())
    gap, curves = saved
    assert legend(gap) == ["TWN", "soft quantizers", "hard quantizers"]
    colors = {line.get_color() for line in gap.axes[0].get_lines()}
    assert colors == {curves.axes[0].get_lines()[1].get_color()}  # the second method's


def test_every_point_of_soft_and_hard_is_on_the_axis(saved: list[Figure]) -> None:
    trials, histories = suite()
    training.soft_and_hard(trials, with_soft(histories, gap=-30), Path())
    low, high = saved[0].axes[0].get_ylim()
    drawn = np.stack([data(line)[1] for axes in saved[0].axes for line in axes.get_lines()])
    assert low < drawn.min() < drawn.max() < high


def test_both_lines_are_over_the_same_seeds(saved: list[Figure]) -> None:
    trials, histories = suite()
    histories = with_soft(histories)
    one_seed = histories["key"].str.endswith("/1/1/0")
    for epoch, lacks, has in ((2, "soft_top1", "top1"), (3, "top1", "soft_top1")):
        histories.loc[one_seed & (histories["epoch"] == epoch), [lacks, has]] = float("nan"), 0.0
    training.soft_and_hard(trials, histories, Path())
    soft, hard = saved[0].axes[WIDTHS.index("1/1")].get_lines()
    assert list(data(hard)[0]) == [1, 2, 3, 4, 5]
    gap = data(soft)[1] - data(hard)[1]
    np.testing.assert_allclose(gap, 2.0 / np.arange(1, 6))


@pytest.mark.parametrize(
    "given",
    [
        suite(),
        (suite()[0], suite()[1].assign(soft_top1=float("nan"))),
        (suite()[0].assign(status="failed"), with_soft(suite()[1])),
        (suite()[0], with_soft(suite()[1], "Full precision")),
        (suite()[0], with_soft(suite()[1]).iloc[:0]),
    ],
    ids=["no column", "no soft form", "failed", "full precision", "no histories"],
)
def test_without_soft_quantizers_there_is_no_gap_to_draw(tmp_path: Path, given: Suite) -> None:
    assert training.soft_and_hard(*given, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_panel_without_one_below_has_numbers(saved: list[Figure]) -> None:
    trials, histories = suite(("net", "other"))
    skipped = (trials["model"] == "other") & (trials["bits"] == "2/2")
    training.soft_and_hard(trials[~skipped], with_soft(histories), Path())
    numbered = [axes.xaxis.get_tick_params()["labelbottom"] for axes in saved[0].axes]
    assert numbered == [False, False, False, True, True, True, True]
