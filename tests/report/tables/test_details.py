from __future__ import annotations

from pathlib import Path

from tests.helpers.tables import (
    rich,
    written,
)


def test_a_claim_is_told_beside_the_measurement(tmp_path: Path) -> None:
    text = written(tmp_path, *rich())["leaderboard.md"]
    assert "## Measured and published: net on digits" in text
    (line,) = [line for line in text.splitlines() if "| short by" in line]
    assert [part.strip() for part in line.strip("|").split("|")] == [
        *("B", "1/32", "3", "96.00", "2.48", "*99.5*", "-3.50", "short by 3.50"),
        r"a_b & c",
    ]


def test_protocol_and_cost_are_told_for_each_result(tmp_path: Path) -> None:
    text = written(tmp_path, *rich())["details.md"]
    assert "Alike in all rows: bits 1/32; weight levels 3; first layer 8/8; epochs 20" in text
    line = next(line for line in text.splitlines() if line.startswith("| B") and "16.0×" in line)
    cells = [part.strip() for part in line.strip("|").split("|")]
    assert {"96.00", "0.5", "16.0×", "2.00", "32.0×", "k-bit"} <= set(cells)
