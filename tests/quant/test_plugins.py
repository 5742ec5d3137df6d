"""Method files: reading, registering, and the errors that name their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench import registry
from qbench.errors import QbenchError
from qbench.quant.plugins import Plugin, load_plugin, loaded_plugins
from tests.helpers.plugins import BOUNDED


def load(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "bounded.py"
    path.write_text(text, encoding="utf-8")
    return load_plugin(Plugin.read(path))


def test_a_file_registers_its_methods_and_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    assert load(tmp_path, BOUNDED) == ["bounded"]
    assert "bounded" in registry.names("methods")
    assert Plugin(str(tmp_path / "bounded.py"), BOUNDED) in loaded_plugins()


def test_a_misspelt_key_of_a_paper_recipe_is_found_when_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match=r"bounded.py:8: Recipe: epoch: .*did you mean 'epochs'"):
        load(tmp_path, BOUNDED.replace("epochs=9", "epochs=9, epoch=9"))
    with pytest.raises(QbenchError, match="paper_recipe must be a Recipe, not a dict"):
        load(tmp_path, BOUNDED.replace("Recipe(optimizer", "dict(optimizer"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", r"bounded.py:1: SyntaxError"),
        ("\n1 / 0", r"bounded.py:2: ZeroDivisionError"),
        ("x = 1", r"bounded.py: defines no subclass of qbench.method.Method"),
        (BOUNDED.replace("Bounded", "LSQ"), r"bounded.py: 'lsq' is the name of an installed"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(QbenchError, match=message):
        load(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match=r"none.py: cannot read this method file: No such file"):
        Plugin.read(tmp_path / "none.py")
    binary = tmp_path / "binary.py"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QbenchError, match=r"binary.py: cannot read this method file: .*utf-8"):
        Plugin.read(binary)
