"""Python files of methods, models and datasets, and the errors that name their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qbench import registry
from qbench.errors import QbenchError
from qbench.plugins import Plugin, load_plugin, loaded_plugins
from qbench.quant.options import build_method, method_options, option_fields
from qbench.registry import Kind
from tests.helpers.plugins import BOUNDED
from tests.helpers.suites import GOOD, problems
from tests.helpers.suites import load as load_text


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
        (BOUNDED.replace("Bounded", "LSQ"), r"bounded.py:5: 'lsq' is the name of an installed"),
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


# Methods ------------------------------------------------------------------------------------------

HEAD = """
from __future__ import annotations

import abc
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Literal

import torch

from qbench.method import Field, Method

if TYPE_CHECKING:
    from collections.abc import Sequence
"""
FIRST_LINE = HEAD.count("\n") + 1


def options_of(name: str) -> dict[str, Any]:
    return method_options(build_method(name, {}))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sizes: list[int] = field(default_factory=lambda: [1, 2])", [1, 2]),
        ("sizes: list[int] = Field(default_factory=lambda: [1, 2], min_length=1)", [1, 2]),
        ("sizes: int = field(default=3, metadata={'unit': 'px'})", 3),
        ("sizes: dict[str, float] = field(default_factory=dict)", {}),
        ("sizes: Literal['float16', 'float32'] = 'float32'", "float32"),
        ("sizes: Any = None", None),
        ("sizes: Later = field(default_factory=lambda: Later())", {"a": 1}),
    ],
)
def test_an_option_is_what_a_dataclass_allows(tmp_path: Path, option: str, value: object) -> None:
    later = "\n\n@dataclass\nclass Later:\n    a: int = 1\n"
    assert load(tmp_path, f"{HEAD}class Mine(Method):\n    {option}\n{later}") == ["mine"]
    assert options_of("mine") == {"sizes": value}


def test_what_init_leaves_out_is_no_option(tmp_path: Path) -> None:
    load(
        tmp_path,
        f"{HEAD}class Mine(Method):\n    size: int = 2\n"
        "    cache: dict[str, torch.Tensor] = field(init=False, default_factory=dict)\n",
    )
    assert options_of("mine") == {"size": 2}
    assert list(option_fields("mine")) == ["size"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "sizes: Sequence[int] = (1,)",
            "its type 'Sequence' is not known when the file runs",
        ),
        ("dtype: torch.dtype = torch.float32", "a value of the type dtype; write dtype: Literal"),
        ("start: torch.Tensor = None", "a suite cannot write a value of the type Tensor"),
        ("curve: Callable[[float], float] = abs", "a suite cannot write a value of the type Call"),
        ("scale: InitVar[float] = 2.0", "an InitVar is not recorded with a trial"),
        ("size: int = 'x'", "its default: must be a whole number, not 'x'"),
        ("title: str = 'Mine'", "is an attribute that every method has; write `title = …` without"),
        ("layers: int = 2", "is an attribute that every method has"),
    ],
)
def test_an_option_that_cannot_be_recorded_is_named_with_its_line(
    tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(QbenchError) as error:
        load(tmp_path, f"{HEAD}class Mine(Method):\n    {option}\n")
    name = option.partition(":")[0]
    assert f"bounded.py:{FIRST_LINE + 1}: option '{name}': " in str(error.value)
    assert message in str(error.value)


def test_defaults_that_the_method_rejects_are_named(tmp_path: Path) -> None:
    init = "    def __post_init__(self) -> None:\n        raise KeyError(3)\n"
    with pytest.raises(QbenchError, match=rf"py:{FIRST_LINE}: with the defaults: KeyError: 3"):
        load(tmp_path, f"{HEAD}class Mine(Method):\n{init}")


def test_an_option_without_a_default_is_asked_for(tmp_path: Path) -> None:
    load(tmp_path, f"{HEAD}class Mine(Method):\n    size: int\n")
    (found,) = problems(tmp_path, GOOD.replace("bwn", "mine"))
    assert found == (
        "suite.yaml:5: methods.1.mine.size: 'mine' has no default for this option; write a value"
    )


@pytest.mark.parametrize(
    ("classes", "methods"),
    [
        ("class Base(Method): z: int = 1\nclass A(Base): pass\nclass B(Base): pass", ["a", "b"]),
        ("class _Base(Method): pass\nclass A(_Base): pass", ["a"]),
        ("class A(Method): title = 'A'\nclass B(A): pass", ["a", "b"]),
        ("class A(Method): name = 'one'\nclass B(A): pass", ["one", "b"]),
        ("class A(Method): pass\nAlias = A", ["a"]),
        (
            "class Base(Method, abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\n"
            "class A(Base):\n    def f(self): ...",
            ["a"],
        ),
    ],
)
def test_a_shared_base_class_is_no_method(tmp_path: Path, classes: str, methods: list[str]) -> None:
    assert load(tmp_path, f"{HEAD}{classes}\n") == methods


def test_a_name_is_that_of_one_method(tmp_path: Path) -> None:
    two = "class A(Method): name = 'same'\nclass B(Method): name = 'same'\n"
    with pytest.raises(QbenchError, match=rf"py:{FIRST_LINE + 1}: A has the name 'same' too; give"):
        load(tmp_path, HEAD + two)
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    load(tmp_path / "one", f"{HEAD}class A(Method): pass\n")
    load(tmp_path / "one", f"{HEAD}class A(Method): z: int = 1\n")  # the file was edited
    with pytest.raises(QbenchError, match=r"other/.*: 'a' is the name of a method in .*one/"):
        load(tmp_path / "other", f"{HEAD}class A(Method): z: int = 2\n")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("'my method'", "'my method' is no name: a letter, then"),
        ("3", "'3' is no name"),
        ("'yes'", "'yes' is a word of YAML"),
        ("'label'", "'label' is a key of a row in a suite"),
    ],
)
def test_a_name_that_a_suite_cannot_use_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(QbenchError, match=rf"py:{FIRST_LINE}: {reason}"):
        load(tmp_path, f"{HEAD}class A(Method): name = {name}\n")


# Models and datasets ------------------------------------------------------------------------------

MODELS = """
from torch import nn

def _layer(num_classes, in_channels): ...

def helper(channels): ...

def small_mlp(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))

class WideNet(nn.Module):
    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
"""
DATASETS = """
from abc import ABC

from qbench.data import Dataset
from qbench.data.digits import Digits

class Base(Dataset): ...

class OddOrEven(Digits):
    title = "Odd or even"
"""


def read(tmp_path: Path, text: str, kind: Kind) -> list[str]:
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    return load_plugin(Plugin.read(path, kind))


def test_a_file_defines_models(tmp_path: Path) -> None:
    assert read(tmp_path, MODELS, "models") == ["small_mlp", "wide_net"]
    assert "small_mlp" in registry.names("models")
    assert registry.origin("models", "small_mlp") == str(tmp_path / "mine.py")
    assert registry.build_model("small_mlp", 7, 1)(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    registry.check_model_name("wide_net")
    assert [plugin.kind for plugin in loaded_plugins()] == ["models"]


def test_a_file_defines_datasets(tmp_path: Path) -> None:
    assert read(tmp_path, DATASETS, "datasets") == ["odd_or_even"]
    assert registry.build_dataset("odd_or_even").title == "Odd or even"
    assert load_text(tmp_path, GOOD.replace("digits", "odd_or_even")).dataset == "odd_or_even"


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("models", "def f(x): ...", "defines no function or class that takes `num_classes` and"),
        (
            "models",
            "def resnet18(num_classes, in_channels): ...",
            "'resnet18' is a model of tor",
        ),
        ("models", "def resnet20(num_classes, in_channels): ...", "an installed model; give it"),
        ("models", "\n1 / 0", r"mine.py:2: ZeroDivisionError"),
        ("datasets", "x = 1", "defines no subclass of qbench.data.Dataset"),
        (
            "datasets",
            "from qbench.data.digits import Digits as D\nclass Digits(D): ...",
            "mine.py:2: 'digits' is the name of an installed dataset; give it another name",
        ),
    ],
)
def test_a_file_of_models_or_datasets_that_cannot_be_used_is_named(
    tmp_path: Path, kind: Kind, text: str, message: str
) -> None:
    with pytest.raises(QbenchError, match=message):
        read(tmp_path, text, kind)


DATASET = """
from __future__ import annotations
from typing import TYPE_CHECKING, Callable
import torch
from qbench.data.digits import Digits
if TYPE_CHECKING:
    from collections.abc import Sequence
class Mine(Digits):
    def __init__(self, {}) -> None:
        {}
"""


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "years: Sequence[int] = ()",
            "the type 'Sequence' of an option is not known when",
        ),
        ("kind: torch.dtype = torch.float32", "its options cannot be checked: Unable to generate"),
        ("*args: int", r"its __init__ takes \*args: .*int.*; name each option"),
        ("**more: int", r"its __init__ takes \*\*more: .*int.*; name each option"),
    ],
)
def test_an_option_of_a_dataset_that_cannot_be_checked_is_named_with_its_class(
    tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(QbenchError, match=rf"mine.py:8: Mine: {message}"):
        read(tmp_path, DATASET.format(option, "pass"), "datasets")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError(size)", "mine: its __init__ raised KeyError: 3"),
        ("1 / 0", "mine: its __init__ raised ZeroDivisionError"),
    ],
)
def test_a_dataset_that_cannot_be_built_is_named(tmp_path: Path, body: str, message: str) -> None:
    read(tmp_path, DATASET.format("size: int = 3", body), "datasets")
    with pytest.raises(QbenchError, match=message):
        registry.build_dataset("mine")


def test_a_dataset_that_lacks_an_attribute_is_named(tmp_path: Path) -> None:
    text = (
        "from qbench.data import Dataset\nclass Mine(Dataset):\n    title = source = 'x'\n"
        "    def train(self): ...\n    test = train\n"
    )
    read(tmp_path, text, "datasets")
    with pytest.raises(QbenchError, match="mine: Mine has no attribute 'num_classes', and needs"):
        registry.build_dataset("mine")


def test_a_misspelt_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "my_method.py").write_text("")
    with pytest.raises(QbenchError, match="did you mean 'my_method"):
        Plugin.read(tmp_path / "my_metod.py")
