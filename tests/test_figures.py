from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from qbench import figures

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
        *figures.accuracy_by_bits(trials, folder),
        *figures.training_curves(trials, histories, folder),
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
    assert figures.training_curves(trials, histories.iloc[:0], tmp_path) == []


def test_each_model_has_a_panel(tmp_path: Path) -> None:
    one = size(figures.accuracy_by_bits(suite()[0], tmp_path)[0])
    two = size(figures.accuracy_by_bits(suite(("net", "other"))[0], tmp_path)[0])
    assert two[1] == one[1]
    assert two[0] > 1.5 * one[0]


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
        figures, "_curves_panel", lambda _, curves, __: drawn.append(curves["bits"].iloc[0])
    )
    trials, histories = suite()
    unsupported = (trials["label"] == "STE") & (trials["bits"] == "2/32")
    trials = trials.assign(status=trials["status"].mask(unsupported, "unsupported"))
    figures.training_curves(trials, histories, tmp_path)
    assert drawn == list(WIDTHS)


def points(*means: float, std: float = 0.1) -> pd.DataFrame:
    return pd.DataFrame({"mean": means, "std": std})


def test_the_axis_shows_every_point() -> None:
    low, high = figures._limits(points(97.0, 97.5, 98.0, 98.5), full=99.0)
    assert 96 < low < 96.9
    assert 99 < high < 99.5


def test_an_outlier_does_not_squash_the_rest() -> None:
    low, _ = figures._limits(points(10.0, 97.0, 97.2, 97.5, 98.0, 98.5), full=99.0)
    assert 96 < low < 96.9


def test_many_bad_points_are_no_outliers() -> None:
    low, _ = figures._limits(points(10.0, 12.0, 15.0, 97.5, 98.0, 98.5), full=99.0)
    assert low < 10


def test_without_full_precision_the_axis_ends_above_the_points() -> None:
    _, high = figures._limits(points(97.0, 98.0), full=float("nan"))
    assert 98.1 < high < 98.5


def test_points_of_a_width_stand_side_by_side() -> None:
    frame = pd.DataFrame({"label": ["B", "A", "C", "A"], "bits": ["1/1", "1/1", "1/1", "2/2"]})
    b, a, c, alone = figures._dodge(frame, ["A", "B", "C"])
    assert -0.5 < a < b < c < 0.5
    assert b == alone == 0


def test_every_method_looks_different() -> None:
    frame = pd.DataFrame({"method": "m", "label": [f"method {i}" for i in range(12)]})
    looks = figures._looks(frame)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 12
    assert len({look["marker"] for look in looks.values()}) == 12


def test_text_is_readable_in_print() -> None:
    sizes = {name: value for name, value in figures.STYLE.items() if name.endswith("size")}
    assert {name: v for name, v in sizes.items() if "marker" not in name and float(v) < 9} == {}
