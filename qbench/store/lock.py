"""Lock of a store that several machines share.

Commands in one results folder use a lock file. Machines that share an MLflow server have no common
file. Each command there creates a run, updates its mark regularly, and waits for the commands that
came first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "qbench commands under way"
_ALIVE = "qbench.alive"  # tag whose value changes while the command is alive
_HOLDS = "qbench.holds"
_BEAT_SECONDS = 15.0
_DEAD_SECONDS = 60.0
_LOCK_POLL_SECONDS = 2.0
_LOGGER = logging.getLogger(__name__)


@contextmanager
def alone(client: MlflowClient, experiment: str, address: str) -> Iterator[None]:
    """Context manager that blocks until no other command runs on a store, and then holds it.

    A command is alive while the value of its mark changes. The clocks of the machines need not
    agree.

    Args:
        client: Client of the store.
        experiment: Id of the experiment that holds the marks.
        address: Address of the store for messages.

    Raises:
        mlflow.exceptions.MlflowException: The store cannot be reached.
    """
    name = f"{socket.gethostname()}, process {os.getpid()}"
    mine = client.create_run(experiment, run_name=name, tags={_ALIVE: "0"}).info.run_id
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(client, mine, over), daemon=True)
    thread.start()
    try:
        _wait(client, experiment, mine, address)
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(Exception):  # others ignore the mark after a minute anyway
            client.delete_run(mine)


def _beat(client: MlflowClient, run: str, over: threading.Event) -> None:
    count = 0
    while not over.wait(_BEAT_SECONDS):
        count += 1
        with contextlib.suppress(Exception):  # the server may be back at the next update
            client.set_tag(run, _ALIVE, str(count))


def _wait(client: MlflowClient, experiment: str, mine: str, address: str) -> None:
    seen: dict[str, tuple[str, float]] = {}
    speak = True
    while True:
        runs = client.search_runs([experiment], "attributes.status = 'RUNNING'")
        living = [run for run in runs if run.info.run_id == mine or _lives(run, seen)]
        first = min(living, key=_turn, default=None)
        if first is None or first.info.run_id == mine:
            if first is None or _HOLDS in first.data.tags:
                return
            client.set_tag(mine, _HOLDS, "1")
            continue  # check again: another command may have done the same
        if speak:
            _LOGGER.info(
                "Another run, of %s, works on %s; this one waits until it has ended.",
                first.info.run_name,
                address,
            )
            speak = False
        time.sleep(_LOCK_POLL_SECONDS)


def _turn(run: Run) -> tuple[bool, int, str]:
    """Return the sort key of a command: the holder of the store first, then by start time."""
    return _HOLDS not in run.data.tags, run.info.start_time, run.info.run_id


def _lives(run: Run, seen: dict[str, tuple[str, float]]) -> bool:
    """Return whether the mark of a command has changed recently."""
    mark, now = run.data.tags.get(_ALIVE, ""), time.monotonic()
    before, since = seen.setdefault(run.info.run_id, (mark, now))
    if mark != before:
        seen[run.info.run_id] = (mark, now)
        return True
    return now - since < _DEAD_SECONDS
