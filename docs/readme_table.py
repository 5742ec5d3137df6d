"""The leaderboard in the README: a suite's results as one small table.

``python docs/readme_table.py`` writes it between its two markers; a test checks that it is there as
the trials have it.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pandas as pd

from qbench.page_details import value
from qbench.summary import FULL_PRECISION, records

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "results" / "digits_start" / "leaderboard.csv"
_BETWEEN = re.compile(
    r"(?<=<!-- leaderboard: docs/readme_table.py writes it -->\n).*?(?=<!-- end -->)", re.DOTALL
)


def table(results: pd.DataFrame) -> str:
    """Return Markdown: methods down, widths across, and a line that says what the numbers are."""
    rows = records(results)
    full = next(row for row in rows if row["method"] == FULL_PRECISION)
    rows.remove(full)
    bits = list(dict.fromkeys(row["bits"] for row in rows))
    lines = [["method", *bits], ["---", *["---:"] * len(bits)]]
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = {row["bits"]: row for row in rows if row["label"] == label}
        lines.append([label, *(_cell(cells[width]) for width in bits)])
    told = (
        f"Top-1 accuracy in %, mean ± standard deviation over {full['seeds']} seeds, by bits of "
        f"weights/activations; full precision has {value(full)}. Bold is the best of a column, "
        "where a paired test over seeds tells every other row from it."
    )
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f"\n\n{textwrap.fill(told, 100)}\n"
    )


def _cell(row: dict[str, object]) -> str:
    text = value(row).replace(" ", "\u00a0")  # never broken at the ±
    return f"**{text}**" if row["bold"] else text


def current() -> str:
    """The README with the table of the present results."""
    found = table(pd.read_csv(RESULTS))
    return _BETWEEN.sub(lambda _: found, README.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    README.write_text(current(), encoding="utf-8")
