"""What all figures have in common: their files, their looks and their texts."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

from qbench.report.figures import accuracy, training
from qbench.report.figures import style as figure_style
from qbench.report.figures import weights as weight_figures
from qbench.report.summary import summarise
from tests.helpers.figures import (
    Suite,
    changed,
    curve,
    legend,
    overlapping,
    size,
    suite,
    texts,
    weights,
    with_soft,
)


def draw(trials: pd.DataFrame, histories: pd.DataFrame, folder: Path) -> list[Path]:
    """Both figures."""
    return [
        *accuracy.accuracy_by_bits(summarise(trials), folder),
        *training.training_curves(trials, histories, folder),
    ]


def test_figures_are_png_and_svg(tmp_path: Path) -> None:
    paths = draw(*suite(), tmp_path)
    assert [path.name for path in paths] == [
        *("accuracy_by_bits.png", "accuracy_by_bits.svg"),
        *("training_curves.png", "training_curves.svg"),
    ]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for png, svg in (paths[:2], paths[2:]):
        assert min(size(png)) > 200
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


def test_every_method_looks_different() -> None:
    frame = pd.DataFrame({"method": "m", "label": [f"method {i}" for i in range(12)]})
    looks = figure_style.looks_of(frame)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 12
    assert len({look["marker"] for look in looks.values()}) == 12


def test_text_is_readable_in_print() -> None:
    sizes = {name: value for name, value in figure_style.STYLE.items() if name.endswith("size")}
    assert {name: v for name, v in sizes.items() if "marker" not in name and float(v) < 9} == {}


def draw_trial(folder: Path, name: str = "a trial") -> list[Path]:
    """The figures that show one method, or one trial, from within."""
    trials, histories = suite()
    return [
        *training.soft_and_hard(trials, with_soft(histories), folder),
        *weight_figures.quantization_function(curve(), weights(), name, folder),
        *weight_figures.weight_distributions([weights(), weights("fc")], name, folder),
    ]


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


def test_the_best_of_each_panel_have_colours_of_their_own() -> None:
    names = [f"m{i:02}" for i in range(12)]
    first = pd.Series(range(12), index=pd.MultiIndex.from_product([["1/1"], names]))
    second = pd.Series([99.0, 1.0], index=pd.MultiIndex.from_product([["2/2"], ["m00", "m01"]]))
    looks = {name: {"color": "black", "marker": "o"} for name in names}
    found, named = figure_style.apart(looks, pd.concat([first.astype(float), second]))
    own = [name for name in names if found[name] is not figure_style.OTHERS]
    assert own == ["m00", "m01", *names[-6:]]  # m00 is last of the first panel, best of the second
    assert len({found[name]["color"] for name in own}) == 8
    assert list(named) == [*own, "other methods"]
