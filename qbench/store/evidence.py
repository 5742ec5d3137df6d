"""What is recorded of a trial beside its numbers, fit to be published."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.errors import QbenchError
from qbench.store.mlflow import Store
from qbench.store.tags import ENVIRONMENT

if TYPE_CHECKING:
    from mlflow.entities import Run

_FOLDERS = re.compile(r'(?<=File ")[^"\n]*[/\\]')  # of a traceback: they name people and machines


@dataclass(frozen=True)
class Evidence:
    """What is known of a trial that has ended.

    Attributes:
        trial: what was trained, as JSON.
        environment: what it ran on.
        audit: the levels counted in each tensor, as JSON; empty where none are kept.
        log: where its code failed: a traceback without folders, or ''.
    """

    trial: dict[str, Any]
    environment: dict[str, str]
    audit: list[dict[str, Any]]
    log: str


def evidence_of(store: Store, run: Run) -> Evidence:
    """What a run recorded.

    Args:
        store: which has it.
        run: of a trial that has finished or failed.
    """
    tags = run.data.tags
    failed = run.info.status == "FAILED"
    return Evidence(
        trial=json.loads(tags["qbench.trial"]),
        environment={
            name.removeprefix(ENVIRONMENT): value
            for name, value in sorted(tags.items())
            if name.startswith(ENVIRONMENT)
        },
        audit=json.loads(_if_kept(store, run, "audit.json") or "[]"),
        log=_FOLDERS.sub("", _if_kept(store, run, "traceback.txt") if failed else ""),
    )


def _if_kept(store: Store, run: Run, artifact: str) -> str:
    """What an artifact holds; '' where there is none, as of a trial that no code failed."""
    try:
        return store.text(run, artifact)
    except QbenchError:
        return ""
