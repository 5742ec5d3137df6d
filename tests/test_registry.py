"""Names of methods, and what each method says of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qbench import registry
from qbench.errors import QbenchError
from qbench.method import Method
from qbench.quant.options import quantizes

METHODS = Path(__file__).parent.parent / "methods"


def test_every_file_in_methods_is_registered_under_its_name() -> None:
    files = {path.stem for path in METHODS.glob("*.py") if not path.stem.startswith("_")}
    assert set(registry.names("methods")) == files
    assert {registry.method_class(name).name for name in files} == files


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_says_what_it_is(name: str) -> None:
    cls = registry.method_class(name)
    assert cls.title
    assert quantizes(name) or name == "fp32"
    assert cls.paper or name == "fp32"


PUBLIC = {
    "qbench.functional",
    "qbench.method",
    "qbench.quant.blocks",
    "qbench.quant.hooks",
    "qbench.quant.surgery",
}


@pytest.mark.parametrize("file", sorted(METHODS.glob("*.py")), ids=lambda path: path.stem)
def test_methods_import_the_plugin_interface_and_nothing_else_of_qbench(file: Path) -> None:
    imports = [line for line in file.read_text().splitlines() if line.startswith("from qbench")]
    modules = {line.split()[1] for line in imports}
    assert modules <= PUBLIC


def test_a_registered_method_is_listed_and_replaces_an_earlier_one_of_its_name() -> None:
    class First(Method):
        """A method."""

        name = "halves"

    class Second(Method):
        """Another version of it."""

        name = "halves"

    for version in (First, Second):
        registry.register("methods", version.name, version)
        assert registry.method_class("halves") is version
        assert registry.names("methods").count("halves") == 1


def test_the_name_of_an_installed_method_cannot_be_registered() -> None:
    class Other(Method):
        """A method."""

        name = "lsq"

    with pytest.raises(QbenchError, match="'lsq' is the name of an installed method"):
        registry.register("methods", Other.name, Other)


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(QbenchError, match="no method is named 'lsk'; did you mean 'lsq'"):
        registry.method_class("lsk")


@pytest.mark.parametrize(
    ("kind", "find"),
    [
        ("methods", lambda: registry.method_class("my_own")),
        ("models", lambda: registry.check_model_name("my_own")),
        ("models", lambda: registry.build_model("my_own", 10, 3)),
        ("datasets", lambda: registry.build_dataset("my_own")),
        ("datasets", lambda: registry.dataset_options("my_own")),
    ],
)
def test_an_unknown_name_may_be_that_of_a_file(kind: str, find: Callable[[], object]) -> None:
    with pytest.raises(QbenchError, match=f"`--{kind} FILE.py` adds the {kind} of a file"):
        find()
