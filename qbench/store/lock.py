"""One run at a time on a store that several machines share.

Within one results folder a lock file does. Machines that record on one MLflow server have none:
each command keeps a run there that it marks as alive, and waits for those that came before.
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

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

EXPERIMENT = "qbench commands under way"
_ALIVE = "qbench.alive"  # changes as long as its command lives
_HOLDS = "qbench.holds"
_BEAT_SECONDS = 15.0
_DEAD_SECONDS = 60.0
_POLL_SECONDS = 2.0
_LOGGER = logging.getLogger(__name__)


@contextmanager
def alone(client: MlflowClient, experiment: str) -> Iterator[None]:
    """Wait until no other command runs on a store, and keep others waiting.

    Whether a command is alive is told by its mark changing, so that clocks need not agree.

    Args:
        client: of the store.
        experiment: id of the experiment that holds the marks.

    Raises:
        mlflow.exceptions.MlflowException: the store cannot be reached.
    """
    name = f"{socket.gethostname()}, process {os.getpid()}"
    mine = client.create_run(experiment, run_name=name, tags={_ALIVE: "0"}).info.run_id
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(client, mine, over), daemon=True)
    thread.start()
    try:
        _wait(client, experiment, mine)
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(Exception):  # else it is dead to others in a minute
            client.delete_run(mine)


def _beat(client: MlflowClient, run: str, over: threading.Event) -> None:
    count = 0
    while not over.wait(_BEAT_SECONDS):
        count += 1
        with contextlib.suppress(Exception):  # the server may be back for the next one
            client.set_tag(run, _ALIVE, str(count))


def _wait(client: MlflowClient, experiment: str, mine: str) -> None:
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
            continue  # and look again: another may have taken its turn at the same moment
        if speak:
            _LOGGER.info(
                "Another run, of %s, works on %s; this one waits until it has ended.",
                first.info.run_name,
                client.tracking_uri,
            )
            speak = False
        time.sleep(_POLL_SECONDS)


def _turn(run: Run) -> tuple[bool, int, str]:
    """Whose turn it is: one that holds the store before others, then the one that came first."""
    return _HOLDS not in run.data.tags, run.info.start_time, run.info.run_id


def _lives(run: Run, seen: dict[str, tuple[str, float]]) -> bool:
    """Whether a command's mark has changed of late."""
    mark, now = run.data.tags.get(_ALIVE, ""), time.monotonic()
    before, since = seen.setdefault(run.info.run_id, (mark, now))
    if mark != before:
        seen[run.info.run_id] = (mark, now)
        return True
    return now - since < _DEAD_SECONDS
