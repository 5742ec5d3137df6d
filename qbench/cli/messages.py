"""Messages of long operations on the console.

Every module reports its progress to its logger (``qbench.…``, level INFO). Nothing is shown unless
the command line asks for it, which it does here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

_LOGGER = logging.getLogger("qbench")


@contextmanager
def status(console: Console, text: str, prefix: str = "") -> Iterator[None]:
    """Context manager that shows a text in the console's status line, then each progress message.

    Args:
        console: The console.
        text: Text shown before the first message.
        prefix: Text before each message.
    """
    with (
        console.status(text) as line,
        _shown_by(lambda message: line.update(f"{prefix}{message} …")),
    ):
        yield


@contextmanager
def lines(console: Console, prefix: str = "") -> Iterator[None]:
    """Context manager that prints each progress message as a line of its own.

    Args:
        console: The console.
        prefix: Text before each message.
    """
    with _shown_by(lambda message: console.print(prefix + message, markup=False, soft_wrap=True)):
        yield


@contextmanager
def _shown_by(show: Callable[[str], None]) -> Iterator[None]:
    handler, level = _Handler(show), _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


class _Handler(logging.Handler):
    """Handler that passes the text of each INFO message to a function."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.addFilter(lambda record: record.levelno == logging.INFO)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())
