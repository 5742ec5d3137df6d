"""The check of a method in two processes."""

from __future__ import annotations

from pathlib import Path

from qbench.lab.check.networks import Case
from qbench.lab.check.processes import agrees_in_two_processes
from qbench.plugins import Plugin, load_plugin
from tests.helpers.plugins import GOOD

NOTES_SHUTDOWN = """
import atexit, multiprocessing, pathlib
if multiprocessing.parent_process() is not None:
    pathlib.Path({folder!r}, "loaded").touch()
    atexit.register(pathlib.Path({folder!r}, "shut down").touch)
"""


def test_the_two_processes_end_before_their_interpreters_shut_down(tmp_path: Path) -> None:
    # Threads of gloo sometimes abort an interpreter that shuts down, and with it the check.
    load_plugin(Plugin("good.py", GOOD + NOTES_SHUTDOWN.format(folder=str(tmp_path))))
    agrees_in_two_processes([Case("median_sign", {}, "linear", "1/32")])
    assert [path.name for path in tmp_path.iterdir()] == ["loaded"]
