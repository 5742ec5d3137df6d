"""Recording of results while a grid is trained."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from qbench.errors import QbenchError
from qbench.schedule.progress import Summary
from qbench.spec.result import Result
from qbench.store.spool import Spool

PATIENCE_SECONDS = 30.0  # for a store that is away after the last trial


class ResultRecorder:
    """Recorder that stores results in a thread, so that workers never wait for the store.

    Results wait in the spool, not in memory. If the store refuses one, because its server is away
    or its disk full, it is tried again with every later result and for a while at the end. What is
    left then stays in the spool for the next run.

    Args:
        record: Function that stores a result; called once for each, in the recorder's thread.
        spool: The spool that results wait in.
        summary: Receives why results could not be recorded.
    """

    def __init__(self, record: Callable[[Result], None], spool: Spool, summary: Summary) -> None:
        self._record = record
        self._spool = spool
        self._summary = summary
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._refused: list[str] = []
        self._thread = threading.Thread(target=self._work, name="qbench-recorder")
        self._thread.start()

    def add(self, key: str) -> None:
        """Queue the result that waits in the spool under a key."""
        self._queue.put(key)

    def close(self) -> None:
        """Block until everything queued has been tried."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            self._try([key, *self._refused])
        until = time.monotonic() + PATIENCE_SECONDS
        self._try(self._refused)
        while self._refused and time.monotonic() < until:
            time.sleep(PATIENCE_SECONDS / 10)
            self._try(self._refused)

    def _try(self, keys: list[str]) -> None:
        """Record results up to the first that is refused, which is then tried last."""
        self._summary.unrecorded = ""
        for index, key in enumerate(keys):
            try:
                result = self._spool.get(key)
                if result is None:
                    raise QbenchError(f"{self._spool.folder(key)} cannot be read")
                self._record(result)
            except Exception as error:
                self._summary.unrecorded = str(error)
                self._refused = [*keys[index + 1 :], key]
                return
        self._refused = []
