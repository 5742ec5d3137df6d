from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import pytest

from qbench import local_modules, registry
from qbench.local_modules import LocalModule
from qbench.plugins import Plugin, load_plugin
from qbench.spec.result import CodeFingerprint
from qbench.train import fingerprint
from tests.helpers.training import trial

METHOD = '''
"""A method."""

from qbench.method import Method


class Tried(Method):
    """Nothing."""

    size: float = 0.5

    def supports(self, bits, task):
        """Say why not."""
        return None if bits.weights.bits > 1 else "no"
'''


def syntax(tmp_path: Path, text: str) -> str:
    """Load a method file and return the fingerprint of its syntax."""
    path = tmp_path / "tried.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    load_plugin(Plugin.read(path))
    return fingerprint.code_of(trial("tried")).syntax


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A method."""', '"""Another text."""'),
        ('"""A method."""\n', ""),
        ('"""Nothing."""', '"""Something.\n\n    More of it.\n    """'),
        ('        """Say why not."""\n', ""),
        ("size: float = 0.5", "size: float = 0.50  # half"),
        ('"no"', "('no')"),
        ("bits.weights.bits > 1", "bits.weights.bits>1"),
    ],
)
def test_comments_docstrings_and_formatting_are_not_code(
    tmp_path: Path, old: str, new: str
) -> None:
    assert old in METHOD
    assert syntax(tmp_path, METHOD) == syntax(tmp_path, METHOD.replace(old, new))


def test_a_range_to_search_is_not_code(tmp_path: Path) -> None:
    bounded = METHOD.replace("size: float", "size: Annotated[float, Field(gt=0)]")
    bounded = bounded.replace("import Method", "import Field, Method")
    bounded = bounded.replace("from qbench", "from typing import Annotated\n\nfrom qbench")
    ranged = bounded.replace("Field(gt=0)", "Field(gt=0), Tunable(0.1, 1)")
    ranged = ranged.replace("import Field, Method", "import Field, Method, Tunable")
    assert ranged != bounded
    assert syntax(tmp_path, ranged) == syntax(tmp_path, bounded) != syntax(tmp_path, METHOD)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("> 1", ">= 1"),
        ('"no"', '"not at 1 bit"'),
        ("size: float", "scale: float"),
        ("return None", "pass; return None"),
    ],
)
def test_what_runs_is_code(tmp_path: Path, old: str, new: str) -> None:
    assert old in METHOD
    assert syntax(tmp_path, METHOD) != syntax(tmp_path, METHOD.replace(old, new))


@pytest.mark.parametrize("place", ["beside the file", "on the path", "in a package beside it"])
@pytest.mark.parametrize("indented", [False, True])
def test_a_module_that_the_file_imports_is_code_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, indented: bool
) -> None:
    folder, name = tmp_path / "here", "levels_of_tried"
    folder.mkdir()
    module = folder / f"{name}.py"
    if place == "on the path":
        (tmp_path / "elsewhere").mkdir()
        module = tmp_path / "elsewhere" / f"{name}.py"
        monkeypatch.syspath_prepend(str(module.parent))
    elif place == "in a package beside it":
        (folder / "package_of_tried").mkdir()
        module, name = folder / "package_of_tried" / f"{name}.py", f"package_of_tried.{name}"
    importing = f"from {name} import LEVELS\n"
    text = METHOD.replace("    return None", f"    {importing}        return None", 1)
    text = text if indented else importing + METHOD
    module.write_text("LEVELS = 3\n")
    first = syntax(folder, text)
    module.write_text("LEVELS = 3  # as in the paper\n")
    assert syntax(folder, text) == first
    module.write_text("LEVELS = 4\n")
    assert syntax(folder, text) != first


def test_a_method_that_builds_on_another_changes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lsq_plus = registry.method_class("lsq_plus").__module__
    before = fingerprint.code_of(trial("lsq_plus")).syntax
    find = local_modules._find

    def changed(name: str, folder: Path | None) -> LocalModule | None:
        found = find(name, folder)
        if found is None or not name.endswith(".lsq"):
            return found
        return dataclasses.replace(found, source=f"{found.source}CHANGED = 1\n")

    monkeypatch.setattr(local_modules, "_find", changed)
    assert fingerprint._syntax.__wrapped__(lsq_plus) != before


def test_torch_and_qbench_are_no_part_of_a_methods_code() -> None:
    found = fingerprint._modules(registry.method_class("lsq_plus").__module__)
    assert [each.name for each in found] == ["qbench_methods.lsq_plus", "qbench_methods.lsq"]


def test_what_was_recorded_before_there_were_fingerprints_is_current() -> None:
    assert fingerprint.change(trial("ste"), CodeFingerprint()) == ""
    assert fingerprint.change(trial("ste"), CodeFingerprint.model_validate({})) == ""


def test_a_change_says_what_changed() -> None:
    now = fingerprint.code_of(trial("ste"))
    assert fingerprint.change(trial("ste"), now) == ""
    changes: list[tuple[dict[str, Any], str]] = [
        ({"syntax": "0"}, "ste's code has changed since it was trained"),
        ({"revision": 7}, "ste is at revision 1, and was at 7 in training"),
        ({"numerics": 7}, "is at revision 1, and was at 7 in training"),
    ]
    for changed, words in changes:
        assert words in fingerprint.change(trial("ste"), now.model_copy(update=changed))


def test_a_model_and_a_dataset_of_a_file_are_code_too(tmp_path: Path) -> None:
    def load(size: int) -> None:
        model = f"def wide(num_classes, in_channels):\n    return {size}\n"
        dataset = f"from qbench.data.digits import Digits\n\nclass Few(Digits):\n    n = {size}\n"
        load_plugin(Plugin(str(tmp_path / "model.py"), model, "models"))
        load_plugin(Plugin(str(tmp_path / "data.py"), dataset, "datasets"))

    load(1)
    of_model, of_both = trial("lsq", model="wide"), trial("lsq", model="wide", dataset="few")
    first, both = fingerprint.code_of(of_model), fingerprint.code_of(of_both)
    load(2)
    changed = "has changed since it was trained"
    assert fingerprint.change(of_model, first) == f"the code of lsq or of wide {changed}"
    assert fingerprint.change(of_both, both) == f"the code of lsq or of wide or of few {changed}"
    assert fingerprint.code_of(trial("lsq")).syntax not in (first.syntax, both.syntax)
