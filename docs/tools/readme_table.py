"""Write the leaderboard in the README: the results of a suite as one small table.

``python docs/tools/readme_table.py`` writes the table between its two markers. A test checks that
the README matches the results.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pandas as pd

from qbench.report.page.details import value
from qbench.report.summary import records
from qbench.spec.trial import FP32

README = Path(__file__).parents[2] / "README.md"
RESULTS = README.parent / "results" / "digits_start" / "leaderboard.csv"
_BETWEEN = re.compile(
    r"(?<=<!-- leaderboard: docs/tools/readme_table.py writes it -->\n).*?(?=<!-- end -->)",
    re.DOTALL,
)


def table(results: pd.DataFrame) -> str:
    """Return a Markdown table with a row per method, a column per width, and a caption."""
    rows = records(results)
    full = next(row for row in rows if row["method"] == FP32)
    rows = [row for row in rows if row["method"] != FP32]  # without full-precision bases
    bits = list(dict.fromkeys(row["bits"] for row in rows))
    lines = [["method", *bits], ["---", *["---:"] * len(bits)]]
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = {row["bits"]: row for row in rows if row["label"] == label}
        lines.append([label, *(_cell(cells[width]) for width in bits)])
    caption = (
        f"Top-1 accuracy in %, mean ± standard deviation over {full['seeds']} seeds. Columns are "
        f"bits of weights/activations. Full precision reaches {value(full)}."
    )
    if any(row["bold"] for row in rows):
        caption += (
            " Bold marks the best of a column, where a moderated paired t-test over seeds tells it "
            "apart from every other row."
        )
    else:
        caption += (
            " In no column does a moderated paired t-test over seeds tell the best apart from "
            "every other row."
        )
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f"\n\n{textwrap.fill(caption, 100)}\n"
    )


def _cell(row: dict[str, object]) -> str:
    text = value(row).replace(" ", "\u00a0")  # never broken at the ±
    return f"**{text}**" if row["bold"] else text


def current() -> str:
    """Return the README with the table of the current results."""
    found = table(pd.read_csv(RESULTS))
    return _BETWEEN.sub(lambda _: found, README.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    README.write_text(current(), encoding="utf-8")
