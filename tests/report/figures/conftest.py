from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from qbench.report.figures import accuracy, pareto, training, tuning
from qbench.report.figures import weights as weight_figures


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, instead of their files."""
    kept: list[Figure] = []

    def keep(figure: Figure, stem: str, folder: Path) -> list[Path]:
        kept.append(figure)
        return []

    for module in (accuracy, pareto, training, tuning, weight_figures):
        monkeypatch.setattr(module, "save", keep)
    return kept
