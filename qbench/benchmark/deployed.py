"""Deploy the finished trials of a suite, and read what became of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from qbench.errors import QbenchError
from qbench.files import write_atomic

if TYPE_CHECKING:
    from qbench.benchmark.benchmark import Benchmark
    from qbench.deployment.trials import Deployment
    from qbench.store.run import Run

FOLDER = "deployed"
_FORMAT = "onnx"
_NAN = float("nan")


def deploy(benchmark: Benchmark, told: Callable[[Deployment], None]) -> None:
    """Deploy the finished trials of a suite that are not deployed yet, if the suite asks for it.

    A trial that cannot be exported gets a record with the reason.

    Args:
        benchmark: The benchmark.
        told: Called with each result.
    """
    from qbench.deployment.trials import Deployment, deploy_finished, load_finished

    folder = benchmark.results / FOLDER
    for planned in benchmark.planned:
        run = benchmark.runs.get(planned.trial.key)
        if (
            run is None
            or planned.trial.validation  # no table has it
            or benchmark.status(planned) != "done"
            or _read(folder, run, planned.trial.key)
        ):
            continue
        try:
            finished = load_finished(benchmark.store, run, benchmark.suite.data)
            found = deploy_finished(finished, _FORMAT, folder)
        except QbenchError as error:
            found = Deployment(
                key=planned.trial.key,
                name=planned.trial.name,
                to=_FORMAT,
                status="refused",
                reason=str(error),
            )
            folder.mkdir(parents=True, exist_ok=True)
            with write_atomic(_record(folder, found.key)) as scratch:
                scratch.write_text(found.model_dump_json(indent=2), encoding="utf-8")
        told(found)


def columns(benchmark: Benchmark, keys: pd.Series[str]) -> pd.DataFrame:
    """Return the columns of deployment of trials.

    Args:
        benchmark: The benchmark.
        keys: Keys of the trials.

    Returns:
        A row for each trial: ``exported``, ``flips``, ``onnx_mb`` and ``latency_ratio``, with the
        index of the keys.
    """
    folder = benchmark.results / FOLDER
    rows = []
    for key in keys:
        run = benchmark.runs.get(key)
        found = None if run is None else _read(folder, run, key)
        row = {"exported": "", "flips": _NAN, "onnx_mb": _NAN, "latency_ratio": _NAN}
        if found is not None:
            row = {
                "exported": "yes" if found.status == "green" else f"{found.status}: {found.reason}",
                "flips": max(found.flips.values(), default=_NAN),
                "onnx_mb": found.bytes["file"] / 1e6 if found.bytes else _NAN,
                "latency_ratio": found.speed[0].ratio if found.speed else _NAN,
            }
        elif run is not None:
            row["exported"] = "not deployed yet: `qbench run` does it"
        rows.append(row)
    return pd.DataFrame(rows, index=keys.index)


def _record(folder: Path, key: str) -> Path:
    return folder / f"{key}.{_FORMAT}.json"


def _read(folder: Path, run: Run, key: str) -> Deployment | None:
    """Return the record of a trial.

    None if there is none, or one from before its training, or one that is damaged.
    """
    from qbench.deployment.trials import Deployment

    file = _record(folder, key)
    if not file.exists() or 1000 * file.stat().st_mtime < (run.end_time or 0):
        return None
    try:
        return Deployment.model_validate_json(file.read_bytes())
    except ValueError:
        return None
