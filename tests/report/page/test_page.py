from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd

from qbench.benchmark import leaderboard
from qbench.benchmark.benchmark import Benchmark
from qbench.report.columns import BY_NAME
from qbench.report.page import details
from qbench.report.tables.details import DetailsTable
from tests.conftest import Qbench, TinyRun
from tests.helpers.frames import full, trials
from tests.helpers.page_frames import HOSTILE, history, render, some


class Parsed(HTMLParser):
    """What a browser would make of a page: its tags, and texts by the tag that they are in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.tags[-1][0], data))

    def attributes(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]


def data(text: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def columns(text: str) -> list[str]:
    list_ = text[text.index('<table class="list">') :]
    return re.findall(r'data-sort="(\w+)"', list_)


def test_what_users_name_is_text_and_never_markup() -> None:
    calm = Parsed(render(*some("Calm"), title="Calm"))
    hostile = Parsed(render(*some(), title=HOSTILE, log=HOSTILE, environment={HOSTILE: HOSTILE}))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in calm.tags]
    assert [tag for tag, _ in hostile.tags].count("script") == 2
    assert not [name for _, attributes in hostile.tags for name in attributes if name[:2] == "on"]
    assert ("h1", HOSTILE) in hostile.texts
    assert HOSTILE in hostile.attributes("data-label")
    assert any(f"broke: {HOSTILE}" in tip for tip in hostile.attributes("data-tip"))


def test_the_data_says_the_same_as_it_was_given() -> None:
    found = data(render(*some(), log=f"{HOSTILE}\u2028", environment={"gpu": HOSTILE}))
    trial = next(iter(found["trials"].values()))
    assert trial["log"] == f"{HOSTILE}\u2028"
    assert found["shared"][trial["environment"]] == {"gpu": HOSTILE}
    assert HOSTILE in found["results"][-1]["title"]


def test_the_policy_allows_this_script_and_this_style_and_no_network() -> None:
    text = render(*some())
    parsed = Parsed(text)
    (policy,) = (p for p in parsed.attributes("content") if "default-src" in p)
    assert "default-src 'none'" in policy
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    urls = set(re.findall(r"https?://[^\"'\s]+", text))
    assert urls == {"http://www.w3.org/2000/svg"}
    assert not parsed.attributes("style")


def test_further_tables_are_sections_whose_texts_are_never_markup() -> None:
    columns = (BY_NAME["label"], BY_NAME["bits"], BY_NAME["mean"])
    table = DetailsTable("What tuning found", columns, [[HOSTILE, "2/2", "90.00"]], "It is < 100.")
    text = render(*some(), beneath=[table])
    parsed = Parsed(text)
    assert ("h2", "What tuning found") in parsed.texts
    assert ("p", "It is < 100.") in parsed.texts
    assert ("th", HOSTILE) in parsed.texts
    assert ("td", "90.00") in parsed.texts
    assert "What tuning found" not in render(*some())


def test_the_same_trials_give_the_same_bytes() -> None:
    picture = {"b.svg": b"<svg/>", "a.png": b"png"}
    assert render(*some(), pictures=picture) == render(*some(), pictures=picture)


def test_a_result_without_a_number_says_why() -> None:
    tips = Parsed(render(*some())).attributes("data-tip")
    assert "Alpha at 2/2\nweights only" in tips
    waiting = render(trials("A", 97.0, 98.0), trials("B", "missing", "missing"))
    assert "B at 1/32\nNot run yet" in Parsed(waiting).attributes("data-tip")


def test_a_result_says_its_seeds_its_claim_and_its_flaws() -> None:
    claim: dict[str, Any] = {"published_value": 69.1, "source": "a paper, Table 2"}
    claim["stale"] = "a's file has changed"
    text = render(trials("A", 97.0, 98.0, audit="9 levels, 4 promised", **claim))
    (tip,) = {tip for tip in Parsed(text).attributes("data-tip") if tip.startswith("A at")}
    assert "97.50 ± 0.71 %, n = 2 of 2 seeds (97.00, 98.00)" in tip
    assert "Published, not run here: 69.1 (a paper, Table 2)" in tip
    assert "Not k-bit: 9 levels, 4 promised" in tip
    assert tip.count("Stale: a's file has changed") == 1
    assert ("small", "published 69.1") in Parsed(text).texts


def test_a_standing_says_relative_to_whom_and_with_which_p() -> None:
    cells = [
        trials("A", 90.0, 91.0, 92.5),
        trials("B", 90.1, 90.8, 92.2),
        trials("C", 50.0, 51.5, 52.0),
    ]
    tips = Parsed(render(*cells)).attributes("data-tip")
    told = {tip.split(" at ")[0]: tip for tip in tips if " at 1/32" in tip}
    assert "Standing: best" in told["A"]
    assert "Standing: tied with A (p = 0.38; 0.38 after Holm's correction)" in told["B"]
    assert "Standing: worse than A (p = 5.2e-05; 0.0001 after Holm's correction)" in told["C"]
    assert "tied with A (p = 0.38; 0.38 after Holm's correction)" in tips  # of the list's cell


def test_the_filter_of_bits_offers_only_columns_of_a_grid() -> None:
    text = render(full(99.0), trials("A", 97.0), trials("A", 98.0, bits="2/2"))
    choices = re.findall(r"<option>(.*?)</option>", text)
    assert "32/32" not in choices
    assert {"1/32", "2/2"} <= set(choices)


def test_the_foot_says_where_the_numbers_come_from() -> None:
    known = {"qbench": "0.2.0", "git_commit": "0123456789abcdef"}
    text = render(full(99.0), trials("A", 97.0), environment=known)
    foot = text[text.index("<footer>") :]
    assert (
        "Suite suite; the newest trial is of 2026-03-31; qbench 0.2.0, commit 0123456789." in foot
    )
    (address,) = (u for u in Parsed(text).attributes("href") if u.startswith("data:text/csv"))
    content = base64.b64decode(address.partition("base64,")[2]).decode()
    assert content.startswith("dataset,model,label,")
    assert len(content.splitlines()) == 3


def test_the_order_of_trials_does_not_change_the_foot() -> None:
    one, two = ({"qbench": "0.2.0", "git_commit": letter * 12} for letter in "ab")
    feet = [
        text[text.index("<footer>") : text.index("The results as a table")]
        for known in ([one, two], [two, one])
        if (text := render(full(99.0), trials("A", 97.0), environments=known))
    ]
    assert "commit aaaaaaaaaa; qbench 0.2.0, commit bbbbbbbbbb" in feet[0]
    assert feet[0] == feet[1]


def test_a_doubtful_baseline_is_named_above_the_results() -> None:
    text = render(full(10.0), trials("A", 97.0))
    assert '<p class="doubt">Doubtful: full precision of net on digits (10.00 %) is no' in text


def test_drawings_are_inverted_in_the_dark_and_photographs_are_not() -> None:
    pictures = {"ranks.svg": b"<svg/>", "detections_net_2-2.png": b"png"}
    tags = Parsed(render(trials("A", 97.0), pictures=pictures)).tags
    assert [a["class"] for tag, a in tags if tag == "img"] == ["drawing", "photo"]


def test_what_all_results_share_is_said_once_and_is_no_column() -> None:
    same = render(trials("A", 97.0, 98.0), trials("B", 96.0, 98.0))
    assert "model" not in columns(same)
    assert "Model net" in same[same.index("The same of all") :]
    others = render(trials("A", 97.0, 98.0), trials("B", 96.0, 98.0, model="other"))
    assert "model" in columns(others)
    assert columns(same)[:5] == ["label", "bits", "mean", "std", "n"]


def test_marks_of_the_tables_are_on_the_page_too() -> None:
    best = trials("Best", 95.0, 96.0, 97.0, 96.0)
    worse = trials("Worse", 80.0, 81.1, 82.2, 80.9)
    apart = trials("Apart", 95.5, 95.4, 96.9, 95.9, epochs=90)
    text = render(best, worse, apart)
    assert re.findall(r'>([\d.]+) ± [\d.]+<span class="mark">†', text) == ["81.05"]
    assert re.findall(r">(\w+) ‡", text) == ["Apart"]
    bold = re.compile(r'number best"[^>]*>(?:<button[^>]*>)?([\d.]+)')
    assert not bold.findall(text)  # a tie
    assert set(bold.findall(render(best, worse))) == {"96.00"}


def test_full_precision_stands_above_the_widths() -> None:
    text = render(full(99.0), trials("A", 97.0))
    grid = text[text.index('<table class="grid"') : text.index('<table class="list">')]
    assert "32/32" not in grid
    assert "Full precision: <button" in text
    assert re.search(r">99\.00\s*</button>", text)


def test_long_curves_keep_their_ends_and_few_points_between() -> None:
    cell = trials("A", 97.0)
    key = str(cell["key"].iloc[0])
    (trial,) = data(render(cell, histories=history(key, 9001)))["trials"].values()
    epochs = trial["curves"]["epoch"]
    assert (epochs[0], epochs[-1]) == (1, 9001)
    assert len(epochs) == len(trial["curves"]["top1"]) <= details.MOST_CURVE_POINTS + 1


def test_what_is_not_finite_is_missing() -> None:
    cell = trials("A", 97.0, test_loss=float("inf"))
    curves = history(str(cell["key"].iloc[0]), 3)
    curves.loc[1, "train_loss"] = float("nan")
    (trial,) = data(render(cell, histories=curves))["trials"].values()
    assert trial["metrics"]["test_loss"] is None
    assert trial["curves"]["train_loss"] == [1.0, None, 0.33333]


def test_what_trials_share_is_kept_once() -> None:
    one, many = (render(trials("A", *[97.0] * n), environment={"x": "y" * 999}) for n in (1, 50))
    assert one.count("y" * 999) == many.count("y" * 999) == 1


def test_five_hundred_long_trials_make_a_page_that_can_be_sent() -> None:
    cells = [
        trials(f"Method {m}", *[97.0 + s / 7 for s in range(5)], bits=bits)
        for m in range(25)
        for bits in ("1/32", "2/32", "1/1", "2/2")
    ]
    histories = pd.concat([history(key, 300) for cell in cells for key in cell["key"]])
    text = render(*cells, histories=histories)
    assert len(data(text)["trials"]) == 500
    assert len(text) < 4e6


def test_of_the_files_of_one_figure_the_smallest_is_embedded() -> None:
    text = render(
        trials("A", 97.0),
        pictures={"one.png": b"long" * 9, "one.svg": b"short", "two.png": b"p"},
    )
    sources = Parsed(text).attributes("src")
    assert sources == [
        f"data:image/svg+xml;base64,{base64.b64encode(b'short').decode()}",
        f"data:image/png;base64,{base64.b64encode(b'p').decode()}",
    ]


def test_the_command_writes_the_page_from_the_store_alone(
    tiny_run: TinyRun, tmp_path: Path, qbench_in: Callable[[Path], Qbench]
) -> None:
    shutil.copyfile(tiny_run.qbench.results / "mlflow.db", tmp_path / "mlflow.db")
    file = tmp_path / "tiny" / "leaderboard.html"
    assert str(file) in qbench_in(tmp_path)("leaderboard", tiny_run.suite, "--html")
    text = file.read_text(encoding="utf-8")
    leaderboard.write(Benchmark.open(tiny_run.suite, tmp_path), html=True)
    assert file.read_text(encoding="utf-8") == text
    found = data(text)
    keys = pd.read_csv(file.with_name("trials.csv")).query("status == 'done'")["key"]
    assert set(found["trials"]) == set(keys)
    trial = found["trials"][keys.iloc[0]]
    assert found["shared"][trial["environment"]]["torch"]
    assert len(trial["curves"]["epoch"]) == 3
    assert str(tmp_path) not in text
    assert str(tiny_run.qbench.results) not in text


def test_rows_with_a_teacher_are_marked() -> None:
    taught = trials("Taught", 9.0, teacher="weight 1, temperature 4")
    text = render(taught, trials("Alone", 9.0, teacher=""))
    assert re.findall(r">(\w+) §", text) == ["Taught"]
    assert "Full-precision teacher: weight 1, temperature 4" in text
