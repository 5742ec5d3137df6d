"""Direct access to MLflow's sqlite database on this machine.

MLflow's API takes half a minute to read ten thousand runs, opens no database that may only be read,
and cannot change the addresses of artifacts.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from qbench.store.run import Run

_QBENCHS = (
    "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) JOIN tags USING (run_uuid) "
    "WHERE tags.key = ? AND status IN ('FINISHED', 'FAILED') "
    "AND runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'"
)
_TAGS = f"SELECT run_uuid, key, value FROM tags WHERE run_uuid IN ({_QBENCHS})"  # noqa: S608
_METRICS = (
    "SELECT run_uuid, key, value, is_nan FROM latest_metrics "  # noqa: S608
    f"WHERE run_uuid IN ({_QBENCHS})"
)
_RUNS = (
    "SELECT run_uuid, name, experiment_id, status, start_time, end_time, "  # noqa: S608
    f"artifact_uri FROM runs WHERE run_uuid IN ({_QBENCHS}) ORDER BY start_time, run_uuid"
)


def ended_runs(database: Path, marked: str) -> list[Run] | None:
    """Read the runs that have ended and have a tag, in the order in which they started.

    Args:
        database: MLflow's sqlite file.
        marked: Name of the tag.

    Returns:
        Runs with their tags and last metrics, without parameters. None if the file cannot be read
        or its tables are unknown; the caller then asks MLflow.
    """
    try:
        with closing(
            sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        ) as connection:
            return _read(connection, marked)
    except sqlite3.Error:
        return None


def experiment_name(database: Path, experiment: str) -> str | None:
    """Read the name of an experiment.

    Args:
        database: MLflow's sqlite file.
        experiment: Id of the experiment.

    Returns:
        The name. None if the file cannot be read or has no such experiment.
    """
    query = "SELECT name FROM experiments WHERE experiment_id = ?"
    try:
        with closing(
            sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        ) as connection:
            row = connection.execute(query, (experiment,)).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])


def move_artifacts(database: Path, experiment: str, old: str, new: str) -> None:
    """Rewrite the addresses of the artifacts of an experiment, after its folder was moved.

    Args:
        database: MLflow's sqlite file.
        experiment: Id of the experiment.
        old: Address of the folder of its artifacts before.
        new: Address of the folder now.

    Raises:
        sqlite3.Error: The file cannot be written.
    """
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
            (new, experiment),
        )
        connection.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
            "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
            (new, len(old) + 1, experiment, len(old), old),
        )


def _read(connection: sqlite3.Connection, marked: str) -> list[Run]:
    # Other processes write meanwhile. What ends after this first query is not listed, and neither
    # is what is deleted after it.
    runs = connection.execute(_RUNS, (marked,)).fetchall()
    tags: defaultdict[str, dict[str, str]] = defaultdict(dict)
    metrics: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for run, key, value in connection.execute(_TAGS, (marked,)):
        tags[run][key] = value
    for run, key, value, is_nan in connection.execute(_METRICS, (marked,)):
        metrics[run][key] = math.nan if is_nan else value
    return [
        Run(run, name, str(experiment), status, start, end, uri or "", tags[run], metrics[run])
        for run, name, experiment, status, start, end, uri in runs
        if marked in tags[run]
    ]
