"""Find results that are stale, and set results aside so that they are trained again.

A result is stale if it was edited by hand in the store, if the code that it was trained with has
changed, if it started from other weights than it would now, or if the trial that it starts from, or
that of its teacher, has a stale result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qbench.errors import QbenchError, nearest
from qbench.spec.trial import Trial
from qbench.store.tags import CODE, EDITED, SOURCE, code_of, was_changed
from qbench.suite.grid import PlannedTrial
from qbench.train import fingerprint

if TYPE_CHECKING:
    from qbench.benchmark.benchmark import Benchmark
    from qbench.store.run import Run

# What has changed in the code, by what it follows from.
Changes = dict[tuple[str, ...], str]

_STALE = "stale"


def reasons(planned: Sequence[PlannedTrial], runs: Mapping[str, Run]) -> dict[str, str]:
    """Return why trials are stale.

    Args:
        planned: Trials of a suite.
        runs: MLflow run of each trial that has ended, by key.

    Returns:
        The reason for each stale trial, by key, in the order of the trials. Trials that are
        current or not finished are left out.
    """
    trials = {each.trial.key: each.trial for each in planned if not each.unsupported}
    found: dict[str, str] = {}
    changes: Changes = {}

    def reason_of(key: str) -> str:
        if key not in trials or key not in runs or runs[key].status != "FINISHED":
            return ""
        if key not in found:
            trial, run = trials[key], runs[key]
            own = reason(trial, run, changes)
            found[key] = own or inherited(trial)
        return found[key]

    def inherited(trial: Trial) -> str:
        # A source that is no trial of the suite is weights that were given.
        for source in trial.sources:
            if text := reason_of(source):
                which = "what it starts from" if source == trial.source else "its teacher"
                return f"so is {which}: {text}"
        return ""

    return {key: text for key in trials if (text := reason_of(key))}


def reason(trial: Trial, run: Run, changes: Changes | None = None) -> str:
    """Return why a finished trial is stale, what it starts from aside, or an empty string.

    Args:
        trial: The trial.
        run: MLflow run of the trial.
        changes: What has changed in the code of trials that were asked about before. It is
            extended. Default: nothing is known.

    Raises:
        QbenchError: No method has the name of the trial's.
    """
    if was_changed(run):
        return EDITED
    changes = {} if changes is None else changes
    recorded = tuple(run.tags.get(tag, "") for tag in CODE.values())
    what = (trial.code_method, trial.architecture, trial.dataset, *recorded)
    if what not in changes:
        changes[what] = fingerprint.change(trial, code_of(run))
    return changes[what] or _change_of_start(trial, run)


def _change_of_start(trial: Trial, run: Run) -> str:
    """Return how the start of a trial differs from the recorded one, or an empty string."""
    if trial.starts_from(run.tags.get(SOURCE)):
        return ""
    if not trial.has_changed_network:
        return "it started from other weights than it would now"
    return f"it started from weights of the unchanged network, and {trial.method} changes it"


def set_aside(benchmark: Benchmark, what: Sequence[str]) -> int:
    """Set finished trials aside, so that a run trains them again. The store keeps their results.

    Trials that start from one of them, or learn from it, are set aside too.

    Args:
        benchmark: The benchmark; its trials are looked up again afterwards.
        what: Names of methods, or ``stale``.

    Returns:
        The number of trials that were set aside.

    Raises:
        QbenchError: The suite has no such method, or the store cannot be written.
    """
    methods = {planned.trial.method for planned in benchmark.planned}
    for name in what:
        if name not in (*methods, _STALE):
            known = nearest(name, [_STALE, *methods])
            raise QbenchError(
                f"--again {name}: the suite has no such method{known}; `--methods FILE.py` adds "
                "the methods of a file"
            )
    chosen = {p.trial.key for p in benchmark.planned if p.trial.method in what}
    if _STALE in what:
        chosen |= benchmark.stale.keys()
    keys = [
        planned.trial.key
        for planned in benchmark.planned
        if benchmark.status(planned) == "done"
        and not chosen.isdisjoint((planned.trial.key, *planned.trial.sources))
    ]
    benchmark.store.set_aside(benchmark.runs[key] for key in keys)
    for planned in benchmark.planned:
        if planned.trial.stop_after and planned.trial.key in keys:
            benchmark.spool.discard_checkpoint(planned.trial.whole.key)
    benchmark.refresh()
    return len(keys)
