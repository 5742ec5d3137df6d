"""Write the page of columns, ``docs/columns.md``, from the list that the tables use.

``python docs/tools/columns_page.py`` writes it. A test checks that the page matches the list.
"""

from __future__ import annotations

from pathlib import Path

from qbench.report.columns import COLUMNS, TRIAL_COLUMNS, Column

PAGE = Path(__file__).parents[1] / "columns.md"


def columns_page() -> str:
    """Return the page."""
    lines = [
        "# Columns",
        "",
        "This page describes every column of `leaderboard.csv` and `trials.csv`. "
        "`python docs/tools/columns_page.py` generates it.",
        "",
        "## leaderboard.csv: one row per result",
        "",
        "A result is a row of the table at one width, on one model and data set, over its seeds.",
    ]
    for group in dict.fromkeys(column.group for column in COLUMNS):
        lines += [
            "",
            f"### {group.capitalize()}",
            "",
            "| column | in tables | meaning |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| `{column.name}` | {column.heading} | {column.about}{_best(column)} |"
            for column in COLUMNS
            if column.group == group
        ]
    lines += ["", "## trials.csv: one row per trial", "", "| column | meaning |", "| --- | --- |"]
    lines += [f"| `{name}` | {about} |" for name, about in TRIAL_COLUMNS.items()]
    return "\n".join(lines) + "\n"


def _best(column: Column) -> str:
    return f" {column.better.capitalize()} is better." if column.better else ""


if __name__ == "__main__":
    PAGE.write_text(columns_page(), encoding="utf-8")
