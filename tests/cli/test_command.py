"""The help of every command."""

from __future__ import annotations

import re

import pytest

from tests.conftest import QbenchHere

VERBS = (
    *("list", "plan", "rehearse", "run", "leaderboard", "power", "show", "compare"),
    *("deploy", "export", "import", "verify", "new-method", "check", "profile", "schema", "data"),
)


def test_the_verbs_are_in_the_order_of_use_with_whole_sentences(
    qbench_here: QbenchHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, _, told = qbench_here("--help").partition("Commands:\n")
    lines = told.rstrip().splitlines()
    assert [line.split()[0] for line in lines] == list(VERBS)
    assert all(line.endswith(".") for line in lines)


@pytest.mark.parametrize(
    "verb", [*VERBS, "data voc-like", "data imagenet-like", "data fashion-mnist"]
)
def test_each_verb_names_its_arguments_alike(qbench_here: QbenchHere, verb: str) -> None:
    told = qbench_here(*verb.split(), "-h")
    assert told == qbench_here(*verb.split(), "--help")
    usage = re.findall(r"Usage: (.*)", told)[0]
    names = usage.split("[OPTIONS]")[1].split() if verb != "data" else []
    names = [name.strip("[]") for name in names]  # of arguments that may be left out
    assert all(re.fullmatch(r"[A-Z]+(\.\.\.)?", name) for name in names)
    assert not re.search(r"[{<][^}>]*[}>]", told)
    assert all(re.search(rf"^  {re.escape(name.rstrip('.'))}  ", told, re.M) for name in names)
