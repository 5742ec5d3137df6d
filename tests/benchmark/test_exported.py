from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbench.benchmark import exported
from qbench.errors import QbenchError
from qbench.spec.predictions import Predictions
from tests.helpers.lines import Lines, edit, lines_of
from tests.helpers.results import classified, result

SEEDS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one row over three seeds, which agrees with itself. Tests only read it."""
    file = tmp_path_factory.mktemp("whole") / exported.FILE
    exported.write(file, "small", [classified(seed=seed) for seed in range(SEEDS)])
    return file


@pytest.fixture
def file(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    copy = tmp_path / exported.FILE
    copy.write_bytes(whole.read_bytes())
    return copy


def read(file: Path, good: int) -> str:
    """Read a file, expect so many good trials, return what is refused."""
    content = exported.read([file])
    assert len(content.good) == good, content.refused
    return "\n".join(map(str, content.refused))


def position(lines: Lines, seed: int) -> int:
    """The position of the line of a seed, from 0."""
    return next(i for i, line in enumerate(lines[1:], 1) if line["trial"]["seed"] == seed)


def test_what_is_written_is_read(whole: Path) -> None:
    content = exported.read([whole])
    written = {seed: classified(seed=seed) for seed in range(SEEDS)}
    for _, each in content.good:
        same = {"started": each.started}
        assert each == written[each.trial.seed].model_copy(update=same)
    assert not content.refused


def test_lines_are_in_the_order_of_keys_and_bytes_do_not_depend_on_time(
    whole: Path, tmp_path: Path
) -> None:
    keys = [line["key"] for line in lines_of(whole)[1:]]
    assert keys == sorted(keys)
    results = [each.result for each in exported.read([whole]).good]
    exported.write(tmp_path / "again", "small", results[::-1])
    assert (tmp_path / "again").read_bytes() == whole.read_bytes()


def test_the_first_line_has_the_true_classes(whole: Path) -> None:
    first, *_ = lines_of(whole)
    (labels,) = first["labels"]
    assert (labels["dataset"], labels["validation"], labels["count"]) == ("digits", 0, 360)


def change_prediction(line: dict[str, Any]) -> None:
    values = Predictions.model_validate(line["predictions"]).values
    values[100] = (values[100] + 1) % 10
    line["predictions"] = Predictions.of(values, 10).model_dump()


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "prediction": change_prediction,
    "epoch": lambda line: line["history"][0].update(train_loss=0.25),
    "missing epoch": lambda line: line["history"].pop(0),
    "metric": lambda line: line["metrics"].update(top1=95.0),
    "fingerprint": lambda line: line["code"].update(revision=1),
    "environment": lambda line: line["environment"].update(torch="3"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_changed_line_is_refused_and_the_others_are_read(file: Path, what: str) -> None:
    number = position(lines_of(file), 1)
    key = lines_of(file)[number]["key"]
    edit(file, lambda lines: EDITS[what](lines[number]))
    told = read(file, good=SEEDS - 1)
    assert told.startswith(
        f"{file}, line {number + 1}: dorefa 2/2 convnet_tiny digits seed 1 ({key})"
    )
    assert told.endswith("was changed after it was exported: the first line has another hash of it")


# What a hash does not show, if somebody writes a new one.
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("prediction", "top1 is 90, and its predictions give 89.7222"),
        ("missing epoch", "its history has epoch 2 where epoch 1 belongs"),
        ("metric", "top1 is 95, and 90 after the last epoch of its history"),
        ("fingerprint", "its fingerprint is that of revision 2 of dorefa, and it says 1"),
    ],
)
def test_a_line_that_contradicts_itself_is_refused(file: Path, what: str, message: str) -> None:
    number = position(lines_of(file), 1)
    edit(file, lambda lines: EDITS[what](lines[number]), honest=False)
    assert message in read(file, good=SEEDS - 1)


def copy_seed(lines: Lines) -> None:
    """Put the numbers of seed 0 into the line of seed 1."""
    source, target = (lines[position(lines, seed)] for seed in (0, 1))
    own = {name: target[name] for name in ("key", "trial")}
    target.clear()
    target.update({**source, **own})


def test_a_trial_copied_under_another_seed_is_refused(file: Path) -> None:
    edit(file, copy_seed, honest=False)
    told = read(file, good=SEEDS - 2)  # nothing tells which one is the copy
    assert told.count("one of them is a copy") == 2
    assert "seed 1" in told


def test_a_key_that_is_not_that_of_the_configuration_is_refused(file: Path) -> None:
    number = position(lines_of(file), 2)
    edit(file, lambda lines: lines[number]["trial"].update(bits="1/1"), honest=False)
    assert "of its configuration" in read(file, good=SEEDS - 1)


def test_a_dropped_seed_is_named(file: Path) -> None:
    lines = lines_of(file)
    number = position(lines, 2)
    edit(file, lambda lines: lines.pop(number))
    told = read(file, good=SEEDS - 1)
    assert f"seed 2 ({lines[number]['key']}): the first line lists it, and no line has it" in told


def test_a_seed_that_is_dropped_from_the_first_line_too_is_found_by_the_table(file: Path) -> None:
    lines = lines_of(file)
    rows = [f"{line['key']},dorefa,2/2,{line['trial']['seed']},done,90" for line in lines[1:]]
    header = "key,method,bits,seed,status,top1"
    (file.parent / "trials.csv").write_text("\n".join([header, *rows, "0,ste,2/2,0,failed,"]))
    assert read(file, good=SEEDS) == ""
    number = position(lines, 2)
    edit(file, lambda lines: lines.pop(number), honest=False)
    told = read(file, good=SEEDS - 1)
    assert f"seed 2 ({lines[number]['key']})" in told
    assert "trials.csv has it, and this file does not" in told


def test_of_many_trials_that_only_the_table_has_a_few_are_named(file: Path) -> None:
    rows = [f"{number:016x},ste,2/2,{number},done,90" for number in range(8)]
    header = "key,method,bits,seed,status,top1"
    (file.parent / "trials.csv").write_text("\n".join([header, *rows]))
    told = read(file, good=SEEDS)
    assert told.count("and this file does not") == 5
    assert "3 more trials of" in told
    assert "qbench leaderboard" in told


def test_numbers_that_differ_from_the_table_are_refused(file: Path) -> None:
    key = lines_of(file)[1]["key"]
    (file.parent / "trials.csv").write_text(f"key,status,top1\n{key},done,91.5\n")
    assert "top1 is 90, and 91.5 in" in read(file, good=SEEDS - 1)


def test_lines_that_are_added_or_doubled_are_refused(file: Path) -> None:
    edit(file, lambda lines: lines.append({**lines[1]}))
    assert "line 2 is of the same trial" in read(file, good=SEEDS)
    edit(file, lambda lines: lines[0]["trials"].pop(lines[1]["key"]))
    assert "the first line does not list it" in read(file, good=SEEDS - 1)


def test_a_bad_line_costs_no_other(file: Path) -> None:
    text = gzip.decompress(file.read_bytes()).decode().splitlines()
    text[2] = text[2][:50]
    file.write_bytes(gzip.compress("\n".join(text).encode()))
    told = read(file, good=SEEDS - 1)
    assert "line 3: is not JSON" in told
    assert "the first line lists it, and no line has it" in told


def test_a_text_may_have_any_character(file: Path) -> None:
    odd = classified().model_copy(update={"clipped": "a\u2028b\x85c\x0b"})
    exported.write(file, "small", [odd])
    assert read(file, good=1) == ""


def test_of_a_file_that_is_cut_off_the_beginning_is_read(file: Path, whole: Path) -> None:
    results = [classified(seed=seed, wrong=seed) for seed in range(40)]
    exported.write(file, "small", results)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 3 // 4])
    content = exported.read([file])
    assert 0 < len(content.good) < 40
    told = "\n".join(map(str, content.refused))
    assert f"{file}: is cut off" in told
    assert "more trials are missing" in told


def test_true_classes_that_are_not_those_of_the_data_are_refused(file: Path) -> None:
    def shift(lines: Lines) -> None:
        (labels,) = lines[0]["labels"]
        values = Predictions.model_validate(labels).values
        labels.update(Predictions.of(values[::-1], 10).model_dump())

    edit(file, shift)
    assert "the true classes in it are not those of digits here" in read(file, good=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"text", "is not a gzip file"),
        (b"", "is cut off"),
        (gzip.compress(b"{}\n", mtime=0), "its format is None"),
        (gzip.compress(b'{"format": "qbench-results-2"}\n', mtime=0), "it lacks 'labels'"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / exported.FILE).write_bytes(data)
    assert message in read(tmp_path, good=0)
    assert exported.keys_in(tmp_path / exported.FILE) == {}


def single(**changes: Any) -> dict[str, Any]:
    """The content of a file of one trial, as version 0.1.0 wrote it."""
    one = result()
    content = one.model_dump(mode="json", exclude={"weights", "curve", "examples", "traceback"})
    return {"format": "qbench-result-1", "key": one.trial.key, **content, **changes}


def test_a_file_of_one_trial_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(single()))
    (tmp_path / "y.json").write_text("{")
    assert "y.json: is not JSON" in read(tmp_path, good=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("format"), "its format is None, not 'qbench-result-1'"),
        (lambda c: c["trial"].update(seed=7), "its key is "),
        (lambda c: c.pop("status"), "status: field required"),
        (lambda c: c["trial"]["recipe"].update(lr="fast"), "trial.recipe.lr: must be a number"),
        (lambda c: c["metrics"].update(top1=95.0), "top1 is 95, and 90 after the last epoch"),
    ],
)
def test_a_file_of_one_trial_is_checked(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    content = single()
    change(content)
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert message in read(tmp_path / "x.json", good=0)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match=r"y.json: No such file"):
        exported.read([tmp_path / "y.json"])
    with pytest.raises(QbenchError, match=r"has no trials.jsonl.gz"):
        exported.read([tmp_path])


def test_folders_of_suites_are_read(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / exported.FILE).write_bytes(whole.read_bytes())
    assert read(tmp_path, good=SEEDS) == ""
    assert list(exported.in_folder(tmp_path)) == [tmp_path / "small" / exported.FILE]
    assert len(exported.keys_in(tmp_path / "small" / exported.FILE)) == SEEDS
