from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.colors
import pandas as pd
import pytest
from matplotlib.figure import Figure

from qbench.report.figures import accuracy
from qbench.report.summary import summarise
from tests.helpers.figures import legend, overlapping, size, suite
from tests.helpers.frames import full, summary, trials


def drawn(saved: list[Figure], *cells: pd.DataFrame) -> Figure:
    accuracy.accuracy_by_bits(summary(*cells), Path())
    return saved[-1]


def rows(figure: Figure) -> list[str]:
    (axes,) = figure.axes
    return [text.get_text() for text in axes.get_yticklabels()]


def points(figure: Figure) -> list[tuple[float, float, str]]:
    """Mean, place and colour of each point."""
    (axes,) = figure.axes
    found = []
    for line in axes.get_lines():
        xs: Any = line.get_xdata()
        if len(xs) == 1:
            ys: Any = line.get_ydata()
            found.append((float(xs[0]), float(ys[0]), matplotlib.colors.to_hex(line.get_color())))
    return found


def bars(figure: Figure) -> list[tuple[float, float]]:
    (axes,) = figure.axes
    collections: list[Any] = list(axes.collections)
    found = [ends for bar in collections for ends in bar.get_segments()]
    return [(float(ends[0][0]), float(ends[1][0])) for ends in found]


BEST = trials("Best", 95.0, 96.0, 97.0)
CLOSE = trials("Close", 94.5, 96.2, 96.4)
WORSE = trials("Worse", 90.0, 91.1, 92.1)


def test_the_best_is_on_top_and_what_is_no_candidate_is_grey(saved: list[Figure]) -> None:
    figure = drawn(saved, full(99.0, 99.0, 99.0), WORSE, CLOSE, BEST)
    assert rows(figure) == ["Best", "Close", "Worse"]
    means, places, colors = zip(*points(figure), strict=True)
    assert means == pytest.approx((96.0, 95.7, 91.07), abs=0.01)
    assert places == (0, 1, 2)
    assert colors[0] == colors[1] != colors[2]
    assert legend(figure) == ["candidate for the best", "not a candidate (†)", "full precision"]


def test_a_bar_is_the_interval_and_ends_at_a_hundred_percent(saved: list[Figure]) -> None:
    figure = drawn(saved, trials("High", 98.0, 99.0, 100.0), trials("Low", 60.0, 60.1, 60.2))
    (low, high), (lower, upper) = bars(figure)
    assert high == pytest.approx(100.0)
    assert low == pytest.approx(99.0 - 2.484, abs=0.01)
    assert upper - lower == pytest.approx(2 * 0.2484, abs=0.01)


def test_the_ranks_stand_beside(saved: list[Figure]) -> None:
    (axes,) = drawn(saved, BEST, CLOSE, WORSE).axes
    assert [text.get_text() for text in axes.texts] == ["1–2", "1–2", "3"]


def test_a_value_far_below_stands_at_the_edge(saved: list[Figure]) -> None:
    others = [trials(f"R{i}", 97.0 + i / 10, 97.2 + i / 10) for i in range(6)]
    figure = drawn(saved, *others, trials("Broken", 30.0, 31.6))
    (axes,) = figure.axes
    assert axes.get_xlim()[0] > 90
    assert " ◂ 30.8" in [text.get_text() for text in axes.texts]
    assert len(points(figure)) == 6


def test_each_width_has_a_panel_and_each_network_its_rows(tmp_path: Path) -> None:
    one = size(accuracy.accuracy_by_bits(summarise(suite()[0]), tmp_path)[0])
    two = size(accuracy.accuracy_by_bits(summarise(suite(("net", "other"))[0]), tmp_path)[0])
    assert two[1] == one[1]
    assert two[0] > 1.5 * one[0]


def test_the_panels_are_in_the_order_of_the_suite(saved: list[Figure]) -> None:
    missing = trials("First", "unsupported", bits="3(±4)/32")
    one, two = trials("First", 90.0, bits="1/32"), trials("First", 90.0, bits="2/2")
    second = trials("Second", 91.0, bits="3(±4)/32")
    figure = drawn(saved, full(99.0), one, missing, two, second)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["1/32", "3(±4)/32", "2/2"]


def test_many_methods_and_long_names_do_not_overlap(saved: list[Figure]) -> None:
    cells = [
        trials(f"A method of a long name {i}", 90.0 + i / 10, 90.4 + i / 10, bits=bits)
        for i in range(34)
        for bits in ("1/32", "2/2", "3(±4)/32", "1/1", "4/4")
    ]
    accuracy.accuracy_by_bits(summary(full(99.0, 99.1), *cells), Path())
    assert overlapping(saved[-1]) == []


def frame(*means: float, std: float = 0.1) -> pd.DataFrame:
    return pd.DataFrame({"mean": means, "std": std})


def test_the_axis_shows_every_point() -> None:
    low, high = accuracy._limits(frame(97.0, 97.5, 98.0, 98.5), full=99.0)
    assert 96 < low < 96.9
    assert 99 < high < 99.5


def test_an_outlier_does_not_squash_the_rest() -> None:
    low, _ = accuracy._limits(frame(10.0, 97.0, 97.2, 97.5, 98.0, 98.5), full=99.0)
    assert 96 < low < 96.9


def test_many_bad_points_are_no_outliers() -> None:
    low, _ = accuracy._limits(frame(10.0, 12.0, 15.0, 97.5, 98.0, 98.5), full=99.0)
    assert low < 10


def test_without_full_precision_the_axis_ends_above_the_points() -> None:
    _, high = accuracy._limits(frame(97.0, 98.0), full=float("nan"))
    assert 98.1 < high < 98.5
