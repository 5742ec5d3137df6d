"""MkDocs hook that adds pages to the documentation's site.

The README is the first page. The tables of suites are pages, so that links to them work. The pages
of commands, methods and the suite schema are generated from the code. Links out of `docs/` are
rewritten to these pages, or to a copy of the linked file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag

import typer
from mkdocs.structure.files import File
from typer.cli import get_docs_for_click

from qbench import registry
from qbench.cli.main import app
from qbench.suite.schema import suite_schema

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
METHODS = "reference/methods.md"
_KINDS = {
    "array": "a list",
    "object": "a mapping",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "null": "nothing",
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)\s]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the files that pages link to."""
    pages = {
        "index.md": (ROOT / "README.md").read_text(encoding="utf-8"),
        "reference/commands.md": _commands(),
        METHODS: _methods(),
        "reference/suite.md": _suite(),
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for path in sorted(set(_linked())):
        files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite the links of a page to the places of their targets on the site."""
    source = _source(page.file.src_uri)
    here = Path(page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        link, fragment = urldefrag(match[0])
        uri = _uri((source.parent / link).resolve())
        path, _, anchor = uri.partition("#")
        anchor = fragment or anchor
        return os.path.relpath(path, here) + (f"#{anchor}" if anchor else "")

    return _LINK.sub(rewritten, markdown) if source.exists() else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Remove the second colon that docstrings have before a block of equations."""
    return html.replace("::</p>", ":</p>")


def _source(uri: str) -> Path:
    """Return the source file of a page; for a generated page, the file does not exist."""
    if uri == "index.md":
        return ROOT / "README.md"
    if uri.startswith("source/"):
        return ROOT / uri.removeprefix("source/")
    return (ROOT if uri.startswith("results/") else DOCS) / uri


def _uri(path: Path) -> str:
    """Return the place on the site of a file of the repository."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    inside = path.relative_to(ROOT)
    if inside.parts[0] == "results":
        return inside.as_posix()
    if inside.parts[0] == "methods":
        anchor = f"#qbench_methods.{inside.stem}" if inside.suffix else ""
        return METHODS + anchor
    return f"source/{inside.as_posix()}"


def _linked() -> Iterator[Path]:
    """Yield the files outside `docs/` that its pages, the README and the tables link to."""
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    tables = sorted(ROOT.glob("results/*/leaderboard.md"))
    for page in [*pages, *tables]:
        for link in _LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / urldefrag(link).url).resolve()
            inside = path.is_relative_to(DOCS) or path.is_relative_to(ROOT / "methods")
            if path.is_file() and not inside:
                yield path
    yield from tables


def _commands() -> str:
    """Write the page of commands from their help texts."""
    command = typer.main.get_command(app)
    with typer.Context(command) as context:
        text = get_docs_for_click(obj=command, ctx=context, name="qbench")
    return text.replace("# `qbench`", "# Commands", 1)


def _methods() -> str:
    """Write the page of methods, with one section for each module, sorted by name."""
    names = {registry.method_class(name).__module__ for name in registry.names("methods")}
    sections = [
        f"::: {name}\n    options: {{heading_level: 2, show_root_full_path: false}}"
        for name in sorted(names)
    ]
    return "\n\n".join(["# Methods", *sections]) + "\n"


def _suite() -> str:
    """Write the page of the keys of suites from the suite schema."""
    schema = suite_schema()
    rows = schema["$defs"]["row"]["anyOf"][1]["properties"]
    methods = {name: rows[name] for name in registry.names("methods")}
    blocks = [
        "# Schema of suites",
        "[suites.md](../suites.md) explains a suite; these are all its keys, as "
        "[the schema](../suite.schema.json) has them.",
        _table(schema["properties"]),
        "## Beside a method",
        _table({name: row for name, row in rows.items() if name not in methods}),
        "## Values of a recipe",
        _table(schema["$defs"]["recipe"]["properties"]),
        "## Options of methods",
    ]
    for name, options in methods.items():
        if options["properties"]:
            blocks += [f"### {name}", options["description"] + ".", _table(options["properties"])]
    return "\n\n".join(blocks) + "\n"


def _table(properties: dict[str, Any]) -> str:
    """Write a Markdown table of the properties of a schema."""
    lines = ["| key | default | values | |", "|---|---|---|---|"]
    for name, schema in properties.items():
        default = f"`{schema['default']}`" if "default" in schema else ""
        lines.append(
            f"| `{name}` | {default} | {_values(schema)} | {schema.get('description', '')} |"
        )
    return "\n".join(lines)


def _values(schema: dict[str, Any]) -> str:
    """Describe the valid values of a schema in a few words."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return f"a {schema['$ref'].rpartition('/')[2]}"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(_values, schema["anyOf"]))))
    kinds = schema.get("type", [])
    return " or ".join(_KINDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))
