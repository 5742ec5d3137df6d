"""Drawn trees, written once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Qbench
from tests.helpers.drawn import Drawn, draw, write_imagenet, write_voc


@pytest.fixture(scope="session")
def qbench(qbench_in: Callable[[Path], Qbench], tmp_path_factory: pytest.TempPathFactory) -> Qbench:
    return qbench_in(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def imagenet(qbench: Qbench, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(
        qbench, "imagenet-like", tmp_path_factory.mktemp("data") / "imagenet", write_imagenet
    )


@pytest.fixture(scope="session")
def voc(qbench: Qbench, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(qbench, "voc-like", tmp_path_factory.mktemp("data") / "voc", write_voc)
