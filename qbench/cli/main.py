"""The command line: `qbench` and the verbs that train a suite and show its results.

Verbs hold no logic. Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench import __version__, process
from qbench.cli import data, deployment, lookup, methods, results, verify
from qbench.cli.command import HELP_NAMES, PlainCommand
from qbench.cli.options import (
    Address,
    AsJson,
    Assignments,
    DatasetFiles,
    MethodFiles,
    ModelFiles,
    Results,
    SuiteFile,
    plugin_files,
)
from qbench.errors import QbenchError
from qbench.files import resolved

if TYPE_CHECKING:
    from qbench.benchmark.benchmark import Benchmark
    from qbench.plugins import Plugin

app = typer.Typer(
    name="qbench",
    help="Compare low-bit neural network quantizers.\n\n"
    "A suite is a YAML file that names methods, models, bit-widths and seeds; every combination is "
    "a trial. SUITE is such a file, or the name of an installed suite (`qbench list suites`). Try:"
    "\n\n"
    "  qbench plan suites/digits_start.yaml         estimate what it takes\n\n"
    "  qbench run suites/digits_start.yaml          train it and write its tables\n\n"
    "  qbench leaderboard suites/digits_start.yaml  rebuild its tables",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP_NAMES,
)
verb = functools.partial(app.command, cls=PlainCommand)


def main() -> None:
    """Run the command line in a process of its own, and end that process."""
    try:
        invoke()
    except SystemExit as error:
        if isinstance(error.code, int) and error.code in (1, 130) and "ray" in sys.modules:
            process.end(error.code)  # what Ray had begun may crash the interpreter's shutdown
        raise


def invoke() -> None:
    """Run the command line. An error of the user ends with a message and exit code 2.

    Raises:
        SystemExit: At the end, with the exit code.
    """
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
    if data := os.environ.get("QBENCH_DATA"):
        os.environ["QBENCH_DATA"] = str(resolved(data))


verb("list")(lookup.list_)


@verb()
def plan(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Show what `run` would train, and how long it would take.

    Lists the trials that are done, missing or unsupported, and estimates the time and the disk
    space that the missing ones take on this machine. Exit code 0: `run` could start. 2: the suite
    has a mistake, or its data are missing.
    """
    from rich.console import Console

    from qbench.cli import messages
    from qbench.cli import plan as plans

    reading = "Reading the suite and the store …"
    with messages.status(Console(stderr=True), reading, "Estimating: "):
        benchmark = _open(suite, results, assignments, plugin_files(methods, models, datasets))
        if as_json:
            print(json.dumps(plans.as_json(benchmark), indent=2, ensure_ascii=False))
        else:
            plans.show(benchmark)
            if waiting := benchmark.waiting_in_file():
                print(plans.import_hint(benchmark.file, waiting))
    raise typer.Exit(2 if benchmark.dataset.missing() else 0)


@verb()
def rehearse(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    address: Address = None,
) -> None:
    """Try out a suite's whole grid with a few steps of each trial.

    Use it before a long run. It trains every method × bit-width × model of the suite on the first
    seed, for three epochs of two steps, on a small stand-in for the data (small JPEG images for
    ImageNet). It writes the same tables as `run`, in which every cell is marked as a rehearsal.
    Everything goes to the folder `rehearsal` of the results, apart from what real runs store. Exit
    codes are those of `run`.
    """
    from rich.console import Console

    from qbench.benchmark.benchmark import Benchmark
    from qbench.cli import messages, training
    from qbench.cli.budget import Budget

    console = Console(highlight=False)
    with messages.status(console, "Reading the suite …"):
        plugins = plugin_files(methods, models, datasets)
        benchmark = Benchmark.rehearse(suite, results, assignments or (), plugins)
    command = _resume_command("rehearse", suite, assignments, plugins, results, address)
    raise typer.Exit(training.train(benchmark, console, address, command, Budget(None)))


@verb()
def run(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    address: Address = None,
    again: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD|stale",
            help="Train finished trials again: those of a method, or those that are stale because "
            "their method has changed or their stored numbers were edited. Trials that start from "
            "them are trained again too. Old results stay in the store but no longer count. "
            "Repeatable.",
        ),
    ] = None,
    resolve: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            min=0.01,
            help="Then train further seeds, 10 and 15 in all, of rows that are next to each other "
            "in a column and neither told apart nor tied within POINTS. They are tested apart from "
            "the tables, which keep the suite's own seeds.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Stop training after TIME, such as 90min or 2h, as Ctrl-C would."
        ),
    ] = None,
) -> None:
    """Train the missing trials of a suite, then write its tables.

    Finished trials are kept. Interrupt the command (Ctrl-C) and run it again to continue. Exit code
    0: every trial is done. 1: some trials failed, and the table says why, or the budget is spent.
    2: the suite or an option has a mistake. 130: interrupted.
    """
    from rich.console import Console

    from qbench.cli import training
    from qbench.cli.budget import Budget

    limit = Budget(budget)
    console = Console(highlight=False)
    with console.status("Reading the suite and the store …"):
        plugins = plugin_files(methods, models, datasets)
        benchmark = _open(suite, results, assignments, plugins)
    command = _resume_command("run", suite, assignments, plugins, results, address)
    command += f" --resolve {resolve:g}" if resolve else ""
    if resolve and benchmark.tuned is not None:
        raise QbenchError("--resolve: a suite with `recipe: tuned` has studies, not seeds, to add")
    code = training.train(benchmark, console, address, command, limit, again or ())
    if resolve and code != 130 and not limit.spent:
        code = max(code, training.resolve(benchmark, console, address, command, resolve, limit))
    raise typer.Exit(code)


@verb()
def leaderboard(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Also write a page: one file, to sort, filter and open each trial in a browser.",
        ),
    ] = False,
) -> None:
    """Write and print the tables of a suite from the store.

    Also draws the figures. Nothing is trained. Trials that the store lacks are read from the file
    trials.jsonl.gz of the suite in the results folder.
    """
    from rich.console import Console

    from qbench.cli import tables

    plugins = plugin_files(methods, models, datasets)
    benchmark = _open(suite, results, assignments, plugins)
    _read_file(benchmark)
    tables.write(benchmark, Console(highlight=False), html)


@verb()
def power(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    difference: Annotated[
        list[float] | None,
        typer.Option(
            metavar="POINTS",
            min=0.01,
            help="Count the seeds that find a difference of this size, in points. Repeatable. "
            "Default: 0.5 and 1.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how finely a suite tells methods apart.

    For each model and bit-width: the smallest difference that a test over the finished seeds finds
    with a power of 80 %, between two rows named beforehand and between the best and any other row;
    how many seeds finer differences need; and how many trials and how long the further seeds take
    on this machine. With `recipe: tuned`, studies take the place of seeds. Nothing is trained.
    """
    from qbench.cli import power as resolution

    wanted = difference or (0.5, 1.0)
    benchmark = _open(suite, results, assignments, plugin_files(methods, models, datasets))
    _read_file(benchmark)
    if as_json:
        print(json.dumps(resolution.as_json(benchmark, wanted), indent=2, ensure_ascii=False))
    else:
        resolution.show(benchmark, wanted)


verb()(lookup.show)
verb()(results.compare)
verb()(deployment.deploy)
verb()(results.export)
verb("import")(results.import_)
verb()(verify.verify)
verb("new-method")(methods.new_method)
verb()(methods.check)
verb()(methods.profile)
verb()(lookup.schema)
app.add_typer(data.app, name="data")


def _open(
    suite: Path, results: Path, assignments: Sequence[str] | None, plugins: Sequence[Plugin]
) -> Benchmark:
    from qbench.benchmark.benchmark import Benchmark

    return Benchmark.open(suite, results, assignments or (), plugins)


def _read_file(benchmark: Benchmark) -> None:
    """Read the trials that the store lacks from the file of the suite, and say so."""
    benchmark.read_file()
    for note in benchmark.notes:
        print(note, file=sys.stderr)


def _resume_command(
    verb: str,
    suite: Path,
    assignments: Sequence[str] | None,
    plugins: Sequence[Plugin],
    results: Path,
    address: str | None,
) -> str:
    """Return the command line that continues an interrupted command."""
    words = ["qbench", verb, str(suite)]
    words += [word for value in assignments or () for word in ("--set", value)]
    words += [word for plugin in plugins for word in (f"--{plugin.kind}", plugin.path)]
    if results != Path(os.environ.get("QBENCH_RESULTS", "results")):
        words += ["--results", str(results)]
    words += ["--address", address] if address else []
    return shlex.join(words)
