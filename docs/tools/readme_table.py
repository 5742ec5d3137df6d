"""Write the leaderboard in the README: the best rows of a suite as one small table.

``python docs/tools/readme_table.py`` writes the table between its two markers. A test checks that
the README matches the results.
"""

from __future__ import annotations

import re
import textwrap
from heapq import nlargest
from pathlib import Path

import pandas as pd

from qbench.report.page.details import value
from qbench.report.summary import records
from qbench.spec.trial import FP32

README = Path(__file__).parents[2] / "README.md"
SUITE = "fashion_quick"
RESULTS = README.parent / "results" / SUITE / "leaderboard.csv"
BEST = 3
ALWAYS = ("ste", "quantization_networks")
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
    labels = list(dict.fromkeys(row["label"] for row in rows))
    shown = {row["label"] for row in rows if row["method"] in ALWAYS}
    for width in bits:
        column = [row for row in rows if row["bits"] == width and row["n"]]
        shown |= {row["label"] for row in nlargest(BEST, column, key=lambda row: row["mean"])}
    lines = [["method", *bits], ["---", *["---:"] * len(bits)]]
    for label in labels:
        cells = {row["bits"]: row for row in rows if row["label"] == label}
        if label in shown:
            lines.append([label, *(_cell(cells[width]) for width in bits)])
    caption = (
        f"Fashion-MNIST at 14×14. Top-1 accuracy in %, mean ± standard deviation over "
        f"{full['seeds']} seeds. Columns are bits of weights/activations. Full precision reaches "
        f"{value(full)}. Shown are the best {BEST} of each column, STE and Quantization Networks, "
        f"of [{len(labels)} rows](results/{SUITE}/leaderboard.md). †: not a candidate for the best "
        "of its column (moderated paired t-test over seeds with Holm's correction)."
    )
    if any(row["bold"] for row in rows):
        caption += " Bold: the test tells the best apart from every other row."
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f"\n\n{textwrap.fill(caption, 100, break_long_words=False)}\n"
    )


def _cell(row: dict[str, object]) -> str:
    text = value(row).replace(" ", "\u00a0")  # never broken at the ±
    text = f"**{text}**" if row["bold"] else text
    return f"{text}\u00a0†" if row["standing"] == "worse" else text


def current() -> str:
    """Return the README with the table of the current results."""
    found = table(pd.read_csv(RESULTS))
    return _BETWEEN.sub(lambda _: found, README.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    README.write_text(current(), encoding="utf-8")
