"""The command line: verbs and no logic. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench import __version__, data_commands
from qbench.errors import QbenchError

if TYPE_CHECKING:
    from rich.console import Console

    from qbench.benchmark import Benchmark

app = typer.Typer(
    name="qbench",
    help="Compare low-bit neural network quantizers.\n\n"
    "A suite is a YAML file that names methods × models × bit-widths × seeds. Try:\n\n"
    "  qbench plan suites/digits_start.yaml         what would be trained, and for how long\n\n"
    "  qbench run suites/digits_start.yaml          train what is missing, write the tables\n\n"
    "  qbench leaderboard suites/digits_start.yaml  rebuild the tables from what is stored",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_commands.app, name="data")

SuiteFile = Annotated[
    Path, typer.Argument(metavar="SUITE", help="A suite, as suites/digits_start.yaml.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the suite, as seeds=[0], recipe.epochs=5 or "
        "methods.quantization_networks.temperature_rate=10. Repeatable.",
    ),
]
MethodFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--methods",
        metavar="FILE.py",
        help="Add the methods that this Python file defines. Repeatable.",
    ),
]
Results = Annotated[
    Path,
    typer.Option(
        "--results",
        metavar="DIR",
        envvar="QBENCH_RESULTS",
        help="Where everything is written: tables, figures, and the store unless "
        "MLFLOW_TRACKING_URI names another.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Kind(StrEnum):
    """What `qbench list` lists."""

    METHODS = "methods"
    MODELS = "models"
    DATASETS = "datasets"
    SUITES = "suites"


def main() -> None:
    """Run the command line; a user's mistake ends in a message and exit code 2."""
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


def _version(wanted: bool) -> None:
    if wanted:
        print(f"qbench {__version__}")
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
    again = _again("run", suite, assignments, methods)
    raise typer.Exit(_run_alone(benchmark, console, address, again))


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

    from qbench.benchmark import Benchmark

    console = Console(highlight=False)
    with console.status("Reading the suite …") as status:

        def told(what: str) -> None:
            status.update(f"{what} …")

        benchmark = Benchmark.rehearse(suite, results, assignments or (), methods or (), told)
    again = _again("rehearse", suite, assignments, methods)
    raise typer.Exit(_run_alone(benchmark, console, address, again))


def _run_alone(benchmark: Benchmark, console: Console, address: str | None, again: str) -> int:
    """Run what is to do once no other run works in the results folder."""
    with benchmark.spool.lock(wait=False) as alone:
        if alone:
            return _run(benchmark, console, address, again)
    console.print(
        f"Another run is writing to {benchmark.results}; this one waits until it has ended.",
        markup=False,
    )
    with benchmark.spool.lock(wait=True):
        benchmark.refresh()
        return _run(benchmark, console, address, again)


def _run(benchmark: Benchmark, console: Console, address: str | None, again: str) -> int:
    from rich.markup import escape

    from qbench.progress import Display, duration

    to_do = benchmark.to_do()
    runnable = [cell for cell in benchmark.cells if not cell.unsupported]
    done = len(runnable) - len(to_do)
    if stale := benchmark.stale():
        console.print(
            f"[yellow]Changed since some of their trials were trained: {', '.join(stale)}.[/]"
        )
    interrupted, unrecorded = False, ""
    if not to_do:
        console.print(f"All {done} trials are done; nothing to train.")
    else:
        console.print(f"{len(to_do)} trials to train, {done} of {len(runnable)} done already.")
        with Display(console, {cell.trial.key: cell.name for cell in to_do}) as display:
            summary = benchmark.run(display, address)
        interrupted, unrecorded = summary.interrupted, summary.unrecorded
        trained = sum(outcome.seconds for outcome in summary.outcomes)
        console.print(f"{len(summary.outcomes)} trials ended; {duration(trained)} of training.")
    _write(benchmark, console)
    failed = [cell for cell in benchmark.cells if benchmark.status(cell) == "failed"]
    reasons = Counter(f"{cell.trial.method}: {benchmark.reason(cell)}" for cell in failed)
    for reason, count in reasons.items():
        console.print(f"[red]{count} failed:[/] {escape(reason)}", soft_wrap=True)
    if unrecorded:
        console.print(f"Not recorded yet: {unrecorded}", soft_wrap=True, markup=False)
        console.print("What was trained is kept on disk; the next run records it.")
    if interrupted:
        left = len(benchmark.to_do())
        console.print(f"Interrupted: {len(runnable) - left} of {len(runnable)} trials are done.")
        console.print(f"Go on with: {again}", soft_wrap=True, markup=False)
        return 130
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

    from qbench import plan as plans

    with Console(stderr=True).status("Reading the suite and the store …") as status:
        benchmark = _open(suite, results, assignments, methods)

        def told(what: str) -> None:
            status.update(f"Estimating: {what} …")

        if as_json:
            print(json.dumps(plans.as_json(benchmark, told), indent=2, ensure_ascii=False))
        else:
            plans.show(benchmark, told)


@app.command()
def leaderboard(
    suite: SuiteFile,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    results: Results = Path("results"),
) -> None:
    """Rebuild the tables and figures of a suite from what is stored; nothing is trained."""
    from rich.console import Console

    _write(_open(suite, results, assignments, methods), Console(highlight=False))


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: AsJson = False,
    methods: MethodFiles = None,
) -> None:
    """List the methods, models, datasets or suites that there are."""
    from qbench import catalogue

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
    from qbench import catalogue

    record = catalogue.trial(key, results)
    if figures is not None:
        record["figures"] = [str(path) for path in catalogue.draw(key, results, figures)]
    if as_json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        catalogue.show_trial(record)


@app.command()
def profile(
    method: Annotated[str, typer.Argument(help="A method, as `qbench list methods` names it.")],
    model: Annotated[str, typer.Option(help="The network.")] = "resnet18",
    bits: Annotated[str, typer.Option(metavar="W/A", help="Bit-widths, as 3(±4)/2.")] = "2/2",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="An option of the method, as temperature_rate=10. Repeatable.",
        ),
    ] = None,
    methods: MethodFiles = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 32,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of an image.")] = 224,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each to time.")] = 10,
    threads: Annotated[
        int | None, typer.Option(min=1, help="torch's threads; by default one for each core.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what a method adds to a training step: time, and peak memory.

    Trains on random images, at full precision and quantized in turn, and prints medians. The ratio
    is the median over pairs of neighbouring steps; in brackets the middle half of them.
    """
    from rich.console import Console

    from qbench import profile as profiles
    from qbench.document import parse_assignment
    from qbench.registry import Plugin

    job = profiles.Job(
        method=method,
        options=dict(parse_assignment(text) for text in options or ()),
        model=model,
        bits=bits,
        batch_size=batch_size,
        image_size=image_size,
        threads=threads or os.cpu_count() or 1,
        plugins=[Plugin.read(file) for file in methods or ()],
    )
    with Console(stderr=True).status("Profiling …") as status:
        found = profiles.measure(job, steps, lambda what: status.update(f"Profiling: {what} …"))
    if as_json:
        print(json.dumps(profiles.as_json(job, found), indent=2, ensure_ascii=False))
    else:
        profiles.show(job, found)


@app.command()
def check(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="A Python file with methods, or a name.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="An option of the method, as iterations=20. Repeatable.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="One network in place of three, and neither torch.compile nor two processes.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a method keeps the contract: what qbench relies on, whatever the method does.

    Attaches it to a convolutional, a depthwise and a linear network at the widths it accepts, and
    tries: shapes and dtypes, numbers of levels, hardening, gradients, training, determinism,
    checkpoints, copies, autocast, torch.compile, two processes. Exit code 0: it keeps it; 1: it
    does not, and you are told where.
    """
    from rich.console import Console

    from qbench import check as checks
    from qbench.document import parse_assignment
    from qbench.registry import Plugin, load_plugin

    file = Path(method)
    names = load_plugin(Plugin.read(file)) if file.suffix == ".py" else [method]
    chosen = dict(parse_assignment(text) for text in options or ())
    reports = []
    for name in names:
        with Console(stderr=True).status(f"Checking {name} …") as status:
            report = checks.check(
                name,
                chosen,
                networks=checks.QUICK if quick else checks.FULL,
                thorough=not quick,
                told=lambda what, name=name: status.update(f"Checking {name}: {what} …"),  # type: ignore[misc]
            )
        reports.append(report)
        if not as_json:
            checks.show(report)
    if as_json:
        print(json.dumps([asdict(report) for report in reports], indent=2, ensure_ascii=False))
    raise typer.Exit(1 if any(report.findings for report in reports) else 0)


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="The method's name, in snake_case.")],
    folder: Annotated[
        Path, typer.Option("--in", metavar="DIR", help="Where to write the files.")
    ] = Path(),
) -> None:
    """Write a method file that works, with its test, to start a method of your own from."""
    from qbench import scaffold

    file, test = scaffold.new_method(name, folder)
    print(f"Wrote {file} and {test}. Next:")
    print(f"  qbench check {file}")
    print(f"  qbench run suites/digits_start.yaml --methods {file}")


def _open(
    suite: Path, results: Path, assignments: Sequence[str] | None, methods: Sequence[Path] | None
) -> Benchmark:
    from qbench.benchmark import Benchmark

    return Benchmark.open(suite, results, assignments or (), methods or ())


def _write(benchmark: Benchmark, console: Console) -> None:
    with console.status("Writing tables and figures …"):
        files = benchmark.write_leaderboard()
    table = benchmark.folder / "leaderboard.md"
    console.print(f"Wrote {len(files)} files; the table is {table}", soft_wrap=True, markup=False)


def _again(
    verb: str, suite: Path, assignments: Sequence[str] | None, methods: Sequence[Path] | None
) -> str:
    import shlex

    words = ["qbench", verb, str(suite)]
    words += [word for value in assignments or () for word in ("--set", value)]
    words += [word for file in methods or () for word in ("--methods", str(file))]
    return shlex.join(words)
