"""Train a suite, and further seeds of it: what `run` and `rehearse` do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console
from rich.markup import escape

from qbench.benchmark import deployed, further_seeds, stale
from qbench.benchmark.benchmark import Benchmark
from qbench.cli import deployment, messages, tables
from qbench.cli import resolve as verdicts
from qbench.cli.budget import Budget
from qbench.cli.plan import import_hint, nothing_to_train
from qbench.cli.progress import Display
from qbench.cli.words import duration
from qbench.errors import QbenchError
from qbench.schedule.progress import Summary
from qbench.spec.words import counted
from qbench.suite.grid import PlannedTrial


def train(
    benchmark: Benchmark,
    console: Console,
    address: str | None,
    command: str,
    budget: Budget,
    again: Sequence[str] = (),
) -> int:
    """Train what is to do and write the tables: what `run` does after `_open`.

    1. `Benchmark.open` has expanded the suite into trials and looked them up in the store.
    2. `Benchmark.alone` waits for other commands; `stale.set_aside` does what ``--again`` asks for.
    3. `Benchmark.run` brings the weights that trials start from, and passes the trials to
       `qbench.schedule.tune`, whose workers train them and whose recorder fills the store. The
       results of a tuned suite decide which trials follow, so this is done until none does.
    4. `deployed.deploy` writes the trials to ONNX, if the suite asks for it.
    5. `leaderboard.write` reads frames from the store; `qbench.report` turns them into files.

    Args:
        benchmark: The benchmark.
        console: Where messages are printed.
        address: Address of a Ray cluster, if it is not this machine alone.
        command: Command line that continues this one if it is interrupted.
        budget: Time that it may train.
        again: What to train again: names of methods, or ``stale``.

    Returns:
        The exit code.
    """
    with messages.lines(console), benchmark.alone():
        if again:
            count = stale.set_aside(benchmark, again)
            console.print(f"{counted(count, 'finished trial')} to train again.")
        if waiting := benchmark.waiting_in_file():
            console.print(import_hint(benchmark.file, waiting), soft_wrap=True, markup=False)
        to_do = benchmark.to_do()
        runnable = sum(not planned.unsupported for planned in benchmark.planned)
        done = runnable - len(to_do)
        interrupted, stopped, unrecorded = False, "", benchmark.unrecorded
        if not to_do:
            console.print(f"{nothing_to_train(done)}; nothing to train.")
        tried: set[str] = set()
        while to_do:
            to_train, further = counted(len(to_do), "trial"), _further(benchmark)
            console.print(f"{to_train} to train, {done} of {runnable} done already{further}.")
            summary = _run(benchmark.part(to_do), to_do, console, address, budget)
            interrupted, stopped = summary.interrupted, summary.stopped
            unrecorded = summary.unrecorded
            try:
                benchmark.refresh()
            except QbenchError as error:
                unrecorded = unrecorded or str(error)
            tried |= {planned.trial.key for planned in to_do}
            runnable = sum(not planned.unsupported for planned in benchmark.planned)
            done = runnable - len(benchmark.to_do())
            if interrupted or stopped or unrecorded:
                break
            to_do = [each for each in benchmark.to_do() if each.trial.key not in tried]
        benchmark.discard_checkpoints()
        if benchmark.suite.deploy and not (benchmark.rehearsal or interrupted):
            deployed.deploy(benchmark, lambda found: deployment.show(console, found))
        try:
            tables.write(benchmark, console)
        except QbenchError as error:
            if not unrecorded:
                raise
            console.print(f"No tables: {error}", soft_wrap=True, markup=False)
        with suppress(QbenchError):  # a store that is away is reported below
            link = benchmark.store.link(benchmark.suite.name)
            console.print(f"To browse the runs: {link}", soft_wrap=True, markup=False)
        failed = _print_failures(benchmark, console)
        if unrecorded:
            console.print(f"Not recorded yet: {unrecorded}", soft_wrap=True, markup=False)
            console.print("What was trained is kept on disk; the next run records it.")
        if interrupted or stopped:
            left = len(benchmark.to_do())
            why = f"Stopped: {stopped}" if stopped else "Interrupted"
            ended = f"{runnable - left} of {counted(runnable, 'trial')} done"
            console.print(f"{why}: {ended}{_further(benchmark)}.")
            console.print(f"Go on with: {command}", soft_wrap=True, markup=False)
            return 130 if interrupted else 1
        return 1 if failed or unrecorded else 0


def _further(benchmark: Benchmark) -> str:
    """Return how many trials of a tuned suite follow from results to come, as a clause."""
    count = len(benchmark.awaited())
    return f"; results decide on {count:,} more" if count else ""


def _run(
    benchmark: Benchmark,
    to_do: Sequence[PlannedTrial],
    console: Console,
    address: str | None,
    budget: Budget,
) -> Summary:
    """Train what a benchmark has to do within a budget, and show the progress."""
    names = {planned.trial.key: planned.name for planned in to_do}
    try:
        with Display(console, names) as display, budget.limit():
            summary = benchmark.run(display, address)
    except KeyboardInterrupt:  # before Ray has started
        summary = Summary(interrupted=True)
    if budget.spent and summary.interrupted:
        summary.interrupted, summary.stopped = False, f"the budget of {budget.text} is spent"
    console.print(
        f"{counted(summary.ended, 'trial')} ended; {duration(summary.seconds)} of training."
    )
    return summary


def resolve(
    benchmark: Benchmark,
    console: Console,
    address: str | None,
    command: str,
    within: float,
    budget: Budget,
) -> int:
    """Train further seeds of neighbouring rows, and print and write the verdicts.

    Args:
        benchmark: The benchmark, whose own seeds are done.
        console: Where messages are printed.
        address: Address of a Ray cluster, if it is not this machine alone.
        command: Command line that continues this one if it is interrupted.
        within: Rows are tied if their difference is less than this, in points.
        budget: Time that it may train.

    Returns:
        The exit code.
    """
    code, why = 0, ""

    def train_part(part: Benchmark) -> bool:
        nonlocal code, why
        to_do = part.to_do()
        console.print(f"{counted(len(to_do), 'trial')} of further seeds to train.")
        summary = _run(part, to_do, console, address, budget)
        why = summary.unrecorded or summary.stopped or ("Ctrl-C" if summary.interrupted else "")
        code = 130 if summary.interrupted else 1 if why else code
        return not why

    with messages.lines(console), benchmark.alone():
        wide = further_seeds.with_further_seeds(benchmark)
        found = further_seeds.resolve(wide, within, train_part)
        verdicts.show(console, found, within)
        console.print(f"Wrote {verdicts.write(found, benchmark.folder)}", soft_wrap=True)
        failed = _print_failures(wide, console)
        if why:
            console.print(f"Stopped: {why}. These are the last complete looks.", soft_wrap=True)
            console.print(f"Go on with: {command}", soft_wrap=True, markup=False)
    return code or int(failed)


def _print_failures(benchmark: Benchmark, console: Console) -> bool:
    """Print why trials failed, each reason once; return whether any did."""
    failed = [each for each in benchmark.planned if benchmark.status(each) == "failed"]
    reasons = Counter(f"{each.trial.method}: {benchmark.reason(each)}" for each in failed)
    for reason, count in reasons.items():
        console.print(f"[red]{count} failed:[/] {escape(reason)}", soft_wrap=True)
    return bool(failed)
