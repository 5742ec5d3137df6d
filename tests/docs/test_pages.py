from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urldefrag

import pytest
import torch
import yaml

from docs.tools import columns_page, deploy_table, readme_table
from qbench import registry

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Pages of the site that are made when it is built.
MADE = {"index.md", "reference/commands.md", "reference/methods.md", "reference/suite.md"}


def nav(entry: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from nav(inner)


def configuration() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return loaded


def prose(path: Path) -> str:
    """A page's text without its code."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in words}


def code(page: str, words: str) -> str:
    """The Python of a page that has these words in it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if words in b]
    return block


def run(source: str) -> ModuleType:
    module = ModuleType("shown")
    exec(source, module.__dict__)
    return module


def test_every_page_is_in_the_navigation_once() -> None:
    named = list(nav(configuration()["nav"]))
    assert len(named) == len(set(named))
    written = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(named) == written | MADE
    assert not written & MADE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", prose(page)):
        path, fragment = urldefrag(link)
        target = (page.parent / path).resolve() if path else page
        there = target.exists() or path in MADE
        if not there or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_model_that_the_documentation_shows_has_the_shape_that_a_dataset_asks_for() -> None:
    model = run(code("own-model.md", "small_mlp")).small_mlp(num_classes=10, in_channels=1)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_data_that_the_documentation_shows_are_a_dataset() -> None:
    dataset = run(code("own-data.md", "OddOrEven")).OddOrEven()
    image, label = dataset.test()[0]
    assert image.shape == dataset.image_shape
    assert dataset.sizes() == (1437, 360)
    labels = {int(label) for _, label in dataset.train()}
    assert labels == set(range(dataset.num_classes))
    assert label.dtype == torch.int64


def test_the_suite_that_the_tutorial_shows_is_one(tmp_path: Path) -> None:
    from qbench.suite.suite import load_suite

    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "first.yaml").write_text(block, encoding="utf-8")
    changes = re.findall(r"--set (\S+)", text)
    assert len(changes) == 2
    for assignments in ([], *([change] for change in changes)):
        suite = load_suite(tmp_path / "first.yaml", assignments)
        assert [row.method for row in suite.methods] == ["fp32", "twn", "dorefa", "lsq"]


def test_the_leaderboard_in_the_readme_is_the_one_of_its_results() -> None:
    written = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "| Quantization Networks | " in written
    assert written == readme_table.current(), "run `python docs/tools/readme_table.py`"


def test_the_documented_columns_are_those_there_are() -> None:
    written = columns_page.PAGE.read_text(encoding="utf-8")
    assert written == columns_page.columns_page(), "run `python docs/tools/columns_page.py`"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    assert "qbench leaderboard" in commands
    methods = (tmp_path / "reference" / "methods" / "index.html").read_text(encoding="utf-8")
    assert 'id="qbench_methods.lsq"' in methods
    tables = tmp_path / "results" / "digits_start" / "leaderboard" / "index.html"
    assert "Quantization Networks" in tables.read_text(encoding="utf-8")


def test_the_table_of_formats_has_every_method_as_it_is_written_now() -> None:
    pytest.importorskip("qonnx")
    page = deploy_table.PAGE.read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| [\d/, ]+ \|", page, re.MULTILINE)
    assert {*listed, "fp32"} == set(registry.names("methods"))
    for row in deploy_table.rows("wrpn", []):
        line = "| " + " | ".join(row) + " |"
        assert line in page, "run `python docs/tools/deploy_table.py`"
