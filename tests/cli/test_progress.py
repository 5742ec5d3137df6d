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


def test_scores_on_validation_images_are_named_and_stopped_trials_are_never_the_best() -> None:
    whole = trial(validation=50)
    trials = {"stopped": whole.changed(stop_after=1), "whole": whole, "tested": trial()}
    names = {each.key: name for name, each in trials.items()}
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    display = Display(console, names)
    with console.capture() as captured:
        for top1, each in zip((95.0, 90.0, 80.0), trials.values(), strict=True):
            display.started(each)
            display.ended(result(top1=top1).model_copy(update={"trial": each}))
        console.print(display._render())
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert [line for line in lines if line.startswith("best")] == [
        "best 2/2 tested 80.00",
        "best 2/2 on validation images whole 90.00",
    ]


def test_a_line_of_a_score_on_validation_images_says_so() -> None:
    what, output = trial(validation=50), io.StringIO()
    with Display(Console(file=output, width=100), {what.key: "one"}) as display:
        display.ended(result().model_copy(update={"trial": what}))
    assert "one: top1 90.00 on validation images  2.0 s" in output.getvalue()


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
