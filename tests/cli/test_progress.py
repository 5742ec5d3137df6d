from __future__ import annotations

import io

from rich.console import Console

from qbench.cli.progress import Display
from tests.helpers.results import result
from tests.helpers.training import trial


def test_until_the_first_trial_begins_a_terminal_says_that_ray_is_starting() -> None:
    one = trial(seed=0)
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    display = Display(console, {one.key: "one"})
    for begun in (False, True):
        with console.capture() as captured:
            console.print(display._render())
        assert ("Ray is starting" in captured.get()) is not begun
        assert ("0 done, 1 running" in captured.get()) is begun
        display.started(one)


def test_a_pipe_says_so_once() -> None:
    done = result()
    output = io.StringIO()
    with Display(Console(file=output, width=100), {done.trial.key: "one"}) as display:
        display.started(done.trial)
        display.ended(done)
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("Ray is starting")
    assert lines[1].startswith("[1/1] one: top1 90.00")
    assert len(lines) == 2
