"""The verbs `compare`, `export` and `import`."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from qbench import registry
from qbench.plugins import Plugin, load_plugin
from tests.conftest import QbenchHere
from tests.helpers.exchanged import BEFORE, filled
from tests.helpers.frames import trials


def test_results_travel_by_commands(
    small_suite: Path, small_results: Path, elsewhere: Path, tmp_path: Path, qbench_here: QbenchHere
) -> None:
    assert "Wrote 6 trials" in qbench_here(
        "export", small_suite, tmp_path / "out", "--results", small_results
    )
    assert "6 trials added, 0 there" in qbench_here(
        "import", tmp_path / "out", "--results", elsewhere
    )
    assert "3 results: 3 same" in qbench_here("compare", tmp_path / "out", elsewhere)
    qbench_here("leaderboard", small_suite, "--results", elsewhere)
    csv = elsewhere / "small" / "trials.csv"
    assert "3 results: 3 same" in qbench_here(
        "compare", csv, small_suite, "--results", small_results
    )


def test_commands_tell_what_differs(
    small_suite: Path,
    small_results: Path,
    small_exported: Path,
    elsewhere: Path,
    qbench_here: QbenchHere,
) -> None:
    filled(small_suite, elsewhere, {**BEFORE, "ste": 85.0})
    told = qbench_here("import", small_exported, "--results", elsewhere, code=1)
    assert "0 trials added, 4 there already" in told
    assert "is there with top1 85, not 90" in told
    told = qbench_here("compare", small_results, elsewhere, code=1)
    assert "STE" in told
    assert "DoReFa" not in told
    assert "2 with one key and two numbers" in told
    found = json.loads(qbench_here("compare", small_results, elsewhere, "--json", code=1))
    verdicts = {each["label"]: each["verdict"] for each in found}
    assert verdicts == {"Full precision": "same", "STE": "not tested", "DoReFa-Net": "same"}


def test_whatever_qbench_wrote_can_be_compared(
    small_suite: Path, small_results: Path, elsewhere: Path, tmp_path: Path, qbench_here: QbenchHere
) -> None:
    shutil.copytree(small_results, elsewhere, dirs_exist_ok=True)
    qbench_here("leaderboard", small_suite, "--results", elsewhere)
    tables = elsewhere / "small"
    for name in ("one", "two"):  # results on a server leave folders of tables alone
        shutil.copytree(tables, tmp_path / "tables" / name)
    for side in (tables, tmp_path / "tables", tables / "trials.csv", elsewhere):
        assert "3 results: 3 same" in qbench_here("compare", side, small_results)


def test_a_suite_is_compared_by_its_name(elsewhere: Path, qbench_here: QbenchHere) -> None:
    told = qbench_here("compare", "digits_start", "digits_start", "--results", elsewhere, code=2)
    assert "digits_start: nothing in it is finished" in told


def test_a_comparison_fits_80_columns(
    tmp_path: Path, qbench_here: QbenchHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    label = "Quantization Networks (temperature_rate=10)"
    for name, lr, values in (("a", 0.1, (90.0, 91.5, 92.2)), ("b", 0.2, (80.0, 81.3, 82.6))):
        frame = trials(label, *values, bits="3(±4)/32", training=f'{{"lr": {lr}}}')
        frame.assign(key=frame["key"] + name).to_csv(tmp_path / f"{name}.csv")
    told = qbench_here("compare", tmp_path / "a.csv", tmp_path / "b.csv", code=1)
    *shown, last = told.splitlines()
    assert max(map(len, shown)) <= 80
    assert "3(±4)/32 91.23 81.30 -9.93" in " ".join(" ".join(shown).split())
    assert "lr 0.1 → 0.2" in " ".join(" ".join(shown).split())
    assert last.endswith("1 result: 1 worse.")


def test_what_was_edited_does_not_travel(
    small_suite: Path, small_results: Path, elsewhere: Path, tmp_path: Path, qbench_here: QbenchHere
) -> None:
    shutil.copytree(small_results, elsewhere, dirs_exist_ok=True)
    edit = "UPDATE latest_metrics SET value = 99.9 WHERE key = 'final_top1' AND value = 90.0"
    with closing(sqlite3.connect(elsewhere / "mlflow.db")) as database, database:
        assert database.execute(edit).rowcount == 1
    told = qbench_here("export", small_suite, tmp_path / "out", "--results", elsewhere)
    assert "Wrote 5 trials" in told
    assert "Left out: ste 2/32 convnet_tiny digits seed 0: what is stored of it" in told
    for side in (elsewhere, small_suite):  # `there` is where the suite's trials are looked up
        told = qbench_here("compare", small_results, side, "--results", elsewhere, code=1)
        assert "1 stale in B: what is stored of it was changed by hand" in told


def test_mistakes_are_told(
    tmp_path: Path, elsewhere: Path, small_suite: Path, qbench_here: QbenchHere
) -> None:
    told = qbench_here("compare", small_suite.with_name("smal.yaml"), small_suite, code=2)
    assert "no such file or folder; did you mean 'small.yaml'?" in told
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    told = qbench_here("compare", tmp_path / "x.csv", small_suite, code=2)
    assert "x.csv: has no column 'key'; give a trials.csv" in told
    (tmp_path / "x.txt").write_text("")
    assert "compare suites (.yaml)" in qbench_here(
        "compare", tmp_path / "x.txt", small_suite, code=2
    )
    told = qbench_here("compare", small_suite, small_suite, "--results", elsewhere, code=2)
    assert "small.yaml: nothing in it is finished" in told
    assert "No such file" in qbench_here("import", tmp_path / "no.json", code=2)
    (tmp_path / "bad.json").write_text("{")
    told = qbench_here("import", tmp_path / "bad.json", "--results", elsewhere, code=1)
    assert "0 trials added, 0 there already, 1 refused." in told
    assert f"Refused: {tmp_path}/bad.json: is not JSON" in told
    told = qbench_here("compare", tmp_path / "bad.json", small_suite, code=2)
    assert "bad.json: is not JSON" in told
    (tmp_path / "a1b2.json").touch()
    told = qbench_here("import", tmp_path / "a1b.json", code=2)
    assert "No such file or directory; did you mean 'a1b2.json'?" in told


def test_methods_of_files_are_compared_by_their_titles(
    small_suite: Path, elsewhere: Path, tmp_path: Path, qbench_here: QbenchHere
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from qbench_methods.ste import STE\n\n\n"
        'class Own(STE):\n    title = "My own"\n    power: float = 0.5\n'
    )
    suite = tmp_path / "own.yaml"
    suite.write_text(small_suite.read_text().replace("[ste, dorefa]", "[own]"))
    load_plugin(Plugin.read(file))
    filled(suite, elsewhere, {"fp32": 99.0, "own": 90.0})
    qbench_here("leaderboard", suite, "--results", elsewhere, "--methods", file)
    qbench_here("export", suite, tmp_path / "out", "--results", elsewhere, "--methods", file)
    csv, exported = elsewhere / "small" / "trials.csv", tmp_path / "out"
    registry._of_files["methods"].clear()  # as in another process
    assert "2 results: 2 same" in qbench_here("compare", csv, exported)
    assert "2 results: 2 same" in qbench_here("compare", csv, elsewhere)
    told = qbench_here("compare", exported, csv, "--json", "--methods", file)
    assert "My own" in told
    own = ("compare", suite, csv, "--results", elsewhere)
    assert "2 results: 2 same" in qbench_here(*own, "--methods", file)
    registry._of_files["methods"].clear()
    assert "`--methods FILE.py` adds the methods of a file" in qbench_here(*own, code=2)
