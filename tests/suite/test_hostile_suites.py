"""Suites that are wrong in every way that came to mind, and in ways that no one thought of.

Whatever a file holds, reading it ends in a suite or in a clear message: no traceback, nothing
executed, nothing written.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbench.errors import QbenchError
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from qbench.suite.yaml import Document

GOOD: dict[str, Any] = {
    "name": "good",
    "title": "A title",
    "dataset": "digits",
    "models": ["convnet_tiny"],
    "bits": ["1/32", "2/2"],
    "methods": ["ste", {"quantization_networks": {"temperature_rate": 10}, "label": "QN"}],
    "seeds": [0, 1],
    "recipe": {"name": "aligned", "epochs": 3},
    "full_precision": {"epochs": 2},
    "resources": {"cpus": 1, "time_limit": "5 min"},
    "layers": "skip_first_last",
    "threads": 1,
}
BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = [
    *("", " ", "null", "~", "[]", "1", "text", "---\n---\n", "a: b: c", "\t", "a:\n\tb: 1"),
    *("{", "}", "[", "'", '"', "&a [*a]", "a: &a {b: *a}", "<<: {name: x}", "%YAML 9.9\n---\na: 1"),
    *("[" * 5000, "{" * 3000, "- " * 3000, "a: " + "[" * 900 + "]" * 900, "\ufeff", "a: 1\x00"),
    *("!!python/object/apply:os.system ['touch {}']", "a: !!python/name:os.system"),
    *("a: !!python/object/new:os.system ['touch {}']", "a: !!python/module:os", "a: !evil b"),
    *("a: !!binary aGVsbG8=", "a: !!set {b}", "a: !!timestamp 2020-01-01", "? [a]\n: b", BOMB),
    *("1: 2", "null: 2", "true: 1", "2020-01-01: 1", "1.5: 1", "? {a: b}\n: 2", "name: a\nname: b"),
]
VALUES: dict[str, list[str]] = {
    "name": [
        *("../../etc/passwd", "/absolute", "a/b", "a\\b", "''", ".", "..", "-x", '"a\\0b"', "1"),
        *("1.5", "null", "true", "[a]", "{a: b}", "ü", "a" * 65, "a b", '"a\\nb"', "$(id)", "`id`"),
        *("~root", "a;b", "2020-01-01", "rehearsal", "artifacts", "%2e%2e", "ａ"),
    ],
    "title": ["1", "null", "[a]", "{a: b}", "2020-01-01", "true", "x" * 100_000],
    "dataset": ["nope", "1", "null", "[digits]", "../digits", "{}", "os", "__class__", "digits\\0"],
    "models": [
        *("[]", "null", "1", "[1]", "[null]", "[[convnet_tiny]]", "[{a: 1}]", "['../x']", "['']"),
        *(
            "[os.system]",
            "[__class__]",
            "[resnet_tny]",
            "2020-01-01",
            "[convnet_tiny, convnet_tiny]",
        ),
    ],
    "bits": [
        *("[]", "null", "2", "[2]", "[2.5]", "['2/']", "['/2']", "['0/0']", "['-1/2']", "['33/2']"),
        *(
            "['２/２']",
            "['²/2']",
            "['2∕2']",
            "['2/2/2']",
            "['3(±0)/2']",
            "['3(±" + "9" * 30 + ")/2']",
        ),
        *("['3(+4)/2']", "['3(±4/2']", "['2e1/2']", "[nan]", "[.inf]", "[null]", "[[2/2]]", "true"),
        *("[{2/2: 1}]", "9999999999999999999999/2", "['١/٢']", "['2/2', '2/2']", "2020-01-02"),
        *("['2/3(±4)']", "['32(±1)/2']", "['𝟐/𝟐']", "['2\\u200b/2']"),
    ],
    "methods": [
        *("[]", "null", "1", "[1]", "[null]", "[[ste]]", "[stee]", "[ste, ste]", "[{ste: 1}]"),
        *("[{ste: [1]}]", "[{ste: {nope: 1}}]", "[{ste: {momentum: abc}}]", "[{ste: {1: 2}}]"),
        *("[{ste: {momentum: null}}]", "[{ste: {momentum: .nan}}]"),
        *("[{ste: {}, dorefa: {}}]", "[{label: x}]", "[{}]", "[{ste: {}, label: 1}]", "[os]"),
        *("[{ste: {}, label: [1]}]", "[{ste: {}, recipe: 1}]", "[{ste: {}, recipe: {nope: 1}}]"),
        *("[{ste: {}, recipe: {epochs: -1}}]", "[{ste: {}, bits: 1}]", "[{ste: {}, bits: [9x]}]"),
        *("[{ste: {}, bits: {nope: [2/2]}}]", "[{ste: {}, bits: {convnet_tiny: 2/2}}]"),
        *("[{ste: {}, published: 1}]", "[{1: {}}]", "[{null: {}}]", "['../evil.py']", "[Method]"),
        *("[builtins.eval]", "[ste, 'ste ']", "[{quantization_networks: {phases: [1]}}]"),
        *(
            "[{quantization_networks: {phases: x}}]",
            "[{quantization_networks: {temperature_rate: -1}}]",
        ),
        *("[{quantization_networks: {temperature_rate: 1e999}}]", "[{ste: {scope: leyer}}]"),
    ],
    "seeds": [
        *(
            "[]",
            "null",
            "-1",
            "[-1]",
            "[0.5]",
            "[a]",
            "[true]",
            "true",
            "[0, 0]",
            "[1e3]",
            "{0: 1}",
        ),
        *("[99999999999999999999]", "0.0", "[[0]]", "[null]", "[.nan]", "[0, 1, 2, 1]"),
        f"{list(range(60_000))}",
    ],
    "recipe": [
        *(
            "1",
            "null",
            "[]",
            "nope",
            "{name: x}",
            "{name: null}",
            "{name: [a]}",
            "{nope: 1}",
            "{1: 2}",
        ),
        *("{epochs: -5}", "{epochs: 1.5}", "{epochs: null}", "{epochs: '3; rm -rf /'}"),
        *("{epochs: {a: 1}}", "{lr: -1}", "{lr: 0}", "{lr: .nan}", "{lr: .inf}", "{lr: abc}"),
        *("{batch_size: 0}", "{batch_size: -1}", "{batch_size: 1.5}", "{momentum: 2}"),
        *("{momentum: -1}", "{weight_decay: -1}", "{weight_decay: .nan}", "{optimizer: sgdd}"),
        *("{optimizer: __import__}", "{schedule: cosin}", "{schedule: step}", "{milestones: 3}"),
        *("{milestones: [-1]}", "{milestones: [x]}", "{gamma: 0}", "{initialization: x}"),
        *("{gradient_clip: -1}", "{precision: fp8}", "{steps: 0}", "{compile: maybe}"),
        *("{changes: {epochs: 1}}", "{calibration_images: -1}", "{other_lr: -1}", "{lr: [1]}"),
        *("{milestone_lrs: 0.1}", "{milestone_lrs: [0]}", "{milestone_lrs: [a]}", "{epsilon: 0}"),
        *("{milestones: [1, 2], milestone_lrs: [0.1], schedule: step}", "{warmup_epochs: -1}"),
        *("{milestone_weight_decays: [-1]}", "{weight_decay_on: biases}", "{label_smoothing: 1}"),
    ],
    "full_precision": ["1", "null", "[]", "{epochs: -1}", "{nope: 1}", "{lr: .nan}", "{lr: '1 2'}"],
    "layers": [
        *("nope", "1", "[1]", "[null]", "{'3': 9/9/9}", "{'3': null}", "{1: 2}", "true", "[[a]]"),
    ],
    "threads": ["0", "-1", "1.5", "a", "1000000000", "null", "[1]", ".inf"],
    "resources": [
        *(
            "1",
            "null",
            "[]",
            "{nope: 1}",
            "{cpus: 0}",
            "{cpus: -1}",
            "{cpus: .nan}",
            "{cpus: .inf}",
        ),
        *("{gpus: -1}", "{gpus: .inf}", "{processes: 0}", "{processes: 1.5}", "{time_limit: soon}"),
        *("{time_limit: -1}", "{time_limit: 0 s}", "{time_limit: '٣ s'}", "{time_limit: .nan}"),
        *("{time_limit: [1]}", "{time_limit: 5 parsecs}", "{memory: 0}", "{memory: -1}"),
        *("{memory: x}", "{memory: .inf}"),
    ],
    "published": ["1", "null", "{}", "{paper: x}", "[1]", "[[]]", "[{}]", "{paper: [1], table: 1}"],
    "data": ["1", "null", "[]", "{root: 1}", "{nope: 1}", "{root: /etc/passwd}", "{1: 1}"],
    "weights": [
        *("1", "null", "[]", "torchvision", "backbone:torchvision", "{nope: x}", "{1: a}"),
        *("{convnet_tiny: 1}", "{convnet_tiny: null}", "{convnet_tiny: 'torchvision:'}"),
    ],
    "nope": ["1"],
    "Name": ["x"],
    "epochs": ["1"],
    "__class__": ["x"],
    "2020-01-01": ["1"],
    "? [a]": ["1"],
}
HANDMADE = [*FILES, *((key, value) for key, values in VALUES.items() for value in values)]


def read(path: Path) -> None:
    """Read a suite as far as `qbench run` does before it trains."""
    expand(load_suite(path))


def refusal(path: Path) -> str:
    """The message with which a file is refused, which is to be clear."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(QbenchError) as error:
        read(path)
    message = str(error.value)
    assert sorted(path.parent.iterdir()) == before
    assert message.startswith(str(path)) or message.startswith("recipe: ")
    assert 10 < len(message) < 31 * 1100
    assert "Traceback" not in message
    return message


def test_two_hundred_are_made_by_hand() -> None:
    assert len(HANDMADE) > 200


@pytest.mark.parametrize("case", HANDMADE, ids=range(len(HANDMADE)))
def test_a_bad_suite_gets_a_clear_message(case: str | tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    if isinstance(case, str):
        text = case.replace("{}", str(tmp_path / "owned"))
    else:
        key, value = case
        rest = {name: content for name, content in GOOD.items() if name != key}
        text = f"{yaml.safe_dump(rest, allow_unicode=True)}{key}: {value}\n"
    path.write_text(text, encoding="utf-8")
    refusal(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00a", b"name: \xff", b"\x00" * 100, b"PK\x03\x04"])
def test_a_file_that_is_no_text_gets_one_too(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(content)
    refusal(path)


def test_neither_a_folder_nor_a_device_nor_a_book_is_read(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match="Is a directory"):
        read(tmp_path)
    with pytest.raises(QbenchError, match="no regular file"):
        read(Path("/dev/zero"))
    (tmp_path / "book.yaml").write_text("a" * 2_000_000)
    with pytest.raises(QbenchError, match="larger than"):
        read(tmp_path / "book.yaml")


def test_a_grid_too_large_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "seeds": list(range(20_000))}), encoding="utf-8")
    load_suite(path)
    path.write_text(yaml.safe_dump({**GOOD, "seeds": list(range(20_001))}), encoding="utf-8")
    assert "100,005 trials; a suite has 100,000 at most" in refusal(path)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.binary(max_size=8)
    | st.sampled_from([*GOOD, "../x", "2/2", "ste", "label", "bits", "torchvision", "-1", "1e999"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(list(GOOD)), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, location: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in nested lists and mappings."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [location] if location else []
    if isinstance(value, dict | list):
        for key, each in inner:
            found += places(each, (*location, key)) if isinstance(each, dict | list) else []
            found.append((*location, key))
    return found


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=st.sampled_from(places(GOOD)), junk=JUNK, also=st.none() | st.text(max_size=8))
def test_whatever_stands_in_a_suite_it_is_read_or_refused(
    place: tuple[Any, ...], junk: Any, also: str | None, tmp_path: Path
) -> None:
    suite = copy.deepcopy(GOOD)
    target: Any = suite
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = junk
    if also is not None and isinstance(target, dict):
        target[also] = junk
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite, allow_unicode=True), encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    with contextlib.suppress(QbenchError):
        read(path)
    assert sorted(tmp_path.iterdir()) == before


@settings(max_examples=100, deadline=None, derandomize=True)
@given(assignment=st.text(max_size=30) | st.sampled_from([f"{k}=[" for k in GOOD]))
def test_whatever_is_set_on_the_command_line_it_is_taken_or_refused(assignment: str) -> None:
    document = Document(copy.deepcopy(GOOD), Path("suite.yaml"))
    with contextlib.suppress(QbenchError):
        document.set(assignment)
