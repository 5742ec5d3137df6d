"""The verbs for shared results: `qbench compare`, `export` and `import`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.options import (
    AsJson,
    Assignments,
    DatasetFiles,
    MethodFiles,
    ModelFiles,
    Results,
    SuiteFile,
    plugin_files,
)
from qbench.files import expanded, resolved
from qbench.spec.words import counted

if TYPE_CHECKING:
    from rich.table import Table

    from qbench.report.comparison import Difference

_SIDE = (
    "A suite (file or name), any folder that qbench wrote, a trials.csv, or exported files. Or the "
    "key of a trial."
)
_STYLES = {"worse": "red", "better": "green"}


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", parser=expanded, help=_SIDE)],
    b: Annotated[Path, typer.Argument(metavar="B", parser=expanded, help=_SIDE)],
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Compare results B with results A, and test the differences.

    Results are matched by dataset, model, row and bit-widths. Differences are tested over the seeds
    that both have (paired t-test, Holm's correction over all that is compared). Results that are
    the same are counted, not listed. If A and B are keys, or the first digits of keys, what these
    two networks predict for the same images is compared. That says nothing about their methods: two
    seeds of one method often differ as much. Exit code 0: nothing is significantly worse in B. 1:
    something is, or one trial has two different results. 2: A or B cannot be read.
    """
    from qbench.benchmark.finished import load
    from qbench.cli import checkpoints, record
    from qbench.report.comparison import compare as compared

    plugins = plugin_files(methods, models, datasets)
    if record.is_key(a) and record.is_key(b):
        checkpoints.compare(str(a), str(b), results, plugins, as_json)
        return
    found = compared(load(a, results, plugins), load(b, results, plugins))
    if as_json:
        print(json.dumps([each.as_json() for each in found], indent=2, ensure_ascii=False))
    else:
        _show(found, a, b)
    raise typer.Exit(int(any(each.verdict == "worse" or each.conflicts for each in found)))


def _show(found: Sequence[Difference], a: Path, b: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    told = [each for each in found if each.verdict != "same" or each.settings or each.stale]
    for network in dict.fromkeys((each.model, each.dataset) for each in told):
        its = [each for each in told if (each.model, each.dataset) == network]
        console.print(" on ".join(network), style="bold", markup=False)
        console.print(_table(its))
        for each in its:
            twice = f"{len(each.conflicts)} with one key and two numbers" if each.conflicts else ""
            for text in filter(None, (each.settings, twice, *each.stale)):
                console.print(f"  {each.label} {each.bits}: {text}", markup=False)
        console.print()
    counts = Counter(each.verdict for each in found)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    what = counted(len(found), "result")
    console.print(f"A: {a}, B: {b}. {what}: {verdicts}.", markup=False, soft_wrap=True)


def _table(differences: Sequence[Difference]) -> Table:
    """Return the table of differences on one network. It fits 80 letters."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method")
    table.add_column("bits", no_wrap=True)
    for title in ("A", "B", "B − A", "seeds", "p"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in differences:
        table.add_row(
            Text(each.label),
            each.bits,
            *(_number(value, ".2f") for value in (each.mean_a, each.mean_b)),
            _number(each.change, "+.2f"),
            str(each.seeds) if each.seeds else "",
            _number(each.p, ".2g"),
            each.verdict,
            style=_STYLES.get(each.verdict),
        )
    return table


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if value == value else ""


def export(
    suite: SuiteFile,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            parser=expanded,
            help="Folder to write to; it is made if needed. Default: that of the suite's tables.",
        ),
    ] = None,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
) -> None:
    """Write the finished trials of a suite to one file, to share.

    The file, DIR/trials.jsonl.gz, holds for each trial the configuration, metrics, history, audit,
    predicted classes and environment, but no weights. The same results give the same bytes. Trials
    whose stored result was edited by hand are left out and listed. Others add the file to their
    store with `qbench import`.
    """
    from qbench.benchmark import exchange
    from qbench.benchmark.benchmark import Benchmark
    from qbench.store.tags import EDITED

    plugins = plugin_files(methods, models, datasets)
    benchmark = Benchmark.open(suite, results, assignments or (), plugins)
    file, count, left_out = exchange.export(benchmark, folder)
    print(f"Wrote {counted(count, 'trial')} to {file}")
    for name in left_out:
        print(f"Left out: {name}: {EDITED}")


def import_(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            parser=expanded,
            help="Exported files (trials.jsonl.gz, or .json of one trial), or folders of them.",
        ),
    ],
    results: Results = Path("results"),
) -> None:
    """Add exported trials to the store.

    Results that are in the store already are never overwritten. A trial that something contradicts
    is refused with its reason, and the others are added. Exit code 0: all trials are in the store.
    1: some were refused, or are there with other numbers; these are listed. 2: there is no such
    file.
    """
    from qbench.benchmark import exchange, exported
    from qbench.errors import QbenchError
    from qbench.store.mlflow import Store
    from qbench.store.spool import Spool

    content, results = exported.read(paths), resolved(results)
    with Spool(results / ".state").lock(wait=False) as alone:
        if not alone:
            raise QbenchError(f"a run is writing to {results}; import once it has ended")
        merged = exchange.merge(content.good, Store(results))
    refused = [*content.refused, *merged.refused]
    told = f"{counted(len(merged.added), 'trial')} added, {len(merged.duplicates)} there already"
    print(f"{told}, {len(refused)} refused." if refused else f"{told}.")
    for conflict in merged.conflicts:
        name, key = conflict.result.trial.name, conflict.result.trial.key
        print(f"{conflict.place}: not taken: {name} ({key}) is there with {conflict.text}")
    for refusal in refused:
        print(f"Refused: {refusal}")
    raise typer.Exit(int(bool(merged.conflicts or refused)))
