from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from qbench.report.figures import weights as weight_figures
from qbench.spec.result import WeightDistribution
from tests.helpers.figures import (
    across,
    curve,
    data,
    histograms,
    legend,
    lines,
    overlapping,
    weights,
)


def test_soft_functions_get_darker_by_epoch_under_the_hard_one(saved: list[Figure]) -> None:
    given = curve((20, 1, 10))
    weight_figures.quantization_function(given, None, "a trial", Path())
    axes = saved[0].axes[0]
    *soft, hard = axes.get_lines()
    for line, epoch in zip(soft, (1, 10, 20), strict=True):
        np.testing.assert_array_equal(data(line), (given.x, given.soft[epoch]))
    np.testing.assert_array_equal(data(hard), (given.x, given.hard))
    assert hard.get_drawstyle().startswith("steps")
    light = [sum(matplotlib.colors.to_rgb(line.get_color())) for line in (*soft, hard)]
    assert light == sorted(light, reverse=True)
    assert legend(saved[0]) == ["epoch 1", "epoch 10", "epoch 20", "hard"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("latent weight", "quantized weight")
    assert axes.get_title(loc="left") == "layer conv"


def test_the_quantization_function_shows_levels_and_thresholds(saved: list[Figure]) -> None:
    weight_figures.quantization_function(
        curve(), weights(levels=(-0.5, 0.0, 2.0)), "a trial", Path()
    )
    axes = saved[0].axes[0]
    assert across(axes, weight_figures.LEVEL_LINE) == [-0.5, 0.0, 2.0]
    assert across(axes, weight_figures.THRESHOLD_LINE) == [-0.25, 1.0]
    assert axes.get_ylim()[1] > 2
    assert legend(saved[0])[-2:] == ["levels", "thresholds"]


@pytest.mark.parametrize("count", [1, 3, 4, 19])
def test_each_layer_has_a_panel_at_most_four_across(saved: list[Figure], count: int) -> None:
    names = [f"layer{i}" for i in range(count)]
    weight_figures.weight_distributions(list(map(weights, names)), "a trial", Path())
    saved[0].draw_without_rendering()
    assert [axes.get_title() for axes in saved[0].axes] == names
    lefts = {round(axes.get_position().x0, 2) for axes in saved[0].axes}
    assert len(lefts) == min(4, count)


def test_distributions_are_percentages_before_and_after(saved: list[Figure]) -> None:
    layer = WeightDistribution(
        layer="fc", edges=[0, 1, 2, 3, 4], before=[1, 1, 1, 1], after=[0, 0, 2, 6]
    )
    weight_figures.weight_distributions([layer], "a trial", Path())
    (filled, before, _), (steps, after, edges) = histograms(saved[0].axes[0])
    assert filled.get_fill()
    assert not steps.get_fill()
    assert list(before) == [25, 25, 25, 25]
    assert list(after) == [0, 0, 25, 75]
    assert list(edges) == layer.edges


def test_a_network_that_is_not_trained_has_its_weights_alone(saved: list[Figure]) -> None:
    weight_figures.weight_distributions([weights()], "a network", Path(), trained=False)
    axes = saved[0].axes[0]
    ((filled, percent, _),) = histograms(axes)
    assert filled.get_fill()
    assert sum(percent) == pytest.approx(100)
    assert across(axes, weight_figures.LEVEL_LINE) == [-0.5, 0.0, 0.5]
    assert legend(saved[0]) == ["before training", "levels", "thresholds"]


def test_few_weights_have_fewer_bins_and_lose_none(saved: list[Figure]) -> None:
    many = weights()
    few = many.model_copy(update={"before": [0] * 49 + [60, 3] + [0] * 49, "after": [1] * 100})
    weight_figures.weight_distributions([many, few], "a trial", Path())
    counts = []
    for axes in saved[0].axes:
        for _, percent, edges in histograms(axes):
            assert sum(percent) == pytest.approx(100)
            assert (edges[0], edges[-1]) == (-1, 1)
        counts.append(len(percent))
    assert 4 < counts[1] < counts[0] <= 50


def test_distributions_show_levels_and_dotted_thresholds(saved: list[Figure]) -> None:
    weight_figures.weight_distributions([weights()], "a trial", Path())
    axes = saved[0].axes[0]
    assert across(axes, weight_figures.LEVEL_LINE) == [-0.5, 0.0, 0.5]
    assert across(axes, weight_figures.THRESHOLD_LINE) == [-0.25, 0.25]
    assert {
        line.get_linestyle() for line in lines(axes, color=weight_figures.THRESHOLD_LINE["color"])
    } == {":"}
    assert legend(saved[0]) == ["before training", "after training", "levels", "thresholds"]


@pytest.mark.parametrize(
    ("levels", "drawn"),
    [
        ((), []),
        ((-1.5, 1.5), [-1.5, 1.5]),
        ((-60.0, -0.2, 0.2, 60.0), [-0.2, 0.2]),
        (tuple(np.linspace(-1, 1, 255)), []),
    ],
    ids=["differ by filter", "outside", "far outside", "8 bits"],
)
def test_levels_never_hide_the_weights(
    saved: list[Figure], levels: tuple[float, ...], drawn: list[float]
) -> None:
    layer = weights(levels=levels).model_copy(update={"thresholds": []})
    weight_figures.weight_distributions([layer], "a trial", Path())
    axes = saved[0].axes[0]
    low, high = axes.get_xlim()
    assert across(axes, weight_figures.LEVEL_LINE) == drawn
    assert all(low < level < high for level in drawn)
    assert low < -1 < 1 < high < 2
    assert ("levels" in legend(saved[0])) == bool(drawn)


def test_no_layers_draw_nothing(tmp_path: Path) -> None:
    assert weight_figures.weight_distributions([], "a trial", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_name_too_long_for_its_panel_keeps_its_end(saved: list[Figure]) -> None:
    name = "features.denseblock1.denselayer12.conv2"
    weight_figures.weight_distributions([weights(name)] * 4, "a trial", Path())
    shown = saved[0].axes[0].get_title()
    assert shown.startswith("…")
    assert name.endswith(shown[1:])
    assert shown.endswith("denselayer12.conv2")
    assert overlapping(saved[0]) == []
