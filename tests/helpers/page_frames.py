"""Frames that pages are tested with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from qbench.report.page import page
from qbench.report.presentation import Presentation
from qbench.report.summary import summarise
from qbench.report.tables.details import DetailsTable
from qbench.report.tables.table import tables as tables_of
from qbench.store.evidence import Evidence
from tests.helpers.frames import full, trials

HOSTILE = """</script><img src=x onerror="window.broken=1">'"{{ 7*7 }}&lt;<!--"""


def evidence(
    frame: pd.DataFrame, environments: Sequence[dict[str, Any]] = ({"torch": "2.0"},), **more: Any
) -> dict[str, Evidence]:
    """Return evidence of the finished trials of a frame, by key.

    Each has one of the environments, which are repeated in order.
    """
    ended = frame[frame["status"].isin(["done", "failed"])]
    count = {"layer": "conv", "tensor": "weight", "levels": 3, "promised": 4, "scope": "layer"}
    known = {
        "trial": {"method": "a", "recipe": {"lr": 0.5, "milestones": [3, 4]}},
        "audit": [count],
        "log": "",
        **more,
    }
    return {
        str(key): Evidence(**{"environment": environment, **known})
        for key, environment in zip(ended["key"], itertools.cycle(environments), strict=False)
    }


def history(key: str, epochs: int) -> pd.DataFrame:
    """Curves of one trial."""
    rows = [
        {"key": key, "epoch": e, "train_loss": 1 / e, "top1": 100 - 1 / e, "soft_top1": 99.0}
        for e in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows, columns=["key", "epoch", "train_loss", "top1", "soft_top1"])


def render(
    *cells: pd.DataFrame,
    histories: pd.DataFrame | None = None,
    pictures: dict[str, bytes] | None = None,
    title: str = "Title",
    beneath: Sequence[DetailsTable] = (),
    **known: Any,
) -> str:
    """The page of some cells."""
    frame = pd.concat(cells, ignore_index=True)
    presentation, summary = (
        Presentation("suite", title, chance=10.0, date="2026-03-31"),
        summarise(frame),
    )
    return page.render(
        presentation,
        tables_of(presentation, frame, summary),
        summary,
        frame,
        history("", 0) if histories is None else histories,
        evidence(frame, **known),
        pictures or {},
        summary.to_csv(index=False),
        beneath,
    )


def some(name: str = HOSTILE) -> list[pd.DataFrame]:
    """Cells of every kind: numbers, dashes, failures, and names that would be markup."""
    return [
        full(99.0, 99.5, 99.2),
        trials("Alpha", 91.0, 92.0, 93.0),
        trials("Beta", 97.0, 98.0, 98.5),
        trials("Beta", 95.0, 95.5, 96.5, bits="2/2"),
        trials("Alpha", *["unsupported"] * 3, bits="2/2", reason="weights only"),
        trials("Gamma", *["failed"] * 3, reason=f"broke: {name}"),
        trials(name, 50.0, 60.0, 70.0),
    ]
