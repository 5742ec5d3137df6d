"""Evidence of a trial for publication: its configuration, environment, audit and log."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.errors import QbenchError
from qbench.store.mlflow import Store
from qbench.store.recording import AUDIT_FILE, TRACEBACK_FILE
from qbench.store.tags import ENVIRONMENT

if TYPE_CHECKING:
    from qbench.store.run import Run

_FOLDERS = re.compile(r'(?<=File ")[^"\n]*[/\\]')  # folders in a traceback name people and machines


@dataclass(frozen=True)
class Evidence:
    """Evidence of a trial that has ended.

    Attributes:
        trial: Trial as JSON.
        environment: Software and hardware that it ran on, by name.
        audit: Level counts of each tensor as JSON. Empty if none are stored.
        log: Traceback without folders. Empty if no code failed.
    """

    trial: dict[str, Any]
    environment: dict[str, str]
    audit: list[dict[str, Any]]
    log: str


def evidence_of(store: Store, run: Run) -> Evidence:
    """Return the evidence that a run recorded.

    Args:
        store: Store that holds the run.
        run: Run of a trial that has finished or failed.
    """
    tags = run.tags
    failed = run.status == "FAILED"
    return Evidence(
        trial=store.trial(run).model_dump(mode="json"),
        environment={
            name.removeprefix(ENVIRONMENT): value
            for name, value in sorted(tags.items())
            if name.startswith(ENVIRONMENT)
        },
        audit=json.loads(_if_kept(store, run, AUDIT_FILE) or "[]"),
        log=_FOLDERS.sub("", _if_kept(store, run, TRACEBACK_FILE) if failed else ""),
    )


def _if_kept(store: Store, run: Run, artifact: str) -> str:
    """Return the text of an artifact, or an empty string if it cannot be fetched."""
    try:
        return store.text(run, artifact)
    except QbenchError:
        return ""
