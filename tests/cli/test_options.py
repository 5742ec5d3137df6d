from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from qbench.cli.data import app as data_app
from qbench.cli.main import app
from qbench.files import expanded


def mentions_a_path(hint: Any) -> bool:
    return hint is Path or any(map(mentions_a_path, typing.get_args(hint)))


def paths(group: typer.Typer) -> dict[str, Any]:
    """Return the arguments and options of commands that take paths, by command and name."""
    found = {}
    for command in group.registered_commands:
        assert command.callback is not None
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for name, hint in hints.items():
            if mentions_a_path(hint):
                assert typing.get_origin(hint) is Annotated
                found[f"{command.callback.__name__} {name}"] = typing.get_args(hint)[1]
    return found


PATHS = {**paths(app), **paths(data_app)}


def test_the_paths_of_all_commands_are_found() -> None:
    expected = {
        "run suite",
        "run methods",
        "run results",
        "compare a",
        "show figures",
        "import_ paths",
    }
    assert expected <= set(PATHS)


@pytest.mark.parametrize("name", PATHS)
def test_the_home_folder_is_expanded_in_every_path(name: str) -> None:
    assert PATHS[name].parser is expanded
