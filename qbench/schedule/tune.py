"""Train trials on Ray Tune, as many at once as the machine or the cluster can hold."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import tune

from qbench.errors import QbenchError
from qbench.plugins import Plugin
from qbench.schedule.backlog import TRIES, Backlog, ErrorReader, ProgressCallback, reason_of
from qbench.schedule.capacity import share_of_process, trials_at_once
from qbench.schedule.cluster import connect, disconnect, nodes_of_cluster
from qbench.schedule.driver import DriverSpool
from qbench.schedule.progress import ProgressListener, Summary
from qbench.schedule.recorder import ResultRecorder
from qbench.schedule.worker import TrialActor, WorkerConfig
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.store.spool import Spool
from qbench.suite.suite import Resources

_SHARED = ("QBENCH_DATA",)  # variables that trials depend on


def run(
    suite: str,
    trials: Sequence[Trial],
    spool: Spool,
    check: Callable[[], None],
    record: Callable[[Result], None],
    listener: ProgressListener,
    resources: Resources,
    address: str | None = None,
    plugins: Sequence[Plugin] = (),
    data: Mapping[str, Any] | None = None,
    loader_workers: float = 1,
) -> Summary:
    """Train trials, each as soon as the one it starts from has finished.

    Args:
        suite: Name of the suite, under which results are recorded.
        trials: Trials to train. One whose base is neither here nor in the spool fails.
        spool: Folder in which workers leave results.
        check: Function that raises QbenchError if results cannot be stored; called in a thread of
            its own while Ray starts, before the first trial.
        record: Function that stores a result; called once for each, in a thread of its own.
        listener: Is called as trials progress.
        resources: Resources of one trial.
        address: Address of a running Ray cluster. None: that of ``RAY_ADDRESS``, else this machine.
        plugins: Python files that the trials need.
        data: Options of the dataset.
        loader_workers: Loader workers (CPU cores) of each GPU that the dataset asks for.

    Returns:
        How the grid ended.

    Raises:
        QbenchError: No cluster answers at the address, no node can hold a trial, or ``check``
            raised it.
    """
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    summary = Summary()
    recorder = ResultRecorder(record, spool, summary)
    backlog = Backlog(suite, trials, spool, recorder, listener, summary, resources.limits)
    falls = 0
    try:
        while backlog.waiting and falls < TRIES:
            ended = summary.ended
            try:
                _connect(address, check)
                _train(backlog, suite, spool, resources, plugins, data, loader_workers)
            except QbenchError as error:
                if falls == 0:
                    raise
                summary.stopped = str(error)
                break
            except Exception as error:  # Tune falls where a worker of its dies at the wrong moment
                falls = falls + 1 if summary.ended == ended else 1
                summary.stopped = reason_of(error) if falls == TRIES else ""
                backlog.take_back(error)
            else:
                # Tune ends in good order on Ctrl-C and does not say so; it leaves trials behind.
                summary.interrupted = bool(backlog.waiting or backlog.running)
                break
    except KeyboardInterrupt:
        summary.interrupted = True
    finally:
        recorder.close()
        disconnect()
    return summary


def _connect(address: str | None, check: Callable[[], None]) -> None:
    """Connect to Ray anew. A check runs in a thread until Ray has started."""
    disconnect()
    with ThreadPoolExecutor(max_workers=1) as threads:
        checked = threads.submit(check)
        connect(address)
    checked.result()


def _train(
    backlog: Backlog,
    suite: str,
    spool: Spool,
    resources: Resources,
    plugins: Sequence[Plugin],
    data: Mapping[str, Any] | None,
    loader_workers: float,
) -> None:
    """Have Tune train the waiting trials until none waits."""
    scratch = tempfile.mkdtemp(prefix="qbench-tune-")
    try:
        nodes = nodes_of_cluster()
        process = share_of_process(resources, nodes, loader_workers)
        driver = DriverSpool(spool, ray.get_runtime_context().get_node_id())
        environment = {name: os.environ[name] for name in _SHARED if name in os.environ}
        worker = WorkerConfig(
            driver,
            suite,
            list(plugins),
            dict(data or {}),
            environment,
            *process,
            resources.limits,
        )
        together = resources.processes > 1
        at_once = trials_at_once(process, resources.processes, nodes)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)  # or workers start one by one
        tune.run(
            tune.with_parameters(TrialActor, worker=worker),
            name="grid",
            search_alg=backlog,
            num_samples=TRIES * len(backlog.waiting),
            scheduler=ErrorReader(backlog),
            # Ray Train reserves the resources of a trial on several processes; Tune takes one byte.
            resources_per_trial=(
                {"memory": 1} if together else {"cpu": process.cpus, "gpu": process.gpus}
            ),
            max_concurrent_trials=at_once if together else None,
            reuse_actors=True,
            max_failures=0,
            raise_on_failed_trial=False,
            storage_path=scratch,
            trial_dirname_creator=lambda trial: trial.trial_id,
            callbacks=[ProgressCallback(backlog)],
            verbose=0,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
