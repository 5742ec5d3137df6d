from __future__ import annotations

import pandas as pd
from rich.console import Console

from qbench.cli import tables
from tests.helpers.frames import full, trials
from tests.helpers.tables import arranged


def shown(*cells: pd.DataFrame, width: int = 80) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        tables.show(console, arranged(*cells))
    return captured.get()


CELLS = [
    full(99.0, 99.5),
    *(trials("A" * 40, 90.0 + i, 91.0, bits=f"{i}/{i}") for i in range(1, 9)),
    *(trials("B", "unsupported", "unsupported", bits=f"{i}/{i}") for i in range(1, 9)),
]


def test_a_table_fits_the_width_and_shows_every_number() -> None:
    for width in (60, 80, 200):
        text = shown(*CELLS, width=width)
        assert max(map(len, text.splitlines())) <= width
        for i in range(1, 9):
            assert f"{i}/{i}" in text
            assert f"{(181.0 + i) / 2:.2f} ±" in text


def test_a_table_says_what_it_is_of_and_explains_its_marks() -> None:
    lines = shown(
        full(99.0, 99.5, 99.2),
        trials("A", 90.0, 91.0, 92.5),
        trials("B", 90.5, 90.8, 92.2),
        trials("C", 50.0, 51.5, 52.0),
    ).splitlines()
    assert lines[1] == "net on digits; full precision 99.23 ± 0.25 (n = 3)"
    assert lines[2].split() == ["method", "1/32"]
    assert lines[5].split() == ["C", "51.17", "±", "1.04", "†"]
    assert lines[-2].startswith("†: not a candidate for the best")
    assert lines[-1].startswith("Differences that n = 3 seeds find")


def test_the_footnotes_of_a_table_are_printed_below_it() -> None:
    reason = "its weights have 1 bit"
    text = shown(trials("A", 90.0), trials("B", "unsupported", reason=reason))
    assert "– [1]" in text
    assert f"[1] {reason}" in text.splitlines()
    assert "footnotes of the file" not in text
    assert "[1]" not in shown(trials("A", 90.0))


def test_models_in_blocks_are_named() -> None:
    console = Console(width=80)
    cells = [trials("A", 90.0, model=model) for model in ("big", "small")]
    with console.capture() as captured:
        tables.show(console, arranged(*cells, third="blocks"))
    assert "big" in captured.get()
    assert "small" in captured.get()
