"""What tests share: a small suite, a command line, and one run of both."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from filelock import FileLock

# One thread for each worker of pytest, and for what it starts: more wait for each other on small
# tensors. Torch reads the number when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from qbench import local_modules, plugins, registry
from qbench.store.connection import Connection
from tests.helpers import forked, ray_cluster

if TYPE_CHECKING:
    from mlflow import MlflowClient

TINY = """\
name: tiny
dataset: digits
models: [convnet_tiny]
bits: [1/32, 2/32, 2/2]
methods: [ste, twn, quantization_networks]
seeds: [0, 1]
recipe: {name: aligned, epochs: 2}
full_precision: {epochs: 3}
"""


pytest_plugins = ["tests.helpers.foreign_models"]


@pytest.fixture(autouse=True)
def no_plugins_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    for kind in registry._of_files:
        monkeypatch.setitem(registry._of_files, kind, dict(registry._of_files[kind]))
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))
    monkeypatch.setattr(local_modules, "_installed", {})
    yield
    for name in local_modules._installed:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of pytest-xdist share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


CopyDatabase = Callable[[Path], None]


@pytest.fixture(scope="session")
def copy_database(shared_folder: Path) -> CopyDatabase:
    """Put a database without runs where there is no file. MLflow takes seconds to create one."""
    folder, create = shared_folder / "database", Connection.open

    def copy(database: Path) -> None:
        if database.exists():
            return
        with FileLock(f"{folder}.lock"):
            if not (folder / "mlflow.db").exists():
                create(Connection(folder, local=True))
        with suppress(OSError):  # what cannot be written is for the code under test to tell
            copied = shutil.copyfile(folder / "mlflow.db", database.with_suffix(".copy"))
            copied.rename(database)

    return copy


@pytest.fixture(scope="session", autouse=True)
def databases_are_copies(copy_database: CopyDatabase) -> Iterator[None]:
    """A store that this process creates has a copy of one empty database."""
    create = Connection.open

    def open_(connection: Connection) -> MlflowClient:
        if connection.is_default and connection.database is not None:
            copy_database(connection.database)
        return create(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "open", open_)
        yield


@dataclass
class Qbench:
    """The command line, writing into one results folder.

    Attributes:
        results: The folder.
        environment: Environment of the commands.
        ray_address: Returns the address of a Ray cluster for commands that train if the
            environment names none. None: each of them starts Ray.
    """

    results: Path
    environment: dict[str, str]
    ray_address: Callable[[], str] | None = None

    def __call__(self, *arguments: str | Path, code: int = 0, timeout: float = 300) -> str:
        """Run `qbench`, expect an exit code, return what it printed.

        A command that does not train is forked, which saves it the imports.
        """
        words = [*map(str, arguments)]
        if words[0] not in ("run", "rehearse"):  # Ray reads the environment when it is imported
            return self._expect(code, *forked.run(words, self.environment, timeout))
        if self.ray_address is None or "RAY_ADDRESS" in self.environment:
            return self.fresh(*arguments, code=code, timeout=timeout)
        there = {**self.environment, "RAY_ADDRESS": self.ray_address()}
        return Qbench(self.results, there).fresh(*arguments, code=code, timeout=timeout)

    def fresh(self, *arguments: str | Path, code: int = 0, timeout: float = 300) -> str:
        """Run `qbench` as a shell does, with all imports and without that cluster."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return self._expect(code, done.returncode, done.stdout + done.stderr)

    def _expect(self, code: int, found: int, output: str) -> str:
        assert found == code, output
        assert "Traceback" not in output, output
        return output

    def command(self, *arguments: str | Path) -> list[str]:
        """The words of a command, for tests that start it themselves."""
        return [sys.executable, "-m", "qbench", *map(str, arguments)]

    def plan(self, *arguments: str | Path) -> list[dict[str, Any]]:
        """The trials that `qbench plan --json` lists."""
        trials: list[dict[str, Any]] = json.loads(self("plan", *arguments, "--json"))["trials"]
        return trials


MakeQbench = Callable[[Path], Qbench]


@pytest.fixture(scope="session")
def ray_address() -> Iterator[Callable[[], str]]:
    """Return the address of a Ray cluster, which the first call starts."""
    with ExitStack() as stack:
        yield functools.cache(lambda: stack.enter_context(ray_cluster.running()))


@pytest.fixture(scope="session")
def qbench_in(copy_database: CopyDatabase, ray_address: Callable[[], str]) -> MakeQbench:
    """Make a command line for a results folder, whose store is empty if it is new."""

    def make(results: Path) -> Qbench:
        results.mkdir(parents=True, exist_ok=True)
        copy_database(results / "mlflow.db")
        kept = {
            k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
        }
        environment = {**kept, "QBENCH_RESULTS": str(results), "COLUMNS": "160"}
        return Qbench(results, environment, ray_address)

    return make


@dataclass
class TinyRun:
    """A suite that has been run once, for tests that read what it left."""

    suite: Path
    qbench: Qbench
    output: str

    @property
    def folder(self) -> Path:
        """Its tables."""
        return self.qbench.results / "tiny"


@pytest.fixture(scope="session")
def tiny_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a suite of 16 short trials."""
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_run(
    tiny_suite: Path,
    tmp_path_factory: pytest.TempPathFactory,
    shared_folder: Path,
    qbench_in: MakeQbench,
) -> TinyRun:
    """The tiny suite, run undisturbed.

    One worker of pytest-xdist runs it, and each has a copy of its results, which tests may change.
    """
    original, output = shared_folder / "tiny_run", shared_folder / "tiny_run.txt"
    with FileLock(shared_folder / "tiny_run.lock"):
        if not output.exists():
            ran = qbench_in(original).fresh("run", tiny_suite)
            output.write_text(ran, encoding="utf-8")
    results = shutil.copytree(original, tmp_path_factory.mktemp("results") / "tiny_run")
    return TinyRun(tiny_suite, qbench_in(Path(results)), output.read_text(encoding="utf-8"))


class QbenchHere(Protocol):
    """The command line in this process: it takes words and an exit code, and returns its output.

    The code None stands for 0 or 1.
    """

    def __call__(self, *words: object, code: int | None = 0) -> str: ...


@pytest.fixture
def qbench_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> QbenchHere:
    """Run a command that trains nothing, which is much faster than a process of its own."""
    from qbench.cli import main as cli

    def run(*words: object, code: int | None = 0) -> str:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr("sys.argv", ["qbench", *map(str, words)])
        monkeypatch.setenv("COLUMNS", os.environ.get("COLUMNS", "200"))
        with pytest.raises(SystemExit) as ended:
            cli.invoke()
        captured = capsys.readouterr()
        assert ended.value.code in ((0, 1) if code is None else (code,)), captured
        return captured.out + captured.err

    return run


@pytest.fixture(scope="session")
def small_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a suite whose results nobody trained."""
    from tests.helpers.exchanged import SUITE

    path = tmp_path_factory.mktemp("suite") / "small.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def empty_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a store that has nothing: making one takes seconds, a copy does not."""
    from qbench.store.mlflow import Store

    folder = tmp_path_factory.mktemp("empty")
    Store(folder, local=True).finished()
    return folder


@pytest.fixture(scope="session")
def small_results(
    small_suite: Path, empty_results: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A results folder in which the small suite is done. Tests only read it."""
    from tests.helpers.exchanged import BEFORE, filled

    folder = tmp_path_factory.mktemp("results") / "before"
    shutil.copytree(empty_results, folder)
    return filled(small_suite, folder, BEFORE).results


@pytest.fixture(scope="session")
def small_exported(
    small_suite: Path, small_results: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results of the small suite as files."""
    from qbench.benchmark import exchange
    from qbench.benchmark.benchmark import Benchmark

    folder = tmp_path_factory.mktemp("exported")
    exchange.export(Benchmark.open(small_suite, small_results), folder)
    return folder


@pytest.fixture
def elsewhere(empty_results: Path, tmp_path: Path) -> Path:
    """The results folder of somebody else, with an empty store."""
    return Path(shutil.copytree(empty_results, tmp_path / "there"))
