from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from qbench.schedule.driver import DriverSpool, SpoolCheckpoints
from qbench.store.spool import Spool
from tests.helpers.results import result


class Remote:
    """Stands for Ray: runs a task at once and remembers on which node it was to run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, node: str) -> None:
        self.nodes: list[str] = []
        context = SimpleNamespace(get_node_id=lambda: node)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(ray, "remote", self.remote)
        monkeypatch.setattr(ray, "get", lambda answer: answer)

    def remote(self, function: Callable[..., Any]) -> Any:
        def options(num_cpus: int, scheduling_strategy: Any) -> Any:
            assert num_cpus == 0  # it must not wait for a trial to end
            assert not scheduling_strategy.soft
            self.nodes.append(scheduling_strategy.node_id)
            return SimpleNamespace(remote=function)

        return SimpleNamespace(options=options)


DRIVER, ANOTHER = "d" * 56, "a" * 56  # ids of nodes, as Ray has them


@pytest.mark.parametrize(("node", "tasks"), [(DRIVER, []), (ANOTHER, [DRIVER])])
def test_the_spool_is_used_on_the_drivers_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, tasks: list[str]
) -> None:
    ray_tasks = Remote(monkeypatch, node)
    driver, done = DriverSpool(Spool(tmp_path), DRIVER), result()
    driver.call(Spool.put, done, b"weights")
    assert Spool(tmp_path).get(done.trial.key) == done
    assert ray_tasks.nodes == tasks


def test_a_checkpoint_is_that_of_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Remote(monkeypatch, DRIVER)
    driver = DriverSpool(Spool(tmp_path), DRIVER)
    one, another = SpoolCheckpoints(driver, "one"), SpoolCheckpoints(driver, "another")
    assert one.load() is None
    one.save(b"state")
    assert one.load() == b"state"
    assert another.load() is None
    assert Spool(tmp_path).checkpoint("one") == b"state"
