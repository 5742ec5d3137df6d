"""Tracking servers and clusters: several machines, of which this one plays all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from qbench.store.lock import EXPERIMENT
from tests.conftest import MakeQbench, Qbench, TinyRun
from tests.helpers import plugins
from tests.helpers.commands import read_until, start, tables
from tests.helpers.storms import runs_of, workers

pytestmark = pytest.mark.slow


class Server:
    """An MLflow server that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, "5917"
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", self._port, "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{self._folder}/server.db"),
                *("--artifacts-destination", str(self._folder / "artifacts")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        client, deadline = MlflowClient(self.uri), time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                client.search_experiments(max_results=1)
                return
            time.sleep(0.5)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)

    def states(self) -> dict[str, Counter[str]]:
        """How many runs of each state every trial has."""
        client = MlflowClient(self.uri)
        found: dict[str, Counter[str]] = {}
        for experiment in client.search_experiments():
            if experiment.name != EXPERIMENT:
                for run in client.search_runs([experiment.experiment_id]):
                    key = run.data.tags["qbench.key"]
                    found.setdefault(key, Counter())[run.info.status] += 1
        return found


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    server = Server(tmp_path)
    yield server
    server.stop()


def on(server: Server, results: Path, qbench_in: MakeQbench) -> Qbench:
    qbench = qbench_in(results)
    qbench.environment["MLFLOW_TRACKING_URI"] = server.uri
    return qbench


def test_a_tracking_server_holds_the_results(
    server: Server, tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    qbench = on(server, tmp_path / "results", qbench_in)
    qbench("run", tiny_run.suite)
    assert "nothing to train" in qbench("run", tiny_run.suite)
    assert tables(tmp_path / "results/tiny") == tables(tiny_run.folder)
    assert not (tmp_path / "results/mlflow.db").exists()
    assert list((tmp_path / "artifacts").rglob("weights.pt"))


def test_two_runs_in_one_folder_record_every_trial_once(
    tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    qbench = qbench_in(tmp_path / "results")
    processes = [start(qbench, "run", tiny_run.suite) for _ in range(2)]
    while any(process.poll() is None for process in processes):
        plan = qbench.plan(tiny_run.suite)  # who looks on finds what is there so far
        assert {trial["status"] for trial in plan} <= {"done", "missing", "unsupported"}
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("this one waits until it has ended" in output for output in outputs) == 1
    assert sum("nothing to train" in output for output in outputs) == 1
    states = runs_of(qbench.results)
    assert set(states) == set(runs_of(tiny_run.qbench.results))
    assert all(found == ["FINISHED"] for found in states.values())
    assert tables(tmp_path / "results/tiny") == tables(tiny_run.folder)


def test_several_commands_may_make_one_database(tmp_path: Path) -> None:
    program = "from pathlib import Path; import sys; from qbench.store.mlflow import Store; "
    program += "store = Store(Path(sys.argv[1]), local=True); store._connection.open(); "
    program += "print(store.finished())"
    command = [sys.executable, "-c", program, str(tmp_path / "results")]
    makers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(4)
    ]
    assert [maker.communicate(timeout=100)[0] for maker in makers] == ["[]\n"] * 4


def test_two_runs_on_one_server_record_every_trial_once(
    server: Server, tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    qbenches = [on(server, tmp_path / name, qbench_in) for name in ("one", "two")]
    processes = [start(qbench, "run", tiny_run.suite) for qbench in qbenches]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("this one waits until it has ended" in output for output in outputs) == 1
    assert sum("nothing to train" in output for output in outputs) == 1
    assert set(map(str, server.states().values())) == {str(Counter(FINISHED=1))}
    for name in ("one", "two"):
        assert tables(tmp_path / name / "tiny") == tables(tiny_run.folder)


def test_a_server_that_goes_away_loses_nothing(
    server: Server, tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    qbench = on(server, tmp_path / "results", qbench_in)
    process = start(qbench, "run", tiny_run.suite)
    read_until(process, "[ 4/16]")
    server.stop()
    read_until(process, "[10/16]")  # training goes on
    server.start()
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "Not recorded" not in output
    assert set(map(str, server.states().values())) == {str(Counter(FINISHED=1))}
    assert tables(tmp_path / "results/tiny") == tables(tiny_run.folder)


def test_a_server_that_stays_away_is_told_and_gets_everything_later(
    server: Server, tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    qbench = on(server, tmp_path / "results", qbench_in)
    process = start(qbench, "run", tiny_run.suite)
    read_until(process, "[ 4/16]")
    server.stop()
    output = process.communicate(timeout=500)[0]
    assert process.returncode in (1, 2), output
    assert "Traceback" not in output
    assert "cannot open the store" in qbench("run", tiny_run.suite, code=2)
    server.start()
    assert "16 trials are done; nothing to train" in qbench("run", tiny_run.suite)
    assert tables(tmp_path / "results/tiny") == tables(tiny_run.folder)


# Clusters ----------------------------------------------------------------------------------------


class Cluster:
    """A Ray cluster on this machine; the head, where the driver runs, trains nothing."""

    address = "127.0.0.1:6399"

    def __init__(self, environment: dict[str, str]) -> None:
        self._ray = [str(Path(sys.executable).with_name("ray"))]
        self._environment = dict(environment)
        if (Path.home() / ".ray" / "auth_token").exists():
            self._environment["RAY_AUTH_MODE"] = "token"
        self._call("--head", "--port", "6399", "--num-cpus", "0", "--include-dashboard", "false")

    def add_node(self) -> set[int]:
        """Start a node with one CPU; returns the processes that are its raylet."""
        before = raylets()
        self._call("--address", self.address, "--num-cpus", "1")
        return raylets() - before

    def _call(self, *words: str) -> None:
        subprocess.run(
            [*self._ray, "start", *words], env=self._environment, check=True, capture_output=True
        )

    def stop(self) -> None:
        subprocess.run([*self._ray, "stop", "--force"], check=True, capture_output=True)


def raylets() -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() == "raylet":
                found.add(int(process.name))
    return found


@pytest.fixture
def cluster(tmp_path: Path, qbench_in: MakeQbench) -> Iterator[Cluster]:
    cluster = Cluster(qbench_in(tmp_path).environment)
    yield cluster
    cluster.stop()


def test_a_cluster_of_three_nodes_gives_the_same_results_though_one_dies(
    cluster: Cluster, tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    cluster.add_node()
    mortal = cluster.add_node()
    qbench = qbench_in(tmp_path / "results")
    process = start(qbench, "run", tiny_run.suite, "--address", cluster.address)
    read_until(process, "[ 4/16]")
    assert len(workers()) == 2  # each node trains
    for raylet in mortal:
        os.kill(raylet, signal.SIGKILL)
    output = process.communicate(timeout=500)[0]
    assert process.returncode == 0, output
    assert tables(tmp_path / "results/tiny") == tables(tiny_run.folder)


def test_method_files_reach_every_node(
    cluster: Cluster, tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    cluster.add_node()
    (tmp_path / "good.py").write_text(plugins.GOOD)
    words: list[str | Path] = ["run", tiny_run.suite, "--methods", tmp_path / "good.py"]
    words += ["--set", "methods=[]", "--set", "bits=[1/32]"]
    here, there = qbench_in(tmp_path / "here"), qbench_in(tmp_path / "there")
    here(*words)
    there(*words, "--address", cluster.address)
    assert tables(tmp_path / "here/tiny") == tables(tmp_path / "there/tiny")


def test_a_relative_results_folder_is_that_of_the_command(
    cluster: Cluster,
    tiny_run: TinyRun,
    tmp_path: Path,
    qbench_in: MakeQbench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster.add_node()
    monkeypatch.chdir(tmp_path)
    qbench_in(Path("relative"))("run", tiny_run.suite, "--address", cluster.address)
    assert tables(tmp_path / "relative/tiny") == tables(tiny_run.folder)
