"""Names of the tags and metrics of a run, and functions that read a run from them alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping

from mlflow.entities import Run

from qbench.spec.result import CodeFingerprint
from qbench.spec.trial import Trial

ENVIRONMENT = "environment."  # prefix of the tags of the environment
FINAL = "final_"  # prefix of the metrics after the last epoch
IMPORTED = "qbench.imported"
_MAX_FLOAT = sys.float_info.max  # MLflow stores it in place of infinity
KEY = "qbench.key"
SET_ASIDE = "qbench.set_aside"
EDITED = "what is stored of it was changed by hand"
_SEALED = ("qbench.trial", "qbench.status", "qbench.audit", "qbench.method_source")
CODE = {"syntax": "qbench.syntax", "revision": "qbench.revision", "numerics": "qbench.numerics"}


def was_imported(run: Run) -> bool:
    """Return whether a run was trained elsewhere, so that the store has no weights of it."""
    return IMPORTED in run.data.tags


def was_changed(run: Run) -> bool:
    """Return whether the content of a run was edited after it was recorded.

    Runs without a recorded digest count as unchanged.
    """
    recorded = run.data.tags.get("qbench.digest")
    return recorded is not None and recorded != digest(run.data.tags, run.data.metrics)


def digest(tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    """Compute the SHA-256 of the part of a run that tables show.

    Args:
        tags: Tags of the run. The trial, status, audit and code fingerprint count.
        metrics: Metrics of the run. The final metrics and the durations in seconds count.

    Returns:
        Hexadecimal digest.
    """
    content = {name: tags.get(name, "") for name in _SEALED}
    content |= {name: tags[name] for name in CODE.values() if name in tags}
    content |= {
        name: "nan" if value != value else repr(max(-_MAX_FLOAT, min(_MAX_FLOAT, float(value))))
        for name, value in metrics.items()
        if name.startswith(FINAL) or name in ("seconds", "train_seconds")
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def trial_of(run: Run) -> Trial:
    """Return the trial that a run recorded."""
    return Trial.model_validate_json(run.data.tags["qbench.trial"])


def code_of(run: Run) -> CodeFingerprint:
    """Return the fingerprint of the code that a run was trained with.

    Runs that were recorded before code had fingerprints count as revision 1.
    """
    tags = run.data.tags
    return CodeFingerprint.model_validate(
        {name: tags[tag] for name, tag in CODE.items() if tag in tags}
    )
