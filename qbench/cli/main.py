"""The command line: verbs and no logic. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench import __version__
from qbench.cli import data
from qbench.cli import methods as method_commands
from qbench.cli import results as result_commands
from qbench.cli.options import AsJson, Assignments, MethodFiles, Results, SuiteFile
from qbench.errors import QbenchError

if TYPE_CHECKING:
    from rich.console import Console

    from qbench.benchmark.benchmark import Benchmark

app = typer.Typer(
    name="qbench",
    help="Compare low-bit neural network quantizers.\n\n"
    "A suite is a YAML file that names methods × models × bit-widths × seeds. SUITE is such a "
    "file, or the name of an installed suite (`qbench list suites`), such as digits_start. Try:\n\n"
    "  qbench plan suites/digits_start.yaml         what would be trained, and for how long\n\n"
    "  qbench run suites/digits_start.yaml          train what is missing, write the tables\n\n"
    "  qbench leaderboard suites/digits_start.yaml  rebuild the tables from what is stored",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")


class Kind(StrEnum):
    """What `qbench list` lists."""

    METHODS = "methods"
    MODELS = "models"
    DATASETS = "datasets"
    SUITES = "suites"


def main() -> None:
    """Run the command line; a user's mistake ends in a message and exit code 2."""
    gc.set_threshold(10_000)  # ten thousand runs are many objects, and none of them garbage
    try:
        app()
    except QbenchError as error:
        print(f"qbench: {error}" if "\n" not in str(error) else str(error), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("qbench: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `qbench list models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a disk that is full, or a folder that may not be written to
        where = f"{error.filename}: " if error.filename else ""
        print(f"qbench: {where}{error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"qbench {__version__} (qbench-quant)")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    results: Results = Path("results"),
    address: Annotated[
        str | None,
        typer.Option(help="Address of a running Ray cluster; by default this machine alone."),
    ] = None,
    again: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD|stale",
            help="Train again what is done: a method's trials, or those that are stale, whose "
            "method has changed or whose stored numbers were edited; and what starts from these. "
            "Old results stay stored, and count no longer. Repeatable.",
        ),
    ] = None,
) -> None:
    """Train the trials of a suite that have no result yet, then write its tables and figures.

    What is done is kept: interrupt it (Ctrl-C) and run it again to go on. Exit code 0: every trial
    is done; 1: some failed, and the table says why; 2: the suite or an option has a mistake; 130:
    interrupted.
    """
    from rich.console import Console

    console = Console(highlight=False)
    with console.status("Reading the suite and the store …"):
        benchmark = _open(suite, results, assignments, methods)
    command = _again("run", suite, assignments, methods, results, address)
    raise typer.Exit(_run_alone(benchmark, console, address, command, again or ()))


@app.command()
def rehearse(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    results: Results = Path("results"),
    address: Annotated[
        str | None,
        typer.Option(help="Address of a running Ray cluster; by default this machine alone."),
    ] = None,
) -> None:
    """Try out a suite's whole grid before the long run: a few steps of every trial.

    Trains every method × width × model of the suite for three epochs of two steps, on a small
    stand-in for the data (small JPEG images for ImageNet), on the first seed, and writes the same
    tables, in which every cell is marked as a rehearsal. Everything goes to the folder `rehearsal`
    of the results, apart from what real runs store. Exit codes are those of `run`.
    """
    from rich.console import Console

    from qbench.benchmark.benchmark import Benchmark
    from qbench.cli import messages

    console = Console(highlight=False)
    with messages.status(console, "Reading the suite …"):
        benchmark = Benchmark.rehearse(suite, results, assignments or (), methods or ())
    command = _again("rehearse", suite, assignments, methods, results, address)
    raise typer.Exit(_run_alone(benchmark, console, address, command))


def _run_alone(
    benchmark: Benchmark,
    console: Console,
    address: str | None,
    command: str,
    again: Sequence[str] = (),
) -> int:
    """Run what is to do once no other run works in the results folder."""
    with benchmark.spool.lock(wait=False) as alone:
        if alone:
            return _run_on_store(benchmark, console, address, command, again)
    console.print(
        f"Another run is writing to {benchmark.results}; this one waits until it has ended.",
        markup=False,
    )
    with benchmark.spool.lock(wait=True):
        return _run_on_store(benchmark, console, address, command, again)


def _run_on_store(
    benchmark: Benchmark, console: Console, address: str | None, command: str, again: Sequence[str]
) -> int:
    """Run what is to do once no other machine's command works on the store."""
    from qbench.cli import messages

    with ExitStack() as alone:
        with messages.lines(console):
            alone.enter_context(benchmark.store.alone())
        benchmark.refresh()
        return _run(benchmark, console, address, command, again)


def _run(
    benchmark: Benchmark,
    console: Console,
    address: str | None,
    command: str,
    again: Sequence[str],
) -> int:
    from rich.markup import escape

    from qbench.cli.progress import Display, duration

    if again:
        console.print(f"{benchmark.train_again(again)} finished trials are trained again.")
    to_do = benchmark.to_do()
    runnable = [cell for cell in benchmark.cells if not cell.unsupported]
    done = len(runnable) - len(to_do)
    interrupted, stopped, unrecorded = False, "", benchmark.unrecorded
    if not to_do:
        console.print(f"All {done} trials are done; nothing to train.")
    else:
        console.print(f"{len(to_do)} trials to train, {done} of {len(runnable)} done already.")
        with Display(console, {cell.trial.key: cell.name for cell in to_do}) as display:
            summary = benchmark.run(display, address)
        interrupted, unrecorded = summary.interrupted, summary.unrecorded
        stopped = summary.stopped
        spent = duration(summary.seconds)
        console.print(f"{summary.ended} trials ended; {spent} of training.")
    try:
        _write(benchmark, console)
    except QbenchError as error:
        if not unrecorded:
            raise
        console.print(f"No tables: {error}", soft_wrap=True, markup=False)
    failed = [cell for cell in benchmark.cells if benchmark.status(cell) == "failed"]
    reasons = Counter(f"{cell.trial.method}: {benchmark.reason(cell)}" for cell in failed)
    for reason, count in reasons.items():
        console.print(f"[red]{count} failed:[/] {escape(reason)}", soft_wrap=True)
    if unrecorded:
        console.print(f"Not recorded yet: {unrecorded}", soft_wrap=True, markup=False)
        console.print("What was trained is kept on disk; the next run records it.")
    if interrupted or stopped:
        left = len(benchmark.to_do())
        why = f"Stopped: {stopped}" if stopped else "Interrupted"
        console.print(f"{why}: {len(runnable) - left} of {len(runnable)} trials are done.")
        console.print(f"Go on with: {command}", soft_wrap=True, markup=False)
        return 130 if interrupted else 1
    return 1 if failed or unrecorded else 0


@app.command()
def plan(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Show what `run` would train, what is done already, and how long the rest may take."""
    from rich.console import Console

    from qbench.cli import messages
    from qbench.cli import plan as plans

    reading = "Reading the suite and the store …"
    with messages.status(Console(stderr=True), reading, "Estimating: "):
        benchmark = _open(suite, results, assignments, methods)
        if as_json:
            print(json.dumps(plans.as_json(benchmark), indent=2, ensure_ascii=False))
        else:
            plans.show(benchmark)


@app.command()
def leaderboard(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    results: Results = Path("results"),
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Write a page too: one file, to sort, filter and open each trial in a browser.",
        ),
    ] = False,
) -> None:
    """Rebuild the tables and figures of a suite from what is stored; nothing is trained."""
    from rich.console import Console

    _write(_open(suite, results, assignments, methods), Console(highlight=False), html)


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: AsJson = False,
    methods: MethodFiles = None,
) -> None:
    """List the methods, models, datasets or suites that there are."""
    from qbench.cli import catalogue

    rows = catalogue.rows(kind.value, methods or [])
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        catalogue.show(rows)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="A trial's key, as `plan` prints it, or its start.")],
    results: Results = Path("results"),
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Draw its training, its weights and the function that quantizes them, to here.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one recorded trial: its configuration, results, audit and environment."""
    from qbench.cli import catalogue

    record = catalogue.trial(key, results)
    if figures is not None:
        record["figures"] = [str(path) for path in catalogue.draw(key, results, figures)]
    if as_json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        catalogue.show_trial(record)


@app.command()
def schema() -> None:
    """Print the JSON schema of suites: editors complete and check a suite by it."""
    from qbench.suite.schema import suite_schema

    print(json.dumps(suite_schema(), indent=2, ensure_ascii=False))


app.command()(method_commands.profile)
app.command()(method_commands.check)
app.command("new-method")(method_commands.new_method)
app.command()(result_commands.compare)
app.command()(result_commands.export)
app.command("import")(result_commands.import_)


def _open(
    suite: Path, results: Path, assignments: Sequence[str] | None, methods: Sequence[Path] | None
) -> Benchmark:
    from qbench.benchmark.benchmark import Benchmark

    return Benchmark.open(suite, results, assignments or (), methods or ())


def _write(benchmark: Benchmark, console: Console, html: bool = False) -> None:
    from rich.markup import escape

    for reason, count in benchmark.stale_counts().items():
        console.print(
            f"[yellow]{count} stale:[/] {escape(reason)}; `qbench run --again stale` trains them "
            "again",
            soft_wrap=True,
        )
    with console.status("Writing tables and figures …"):
        files = benchmark.write_leaderboard(html)
    table = benchmark.folder / ("leaderboard.html" if html else "leaderboard.md")
    console.print(f"Wrote {len(files)} files; the table is {table}", soft_wrap=True, markup=False)


def _again(
    verb: str,
    suite: Path,
    assignments: Sequence[str] | None,
    methods: Sequence[Path] | None,
    results: Path,
    address: str | None,
) -> str:
    """The command that goes on with an interrupted one."""
    import shlex

    words = ["qbench", verb, str(suite)]
    words += [word for value in assignments or () for word in ("--set", value)]
    words += [word for file in methods or () for word in ("--methods", str(file))]
    if results != Path(os.environ.get("QBENCH_RESULTS", "results")):
        words += ["--results", str(results)]
    words += ["--address", address] if address else []
    return shlex.join(words)
