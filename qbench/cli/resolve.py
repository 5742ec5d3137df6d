"""Print which neighbouring rows further seeds tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from qbench.files import write_atomic
from qbench.report.looks import LOOKS, Neighbours
from qbench.report.power import points

FILE = "neighbours.csv"


def show(console: Console, found: Sequence[Neighbours], within: float) -> None:
    """Print the verdicts on neighbouring rows.

    Args:
        console: The console.
        found: Pairs of rows, in the order of the columns.
        within: Rows are tied if their difference is less than this, in points.
    """
    if not found:
        console.print("No two rows of a column have the five seeds of the first look.")
        return
    for model in dict.fromkeys(pair.model for pair in found):
        table = Table(
            box=box.SIMPLE_HEAD, title=f"{model}: neighbouring rows", title_justify="left"
        )
        for name in ("bits", "better", "worse", "seeds", "difference", "p (Holm)", ""):
            right = name in ("seeds", "difference", "p (Holm)")
            table.add_column(name, justify="right" if right else "left")
        for pair in found:
            if pair.model == model:
                difference = f"{points(pair.difference)} ± {points(pair.margin)}"
                p = f"{pair.p:.3f}" if pair.p == pair.p else "–"
                word = "told apart" if pair.verdict == "told" else pair.verdict
                table.add_row(
                    pair.bits, pair.better, pair.worse, str(pair.seeds), difference, p, word
                )
        console.print(table)
    told, tied, still = (
        sum(pair.verdict == verdict for pair in found) for verdict in ("told", "tied", "open")
    )
    looks = ", ".join(f"{count} seeds at {level:g}" for count, level in LOOKS.items())
    console.print(
        f"Of {len(found)} pairs of neighbours {told} are told apart, {tied} are tied within "
        f"{within:g} points, and {still} are open. Looks: {looks}. ±: interval at the level of the "
        "look. A difference that an early look tells apart is on average larger than the true one.",
        soft_wrap=True,
    )


def write(found: Sequence[Neighbours], folder: Path) -> Path:
    """Write the verdicts as a CSV file, one row for each pair.

    Args:
        found: The pairs.
        folder: Folder of the suite's tables.

    Returns:
        The file, `FILE`.
    """
    columns = list(Neighbours.__dataclass_fields__)
    frame = pd.DataFrame([asdict(pair) for pair in found], columns=columns)
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomic(folder / FILE) as scratch:
        scratch.write_text(
            frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"), encoding="utf-8"
        )
    return folder / FILE
