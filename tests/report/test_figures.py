from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from qbench.report.figures import accuracy, training
from qbench.report.figures import style as figure_style
from qbench.report.figures import weights as weight_figures
from qbench.spec.result import QuantizerCurve, WeightDistribution

Suite = tuple[pd.DataFrame, pd.DataFrame]
LABELS = ("STE", "TWN", "DoReFa-Net", "LQ-Nets")
WIDTHS = ("1/32", "2/32", "1/1", "2/2")


def suite(models: tuple[str, ...] = ("net",), seeds: int = 3, epochs: int = 5) -> Suite:
    """Finished trials with plausible numbers, and their histories."""
    random = np.random.default_rng(0)
    rows, history = [], []
    cells = [("Full precision", "32/32")] + [(label, bits) for label in LABELS for bits in WIDTHS]
    for model in models:
        for label, bits in cells:
            for seed in range(seeds):
                key = f"{model}/{label}/{bits}/{seed}"
                top1 = 98 - random.random() - WIDTHS.index(bits) if bits in WIDTHS else 99.0
                method = label.lower() if bits in WIDTHS else "fp32"
                rows.append(
                    {
                        "key": key,
                        "method": method,
                        "label": label,
                        "model": model,
                        "dataset": "digits",
                        "bits": bits,
                        "seed": seed,
                        "status": "done",
                        "top1": top1,
                        "audit": "",
                    }
                )
                history += [
                    {"key": key, "epoch": epoch, "top1": top1 - 20 / epoch}
                    for epoch in range(1, epochs + 1)
                ]
    return pd.DataFrame(rows), pd.DataFrame(history)


def draw(trials: pd.DataFrame, histories: pd.DataFrame, folder: Path) -> list[Path]:
    """Both figures."""
    return [
        *accuracy.accuracy_by_bits(trials, folder),
        *training.training_curves(trials, histories, folder),
    ]


def size(path: Path) -> tuple[int, ...]:
    """Height and width of a picture."""
    return tuple(matplotlib.image.imread(path).shape[:2])


def changed(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Suite:
    trials, histories = suite()
    return change(trials), histories


def test_figures_are_png_and_svg(tmp_path: Path) -> None:
    paths = draw(*suite(), tmp_path)
    assert [path.name for path in paths] == [
        *("accuracy_by_bits.png", "accuracy_by_bits.svg"),
        *("training_curves.png", "training_curves.svg"),
    ]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for png, svg in (paths[:2], paths[2:]):
        assert min(size(png)) > 300
        assert svg.read_text(encoding="utf-8").startswith("<?xml")


def test_the_same_trials_give_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in draw(*suite(), tmp_path)]
    with plt.style.context("dark_background"):  # somebody's own settings change nothing
        assert [path.read_bytes() for path in draw(*suite(), tmp_path)] == first
    assert b"<dc:date>" not in first[1]


def test_no_figure_stays_open(tmp_path: Path) -> None:
    draw(*suite(), tmp_path)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("status", ["failed", "missing", "unsupported"])
def test_nothing_finished_draws_nothing(tmp_path: Path, status: str) -> None:
    trials, histories = changed(lambda t: t.assign(status=status, top1=float("nan")))
    assert draw(trials, histories.iloc[:0], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_full_precision_alone_draws_nothing(tmp_path: Path) -> None:
    trials, histories = suite()
    assert draw(trials[trials["method"] == "fp32"], histories, tmp_path) == []


def test_trials_without_histories_have_no_curves(tmp_path: Path) -> None:
    trials, histories = suite()
    assert training.training_curves(trials, histories.iloc[:0], tmp_path) == []


def test_each_model_has_a_panel(tmp_path: Path) -> None:
    one = size(accuracy.accuracy_by_bits(suite()[0], tmp_path)[0])
    two = size(accuracy.accuracy_by_bits(suite(("net", "other"))[0], tmp_path)[0])
    assert two[1] == one[1]
    assert two[0] > 1.5 * one[0]


def test_widths_that_do_not_fit_beside_each_other_go_on_below(tmp_path: Path) -> None:
    few = suite()[0]
    methods = [
        few[few["method"] != "fp32"].assign(label=f"method {i}", method=f"method_{i}")
        for i in range(30)
    ]
    many = pd.concat([few, *methods], ignore_index=True)
    tall, short = (size(accuracy.accuracy_by_bits(each, tmp_path)[0]) for each in (many, few))
    assert tall[0] > 1.5 * short[0]
    assert tall[1] < 2.5 * short[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "given",
    [
        suite(seeds=1),
        suite(epochs=1),
        changed(lambda t: t[t["method"] != "fp32"]),
        changed(lambda t: t[:4]),
        changed(lambda t: t.assign(top1=100.0)),
        changed(lambda t: t.assign(audit="9 levels, 4 promised")),
        changed(lambda t: t.assign(label="$a_b$ " + t["label"])),
    ],
    ids=["one seed", "one epoch", "no fp32", "one point", "perfect", "not k-bit", "odd labels"],
)
def test_odd_suites_are_drawn(tmp_path: Path, given: Suite) -> None:
    assert len(draw(*given, tmp_path)) == 4


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


def points(*means: float, std: float = 0.1) -> pd.DataFrame:
    return pd.DataFrame({"mean": means, "std": std})


def test_the_axis_shows_every_point() -> None:
    low, high = accuracy._limits(points(97.0, 97.5, 98.0, 98.5), full=99.0)
    assert 96 < low < 96.9
    assert 99 < high < 99.5


def test_an_outlier_does_not_squash_the_rest() -> None:
    low, _ = accuracy._limits(points(10.0, 97.0, 97.2, 97.5, 98.0, 98.5), full=99.0)
    assert 96 < low < 96.9


def test_many_bad_points_are_no_outliers() -> None:
    low, _ = accuracy._limits(points(10.0, 12.0, 15.0, 97.5, 98.0, 98.5), full=99.0)
    assert low < 10


def test_without_full_precision_the_axis_ends_above_the_points() -> None:
    _, high = accuracy._limits(points(97.0, 98.0), full=float("nan"))
    assert 98.1 < high < 98.5


def test_points_of_a_width_stand_side_by_side() -> None:
    frame = pd.DataFrame({"label": ["B", "A", "C", "A"], "bits": ["1/1", "1/1", "1/1", "2/2"]})
    b, a, c, alone = accuracy._dodge(frame, ["A", "B", "C"])
    assert -0.5 < a < b < c < 0.5
    assert b == alone == 0


def test_every_method_looks_different() -> None:
    frame = pd.DataFrame({"method": "m", "label": [f"method {i}" for i in range(12)]})
    looks = figure_style.looks_of(frame)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 12
    assert len({look["marker"] for look in looks.values()}) == 12


def test_text_is_readable_in_print() -> None:
    sizes = {name: value for name, value in figure_style.STYLE.items() if name.endswith("size")}
    assert {name: v for name, v in sizes.items() if "marker" not in name and float(v) < 9} == {}


def with_soft(histories: pd.DataFrame, label: str = "STE", gap: float = 2.0) -> pd.DataFrame:
    """Histories in which one method has soft quantizers, better by a gap that closes."""
    soft = histories["top1"] + gap / histories["epoch"]
    return histories.assign(soft_top1=soft.where(histories["key"].str.contains(f"/{label}/")))


def weights(
    layer: str = "conv", levels: tuple[float, ...] = (-0.5, 0.0, 0.5), bins: int = 100
) -> WeightDistribution:
    """A layer of 10,000 weights in a bell, which training makes narrower."""
    edges = np.linspace(-1, 1, bins + 1)
    normal = np.random.default_rng(0).normal(size=10_000)
    return WeightDistribution(
        layer=layer,
        edges=edges.tolist(),
        before=np.histogram(normal * 0.25, edges)[0].tolist(),
        after=np.histogram(normal * 0.15, edges)[0].tolist(),
        levels=list(levels),
        thresholds=((np.array(levels[1:]) + levels[:-1]) / 2).tolist(),
    )


def curve(epochs: tuple[int, ...] = (1, 3, 10, 20)) -> QuantizerCurve:
    """A ternary staircase that gets harder."""
    x = np.linspace(-1, 1, 401)
    soft = {t: (np.tanh(4 * t * (x - 0.25)) + np.tanh(4 * t * (x + 0.25))) / 4 for t in epochs}
    hard = ((x > 0.25) * 1.0 - (x < -0.25)) / 2
    values = {epoch: y.tolist() for epoch, y in soft.items()}
    return QuantizerCurve(layer="conv", x=x.tolist(), soft=values, hard=hard.tolist())


def draw_trial(folder: Path, name: str = "a trial") -> list[Path]:
    """The figures that show one method, or one trial, from within."""
    trials, histories = suite()
    return [
        *training.soft_and_hard(trials, with_soft(histories), folder),
        *weight_figures.quantization_function(curve(), weights(), name, folder),
        *weight_figures.weight_distributions([weights(), weights("fc")], name, folder),
    ]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, instead of their files."""
    kept: list[Figure] = []

    def keep(figure: Figure, stem: str, folder: Path) -> list[Path]:
        kept.append(figure)
        return []

    for module in (training, weight_figures):
        monkeypatch.setattr(module, "save", keep)
    return kept


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(axes: Axes, **look: object) -> list[Line2D]:
    """The lines of a panel that look like this."""
    return [
        line
        for line in axes.get_lines()
        if all(getattr(line, f"get_{name}")() == value for name, value in look.items())
    ]


def data(line: Line2D) -> tuple[Any, Any]:
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def across(axes: Axes, look: dict[str, Any]) -> list[float]:
    """Where lines from edge to edge cross a panel."""
    found = lines(axes, color=look["color"], linewidth=look["linewidth"])
    return [float(ends[0]) for line in found for ends in data(line) if ends[0] == ends[1]]


def histograms(axes: Axes) -> list[tuple[StepPatch, Any, Any]]:
    """Each histogram of a panel, with its values and edges."""
    found: list[Any] = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    return [(p, p.get_data().values, p.get_data().edges) for p in found]


def texts(figure: Figure) -> list[Text]:
    """What a reader reads."""
    found = [*figure.legends[0].get_texts(), *figure.texts]
    for axes in figure.axes:
        found += [text for text in axes.get_children() if isinstance(text, Text)]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [axis.label, *(tick.label1 for tick in ticks)]
    return [text for text in found if text.get_visible() and text.get_text()]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Texts that stand on one another or stick out of the figure."""
    canvas = FigureCanvasAgg(figure)
    with plt.rc_context(figure_style.STYLE):  # ticks are made when they are drawn
        canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts(figure)]
    found = [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)]
    (left, bottom), (right, top) = figure.bbox.get_points()
    for name, box in boxes:
        if box.x0 < left or box.x1 > right or box.y0 < bottom or box.y1 > top:
            found.append((name, "the edge"))
    return found


def test_figures_of_a_trial_are_png_and_svg(tmp_path: Path) -> None:
    paths = draw_trial(tmp_path)
    stems = ("soft_and_hard", "quantization_function", "weight_distributions")
    assert [path.name for path in paths] == [f"{s}.{end}" for s in stems for end in ("png", "svg")]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert all(min(size(path)) > 300 for path in paths[::2])
    assert plt.get_fignums() == []


def test_the_same_trial_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in draw_trial(tmp_path)]
    with plt.style.context("dark_background"):
        assert [path.read_bytes() for path in draw_trial(tmp_path)] == first
    assert not any(b"<dc:date>" in content for content in first)


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


@pytest.mark.filterwarnings("error")
def test_odd_names_are_text(saved: list[Figure]) -> None:
    trials, histories = suite(epochs=1)
    trials = trials.assign(label="$a_b$ " + trials["label"])
    training.soft_and_hard(trials, with_soft(histories), Path())
    weight_figures.quantization_function(curve((1,)), weights("$w_1"), "$x_y$ 50%", Path())
    weight_figures.weight_distributions([weights("$w_1$")], "", Path())
    gap, function, _ = saved
    for figure in saved:
        assert overlapping(figure) == []
        assert not any(text.get_parse_math() for text in texts(figure))
    assert legend(gap)[0] == "$a_b$ STE"
    assert "$x_y$ 50%" in [text.get_text() for text in texts(function)]


@pytest.mark.parametrize("count", [1, 2, 5, 19])
def test_no_text_stands_on_another(saved: list[Figure], count: int) -> None:
    names = [f"layer{i}.0.downsample.{i}" for i in range(count)]
    layers = [weights(name, levels=(-0.5, 0.5)) for name in names]
    for i, layer in enumerate(layers):  # axes with numbers of any length
        layer.edges = [edge * 0.7**i for edge in layer.edges]
        layer.levels = [level * 0.7**i for level in layer.levels]
    title = "quantization_networks 3(±4)/32 resnet18 imagenet seed 0 " * 3
    weight_figures.weight_distributions(layers, title, Path())
    weight_figures.quantization_function(curve((1, 2, 3, 5, 9, 20)), layers[0], title, Path())
    trials, histories = suite(tuple(f"net{i}" for i in range(count)), seeds=1)
    training.soft_and_hard(trials, with_soft(histories), Path())
    for figure in saved:
        assert overlapping(figure) == []
