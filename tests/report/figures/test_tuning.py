"""The expected best score by the number of configurations that were tried."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from qbench.report.figures import tuning
from qbench.report.figures.style import FULL_PRECISION_LINE, MOST_METHODS, OTHERS
from tests.helpers.figures import data, legend, lines, overlapping

TRIALS = pd.DataFrame({"method": ["fp32", "a", "b"], "label": ["Full precision", "A", "B"]})


def configurations(*cells: tuple[str, str, list[float]], studies: int = 1) -> pd.DataFrame:
    """Scores of the configurations of each label and bit-width, alike in all studies."""
    return pd.DataFrame(
        [
            {"label": label, "model": "net", "bits": bits, "study": study, "score": score}
            for study in range(studies)
            for label, bits, scores in cells
            for score in scores
        ]
    )


def test_the_expectation_is_the_mean_of_the_best_over_all_subsets() -> None:
    scores = [3.0, 9.0, 1.0, 4.0, 4.0]
    for n, value in enumerate(tuning.expected_best(scores, 5), 1):
        best = [max(subset) for subset in itertools.combinations(scores, n)]
        assert value == pytest.approx(np.mean(best))
    assert len(tuning.expected_best(scores, 2)) == 2
    assert len(tuning.expected_best(scores, 9)) == 5


def test_a_line_goes_to_the_trials_of_a_study_and_averages_over_studies(
    saved: list[Figure],
) -> None:
    found = configurations(("A", "2/2", [80, 90]), ("Full precision", "32/32", [95, 96]), studies=3)
    tuning.tuning_curves(TRIALS, found, Path())
    (figure,) = saved
    (axes,) = figure.axes
    full, line = axes.get_lines()
    assert full.get_linestyle() == FULL_PRECISION_LINE["linestyle"]
    x, y = data(line)
    assert x.tolist() == [1, 2]
    assert y == pytest.approx([85, 88])  # a pair of six has the same score in 2 of 5 cases
    assert legend(figure) == ["A", "full precision"]


def test_a_configuration_that_failed_counts_as_a_guess(saved: list[Figure]) -> None:
    found = configurations(("A", "2/2", [90, math.nan]))
    tuning.tuning_curves(TRIALS, found, Path(), chance=10)
    assert data(saved[0].axes[0].get_lines()[0])[1] == pytest.approx([50, 90])
    assert tuning.tuning_curves(TRIALS, found, Path()) == []
    assert len(saved) == 1  # where chance is not known, one score is no curve


def test_one_configuration_for_each_study_is_no_curve(tmp_path: Path) -> None:
    assert (
        tuning.tuning_curves(TRIALS, configurations(("A", "2/2", [90]), studies=3), tmp_path) == []
    )


def test_seventeen_methods_are_readable(saved: list[Figure]) -> None:
    labels = [f"Method {i}" for i in range(17)]
    trials = pd.DataFrame({"method": labels, "label": labels})
    cells = [
        (label, bits, [60.0 + i, 80.0 + i, 70.0 + i])
        for bits in ("1/1", "2/2", "4/4", "2/32")
        for i, label in enumerate(labels)
    ]
    tuning.tuning_curves(trials, configurations(*cells, studies=2), Path())
    (figure,) = saved
    assert [axes.get_title() for axes in figure.axes] == ["1/1", "2/2", "4/4", "2/32"]
    assert legend(figure) == [*labels[17 - MOST_METHODS :], "other methods"]
    assert all(len(lines(each, color=OTHERS["color"])) == 9 for each in figure.axes)
    assert overlapping(figure) == []
