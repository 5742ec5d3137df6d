"""Names of the tags and metrics of a run, and what can be read from them alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping

from mlflow.entities import Run

from qbench.spec.result import CodeFingerprint
from qbench.spec.trial import Trial

ENVIRONMENT = "environment."  # begins the tags of what a trial ran on
FINAL = "final_"  # begins the names of what is measured after the last epoch
IMPORTED = "qbench.imported"
_MOST = sys.float_info.max  # MLflow stores it for infinity
KEY = "qbench.key"
SET_ASIDE = "qbench.set_aside"
EDITED = "what is stored of it was changed by hand"
_SEALED = ("qbench.trial", "qbench.status", "qbench.audit", "qbench.method_source")
CODE = {"syntax": "qbench.syntax", "revision": "qbench.revision", "numerics": "qbench.numerics"}


def was_imported(run: Run) -> bool:
    """Whether a run was trained elsewhere: there are no weights of it."""
    return IMPORTED in run.data.tags


def was_changed(run: Run) -> bool:
    """Whether what a run holds is not what was recorded: somebody has edited it."""
    recorded = run.data.tags.get("qbench.digest")
    return recorded is not None and recorded != digest(run.data.tags, run.data.metrics)


def digest(tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    """SHA-256 of what tables show of a run: its trial, its final numbers, its audit."""
    content = {name: tags.get(name, "") for name in _SEALED}
    content |= {name: tags[name] for name in CODE.values() if name in tags}
    content |= {
        name: "nan" if value != value else repr(max(-_MOST, min(_MOST, float(value))))
        for name, value in metrics.items()
        if name.startswith(FINAL) or name in ("seconds", "train_seconds")
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def trial_of(run: Run) -> Trial:
    """The trial that a run recorded."""
    return Trial.model_validate_json(run.data.tags["qbench.trial"])


def code_of(run: Run) -> CodeFingerprint:
    """Return the fingerprint of the code that a run was trained with.

    Runs that were recorded before code had fingerprints count as revision 1.
    """
    tags = run.data.tags
    return CodeFingerprint.model_validate(
        {name: tags[tag] for name, tag in CODE.items() if tag in tags}
    )
