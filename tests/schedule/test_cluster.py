from __future__ import annotations

import socket

import pytest
import ray

from qbench.errors import QbenchError
from qbench.schedule.cluster import connect


def test_another_version_of_ray_is_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 1.0\n")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(QbenchError, match=r"Version mismatch.* started with: Ray: 1\.0"):
        connect(None)


@pytest.mark.parametrize("address", ["here", "ray://host:10001", "host:", "host:port"])
def test_an_address_that_is_none_is_refused_with_the_form_of_one(address: str) -> None:
    with pytest.raises(QbenchError, match=f"'{address}' is no address .*; write HOST:PORT"):
        connect(address)


def test_an_address_where_nothing_listens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(QbenchError, match=f"no Ray cluster answers at {address}: "):
            connect(None)
