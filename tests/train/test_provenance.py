from __future__ import annotations

import getpass
import platform
import socket
from importlib.metadata import version

from qbench import __version__
from qbench.train.provenance import PACKAGES, environment


def test_the_environment_names_the_versions_that_are_installed() -> None:
    found = environment()
    assert found["qbench"] == __version__
    assert found["python"] == platform.python_version()
    assert {package: found[package] for package in PACKAGES} == {p: version(p) for p in PACKAGES}


def test_the_environment_names_no_host_and_no_person() -> None:
    text = " ".join(environment().values())
    assert socket.gethostname() not in text
    assert getpass.getuser() not in text.split("/")
