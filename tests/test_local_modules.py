from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.local_modules import LocalModule, follow, install
from qbench.plugins import Plugin, load_plugin
from qbench.registry import method_class
from qbench.train import fingerprint
from tests.helpers.plugins import GOOD
from tests.helpers.training import trial


def write(folder: Path, **texts: str) -> None:
    """Write modules; three underscores in a name stand for a folder."""
    for name, text in texts.items():
        path = folder / f"{name.replace('___', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def followed(folder: Path, text: str, parents: bool = False) -> list[str]:
    file = LocalModule("mine", str(folder / "mine.py"), text)
    return [module.name for module in follow(file, folder, parents)]


def test_modules_beside_a_file_are_followed_wherever_they_are_imported(tmp_path: Path) -> None:
    write(tmp_path, tried_a="import tried_b", tried_b="X = 1", tried_c="", tried_d="")
    text = "import tried_a\ndef f():\n    from tried_c import x\n"
    assert followed(tmp_path, text) == ["tried_a", "tried_b", "tried_c"]


def test_modules_that_import_each_other_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, tried_a="import tried_b", tried_b="import tried_a")
    assert followed(tmp_path, "import tried_b") == ["tried_b", "tried_a"]


def test_python_qbench_and_libraries_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, random="", torch="")  # a file beside it does not shadow Python's
    text = "import os, random, torch, yaml\nfrom qbench import functional\n"
    text += "from qbench_methods.lsq import LSQ\nimport absent_module"
    assert followed(tmp_path, text) == []


def test_relative_imports_in_a_package_are_followed(tmp_path: Path) -> None:
    write(
        tmp_path,
        tried_p_____init__="from .a import x",
        tried_p___a="from . import b\nfrom .deep.c import y",
        tried_p___b="",
        tried_p___deep___c="from ..b import z",
    )
    found = ["tried_p", "tried_p.a", "tried_p.b", "tried_p.deep.c"]
    assert followed(tmp_path, "from tried_p import x") == found
    assert set(followed(tmp_path, "from tried_p import x", parents=True)) == {
        *found,
        "tried_p.deep",  # a package without a file
    }


def test_modules_on_pythons_path_are_followed_outside_of_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "lib" / "site-packages"
    write(installed, tried_installed="")
    write(tmp_path / "lab", tried_lab="")
    for folder in (installed, tmp_path / "lab"):
        monkeypatch.syspath_prepend(str(folder))
    folder = tmp_path / "mine"
    folder.mkdir()
    assert followed(folder, "import tried_installed, tried_lab") == ["tried_lab"]


def test_modules_of_the_same_installed_package_are_followed(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    write(installed, tried_p_____init__="", tried_p___methods___m="", tried_p___levels="", other="")
    file = LocalModule(
        "tried_p.methods.m",
        str(installed / "tried_p" / "methods" / "m.py"),
        "from tried_p.levels import L\nimport other",
    )
    assert [module.name for module in follow(file, installed)] == ["tried_p.levels"]


def test_a_file_and_its_modules_run_where_their_files_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "driver"
    write(
        folder,
        tried_factor="from tried_p.deep import FACTOR",
        tried_p___deep="FACTOR = 3.5",
        good=GOOD.replace("import torch\n", "import torch\nfrom tried_factor import FACTOR\n", 1)
        + "\nassert FACTOR == 3.5",
    )
    plugin = Plugin.read(folder / "good.py")
    (tmp_path / "plugin").write_bytes(pickle.dumps(plugin))
    load_plugin(plugin)
    for path in folder.rglob("*.py"):
        path.unlink()
    program = (
        "import pickle, sys; from pathlib import Path; from qbench.plugins import load_plugin; "
        "from qbench.train import fingerprint; from tests.helpers.training import trial; "
        "load_plugin(pickle.loads(Path(sys.argv[1]).read_bytes())); "
        "print(fingerprint.code_of(trial('median_sign')).syntax)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "plugin")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", timeout=200, env=environment
    )
    assert done.stdout.strip() == fingerprint.code_of(trial("median_sign")).syntax, done.stderr
    modules = fingerprint._modules(method_class("median_sign").__module__)
    assert [each.name for each in modules][1:] == ["tried_factor", "tried_p.deep"]


def test_a_module_that_was_edited_is_imported_again(tmp_path: Path) -> None:
    for factor in ("1.5", "2.5"):
        write(tmp_path, tried_factor=f"FACTOR = {factor}")
        text = GOOD.replace("import torch\n", "import torch\nfrom tried_factor import FACTOR\n", 1)
        write(tmp_path, good=f"{text}\nassert FACTOR == {factor}")
        assert load_plugin(Plugin.read(tmp_path / "good.py")) == ["median_sign"]


def test_two_modules_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, tried_levels="")
    one, two = (
        follow(LocalModule("mine", str(folder / "mine.py"), "import tried_levels"), folder)
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    install(one, "mine.py")
    install(one, "mine.py")
    with pytest.raises(
        QbenchError, match=r"other\.py: imports 'tried_levels' from .*two.*one.*rename"
    ):
        install(two, "other.py")


def test_a_module_with_a_mistake_is_named_when_it_is_imported(tmp_path: Path) -> None:
    write(tmp_path, tried_broken="x = (", good=f"import tried_broken\n{GOOD}")
    with pytest.raises(QbenchError, match=r"good\.py:1: .*tried_broken"):
        load_plugin(Plugin.read(tmp_path / "good.py"))
