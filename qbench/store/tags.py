"""Names of the tags and metrics of a run, and functions that read a run from them alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qbench.spec.result import CodeFingerprint, Shares

if TYPE_CHECKING:
    from qbench.store.run import Run

AUDIT = "qbench.audit"
BEFORE = "qbench.before_reestimation"  # metrics before statistics were estimated again, as JSON
CLIPPED = "qbench.clipped"
COVERAGE = "qbench.coverage"  # shares of the network that are quantized, as JSON
CHECK = "qbench.check"  # marks the run that checks write to
CODE = {"syntax": "qbench.syntax", "revision": "qbench.revision", "numerics": "qbench.numerics"}
DIGEST = "qbench.digest"
ENVIRONMENT = "environment."  # prefix of the tags of the environment
IMPORTED = "qbench.imported"
KEY = "qbench.key"
LEVELS = "qbench.levels"
PLACED = "qbench.placed"
PREDICTIONS = "qbench.predictions"  # hash of the packed predictions
REASON = "qbench.reason"
RESULT = "qbench.result"  # hash of the result, which tells results of one trial apart
SOURCE = "qbench.source"  # key of the weights that the trial started from
SET_ASIDE = "qbench.set_aside"
STATUS = "qbench.status"
TRIAL = "qbench.trial"
UNREADABLE = "qbench.unreadable"
FINAL = "final_"  # prefix of the metrics after the last epoch
EDITED = "what is stored of it was changed by hand"
_SEALED = (TRIAL, STATUS, AUDIT, "qbench.method_source")
_MAX_FLOAT = sys.float_info.max  # MLflow stores it in place of infinity


def was_imported(run: Run) -> bool:
    """Return whether a run was trained elsewhere, so that the store has no weights of it."""
    return IMPORTED in run.tags


def was_changed(run: Run) -> bool:
    """Return whether the content of a run was edited after it was recorded.

    Runs without a recorded digest count as unchanged.
    """
    recorded = run.tags.get(DIGEST)
    return recorded is not None and recorded != digest(run.tags, run.metrics)


def digest(tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    """Compute the SHA-256 of the part of a run that tables show.

    Args:
        tags: Tags of the run. The trial, status, audit, code fingerprint, start, predictions,
            coverage and metrics before a re-estimation count.
        metrics: Metrics of the run. The final metrics and the durations in seconds count.

    Returns:
        Hexadecimal digest.
    """
    content = {name: tags.get(name, "") for name in _SEALED}
    later = (*CODE.values(), SOURCE, PREDICTIONS, COVERAGE, BEFORE)
    content |= {name: tags[name] for name in later if name in tags}
    content |= {
        name: "nan" if value != value else repr(max(-_MAX_FLOAT, min(_MAX_FLOAT, float(value))))
        for name, value in metrics.items()
        if name.startswith(FINAL) or name in ("seconds", "train_seconds")
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_of(run: Run) -> CodeFingerprint:
    """Return the fingerprint of the code that a run was trained with.

    Runs that were recorded before code had fingerprints count as revision 1.
    """
    tags = run.tags
    return CodeFingerprint.model_validate(
        {name: tags[tag] for name, tag in CODE.items() if tag in tags}
    )


def coverage_of(tags: Mapping[str, str]) -> Shares | None:
    """Return the shares that are quantized, from the tags of a run. None if it has none."""
    return Shares.model_validate_json(tags[COVERAGE]) if COVERAGE in tags else None


def before_reestimation(tags: Mapping[str, str]) -> dict[str, float]:
    """Return the metrics before statistics were estimated again, from the tags of a run, or {}."""
    found: dict[str, float] = json.loads(tags.get(BEFORE, "{}"))
    return found
