from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import TINY, Qbench, QbenchHere, TinyRun
from tests.helpers import plugins
from tests.helpers.commands import TABLES, read_until, start, tables

MakeQbench = Callable[[Path], Qbench]


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, qbench.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "ray", "mlflow", "pandas", "pydantic", "numpy", "rich"}


def test_help_and_version(tmp_path: Path, qbench_in: MakeQbench) -> None:
    qbench = qbench_in(tmp_path)
    assert "qbench plan suites/digits_start.yaml" in qbench("--help")
    assert "--set" in qbench("run", "--help")
    assert qbench.fresh("--version").startswith("qbench 0.")
    assert "(qbench-quant)" in qbench("--version")


def test_run_trains_the_grid_and_writes_its_tables(tiny_run: TinyRun) -> None:
    assert "[14/16]" in tiny_run.output
    found = {path.name for path in tiny_run.folder.iterdir()}
    assert {*TABLES, "trials.csv", "accuracy_by_bits.png", "training_curves.svg"} <= found
    trials = pd.read_csv(tiny_run.folder / "trials.csv")
    assert (trials["status"] == "done").sum() == 16
    assert trials.loc[trials["status"] == "done", "top1"].between(5, 100).all()
    assert trials["audit"].isna().all()
    table = (tiny_run.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "Quantization Networks" in table
    assert "its weights have 2 bits" in table


def test_run_again_trains_nothing(tiny_run: TinyRun) -> None:
    before = everything(tiny_run.folder)
    output = tiny_run.qbench("run", tiny_run.suite)
    assert "All 16 trials are done; nothing to train." in output
    assert everything(tiny_run.folder) == before


def test_leaderboard_rebuilds_the_same_bytes(tiny_run: TinyRun) -> None:
    before = everything(tiny_run.folder)
    for path in tiny_run.folder.iterdir():
        path.unlink()
    tiny_run.qbench.fresh("leaderboard", tiny_run.suite)
    assert everything(tiny_run.folder) == before


def test_published_numbers_stand_beside_those_of_the_run(tiny_run: TinyRun) -> None:
    wanted = "published={paper: 'arXiv:1911.09464', table: 2, dataset: imagenet, model: resnet18}"
    arguments: list[str | Path] = ["leaderboard", tiny_run.suite, "--set", "name=beside", "--set"]
    tiny_run.qbench(*arguments, wanted)
    table = (tiny_run.qbench.results / "beside" / "leaderboard.md").read_text()
    assert "2/32 published" in table
    assert "*(69.1)* [" in table  # of Quantization Networks, Table 2
    assert "arXiv:1911.09464, Table 2" in table
    found = tiny_run.qbench(*arguments, wanted.replace("table: 2", "table: 99"), code=2)
    assert "has nothing of published.table '99'" in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no_such.yaml"], "no_such.yaml: No such file"),
        (["plan", "{suite}", "--set", "seeds"], "write it as key=value"),
        (["plan", "{suite}", "--set", "methods=[dorfea]"], "did you mean 'dorefa'?"),
        (["plan", "{suite}", "--methods", "no_such.py"], "no_such.py: cannot read"),
        (["show", "ffff"], "no recorded trial has a key that starts with 'ffff'"),
        (["show", "x'; --"], "is no key"),
        (["list", "method"], "nothing of this kind is listed; did you mean 'methods'?"),
        (["run", "{suite}", "--address", "127.0.0.1:1", "--set", "seeds=[9]"], "answers at 127.0"),
        (["run", "{suite}", "--address", "ray://x:1", "--set", "seeds=[9]"], "write HOST:PORT"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(
    tiny_run: TinyRun,
    qbench_here: QbenchHere,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("QBENCH_RESULTS", str(tiny_run.qbench.results))
    words = [str(tiny_run.suite) if word == "{suite}" else word for word in arguments]
    assert message in " ".join(qbench_here(*words, code=2).split())


def test_bad_plugins_fail_their_own_trials_only(tmp_path: Path, qbench_in: MakeQbench) -> None:
    qbench = qbench_in(tmp_path / "results")
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (tmp_path / "good.py").write_text(plugins.GOOD)
    (tmp_path / "bad.py").write_text(plugins.BAD)
    output = qbench(
        *("run", tmp_path / "tiny.yaml", "--set", "seeds=[0]", "--set", "bits=[1/32]"),
        *("--set", "methods=[ste]", "--methods", tmp_path / "good.py"),
        *("--methods", tmp_path / "bad.py"),
        code=1,
    )
    assert "raises: RuntimeError: no such luck" in output
    trials = pd.read_csv(tmp_path / "results/tiny/trials.csv").set_index("method")
    assert trials["status"].to_dict() == {
        "fp32": "done",
        "ste": "done",
        "median_sign": "done",
        "raises": "failed",
        "not_finite": "failed",
        "wrong_shape": "failed",
        "too_many_levels": "done",
        "exits": "failed",
        "dies": "failed",
        "supports_raises": "unsupported",
    }
    assert "its worker died" in trials["reason"]["dies"]
    assert "4 promised" not in str(trials["audit"]["median_sign"])
    table = (tmp_path / "results/tiny/leaderboard.md").read_text(encoding="utf-8")
    assert "not k-bit" in table
    assert "no such luck" in table


def test_a_plugin_that_cannot_be_loaded_names_its_line(
    small_suite: Path, small_results: Path, tmp_path: Path, qbench_here: QbenchHere
) -> None:
    broken = tmp_path / "broken.py"
    for text, message in [
        ("x = 1\ny = 1 / 0\n", "broken.py:2: ZeroDivisionError"),
        ("def f(:\n", "broken.py:1: SyntaxError"),
        ("x = 1\n", "broken.py: defines no subclass of qbench.method.Method"),
        ("from qbench.method import Method\nclass STE(Method): ...\n", "'ste' is the name of an"),
    ]:
        broken.write_text(text)
        words = ("plan", small_suite, "--results", small_results, "--methods", broken)
        assert message in " ".join(qbench_here(*words, code=2).split())


def test_stale_results_are_told_and_trained_again(
    tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    """One number edited in the database, one method's file changed since its trials."""
    results = tmp_path / "results"
    shutil.copytree(tiny_run.qbench.results, results)
    qbench = qbench_in(results)
    with sqlite3.connect(results / "mlflow.db") as database:
        database.execute(
            "UPDATE latest_metrics SET value = 99.99 WHERE key = 'final_top1' AND run_uuid = "
            "(SELECT run_uuid FROM runs WHERE name = 'twn 2/32 seed 0 convnet_tiny digits')"
        )
    method = tmp_path / "good.py"
    method.write_text(plugins.GOOD)
    with_method = (tiny_run.suite, "--methods", method, "--set", "seeds=[0]")
    assert "1 trial to train" in qbench("run", *with_method)
    method.write_text(plugins.GOOD.replace("self.factor *", "2 * self.factor *"))

    told = qbench("plan", *with_method)
    edited = "1 stale: what is stored of it was changed by hand"
    changed = "1 stale: median_sign's code has changed since it was trained"
    assert edited in told
    assert changed in told
    told = qbench("leaderboard", *with_method)
    assert edited in told
    assert changed in told
    table = (results / "tiny/leaderboard.md").read_text(encoding="utf-8")
    assert "stale: what is stored of it" in table
    assert "stale: median_sign's code" in table
    assert "did you mean 'stale'?" in qbench("run", *with_method, "--again", "stael", code=2)
    output = qbench("run", *with_method, "--again", "stale")
    assert "2 finished trials to train again." in output
    assert "stale" not in (results / "tiny/leaderboard.md").read_text(encoding="utf-8")
    qbench("run", tiny_run.suite)
    assert tables(results / "tiny") == tables(tiny_run.folder)


@dataclass
class KilledRun:
    """A run of the tiny suite that was killed after some trials."""

    qbench: Qbench
    heard: list[str]  # addresses that its processes listened on


@pytest.fixture(scope="module")
def killed_run(
    tiny_suite: Path, tmp_path_factory: pytest.TempPathFactory, qbench_in: MakeQbench
) -> KilledRun:
    qbench = qbench_in(tmp_path_factory.mktemp("killed"))
    process = start(qbench, "run", tiny_suite)
    try:
        read_until(process, "[ 4/16]")
        heard = listening(str(qbench.results))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    until = time.monotonic() + 60
    while any(map(is_worker, processes(str(qbench.results)))):  # it may deliver one more result
        assert time.monotonic() < until, "workers of a killed run go on"
        time.sleep(0.1)
    return KilledRun(qbench, heard)


def test_what_a_run_starts_listens_on_loopback_alone(killed_run: KilledRun) -> None:
    assert len(killed_run.heard) > 3
    assert all(map(is_loopback, killed_run.heard)), killed_run.heard


def test_a_killed_run_loses_no_finished_trial(tiny_run: TinyRun, killed_run: KilledRun) -> None:
    qbench = killed_run.qbench
    done = [t for t in qbench.plan(tiny_run.suite) if t["status"] == "done"]
    assert len(done) >= 4
    output = qbench("run", tiny_run.suite)
    assert f"{16 - len(done)} trials to train, {len(done)} of 16 done already" in output
    assert tables(qbench.results / "tiny") == tables(tiny_run.folder)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(
    tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    qbench = qbench_in(tmp_path)
    process = start(qbench, "run", tiny_run.suite)
    read_until(process, "[ 3/16]")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "Interrupted:" in output
    assert f"Go on with: qbench run {tiny_run.suite}" in output
    assert "Traceback" not in output
    qbench("run", tiny_run.suite)
    assert tables(tmp_path / "tiny") == tables(tiny_run.folder)


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def listening(environment: str) -> list[str]:
    """Addresses on which processes listen that have a text in their environment."""
    sockets: dict[str, str] = {}
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                words = bytes.fromhex(local.partition(":")[0])
                whole = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                sockets[f"socket:[{inode}]"] = socket.inet_ntop(family, whole)
    found = []
    for each in processes(environment):
        with contextlib.suppress(OSError):  # it has ended since
            links = {os.readlink(file) for file in (each / "fd").iterdir()}
            found += [sockets[link] for link in links & sockets.keys()]
    return found


def processes(environment: str) -> Iterator[Path]:
    """Folders in /proc of the processes that have a text in their environment."""
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if environment in (each / "environ").read_text(errors="replace"):
                yield each


def is_worker(process: Path) -> bool:
    """Return whether a process in /proc is a Ray worker, and not an agent, which ends later."""
    try:
        command = (process / "cmdline").read_bytes()
    except OSError:  # it has ended since
        return False
    return command.startswith(b"ray::") and b"Agent" not in command
