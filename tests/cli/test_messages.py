from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from qbench.cli import messages

LOGGER = logging.getLogger("qbench.somewhere")


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80)


def shown(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue()


def test_messages_become_lines() -> None:
    where = console()
    with messages.lines(where):
        LOGGER.info("another run [of %s] works", "a host")
        LOGGER.debug("a detail")
    LOGGER.info("afterwards")
    assert shown(where) == "another run [of a host] works\n"


def test_messages_take_the_place_of_the_status() -> None:
    where = console(terminal=True)
    with messages.status(where, "Reading …", "Estimating: "):
        LOGGER.info("timing a step of %s", "resnet18")
        where.print("done")
    assert "Estimating: timing a step of resnet18 …" in shown(where)


def test_nothing_is_shown_unless_asked_for() -> None:
    assert not logging.getLogger("qbench").handlers
    with pytest.raises(KeyError), messages.lines(console()):
        raise KeyError
    assert not logging.getLogger("qbench").handlers
    assert logging.getLogger("qbench").level == logging.NOTSET
