"""The verbs for authors of methods: `qbench new-method`, `check` and `profile`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from qbench.cli.options import AsJson, MethodFiles, ModelFiles, plugin_files
from qbench.errors import QbenchError, nearest
from qbench.files import expanded


def profile(
    method: Annotated[
        str | None,
        typer.Argument(metavar="METHOD", help="Name of a method; see `qbench list methods`."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Profile every method that trains, with its default options and at 2/2 if it "
            "supports that.",
        ),
    ] = False,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Name of a model; see `qbench list models`.")
    ] = "resnet18",
    bits: Annotated[
        str | None,
        typer.Option(
            metavar="W/A",
            help="Bit-widths of weights and activations, such as 3(±4)/2; by default 2/2.",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Set an option of the method: temperature_rate=10. Repeatable.",
        ),
    ] = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images in a training step.")
    ] = 32,
    image_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Height and width of an image in pixels.")
    ] = 224,
    steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Training steps to time, of each kind.")
    ] = 10,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Threads of torch; by default one for each core."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the time and memory that a method adds to training.

    Trains on random images, alternately at full precision and quantized, and prints the median time
    of a step and the peak memory of its tensors. The time ratio is the median over pairs of
    neighbouring steps; the brackets hold the middle half of these ratios. The ratio of processor
    time depends less on what else the machine does.
    """
    from rich.console import Console

    from qbench.cli import messages
    from qbench.cli.method_reports import show_profile, show_profiles
    from qbench.schedule.ray_environment import restart_with_allocator
    from qbench.suite.yaml import parse_assignment

    if every == (method is not None):
        raise QbenchError("name one method, or give --all")
    if every and (options or bits):
        raise QbenchError("--set and --bits belong to one method; --all takes the usual of each")
    restart_with_allocator()
    from qbench.lab import profile as profiles
    from qbench.plugins import load_plugin

    for plugin in plugin_files(methods, models):
        load_plugin(plugin)
    settings = profiles.ProfileSettings(
        method=method or "",
        options=dict(parse_assignment(text) for text in options or ()),
        model=model,
        bits=bits or "2/2",
        batch_size=batch_size,
        image_size=image_size,
        threads=threads or os.cpu_count() or 1,
    )
    with messages.status(Console(stderr=True), "Profiling …", "Profiling: "):
        if every:
            found = profiles.measure_all(profiles.every_method(), settings, steps)
            if not as_json:
                show_profiles(settings, found)
                return
            told: Any = [profiles.as_json(*each) for each in found]
        else:
            profile = profiles.measure(settings, steps)
            if not as_json:
                show_profile(settings, profile)
                return
            told = profiles.as_json(settings, profile)
    print(json.dumps(told, indent=2, ensure_ascii=False))


def check(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="A Python file that defines methods, or the name of a method."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Set an option of the method: iterations=20. Repeatable.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Use one network instead of three; skip torch.compile, large inputs and training "
            "on two processes.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a method keeps the contract that qbench relies on.

    Attaches the method to a convolutional, a depthwise and a linear network, at the bit-widths that
    it accepts, and checks shapes and dtypes, numbers of levels, hardening, gradients, training,
    determinism, checkpoints, copies, autocast, torch.compile and training on two processes. Exit
    code 0: the method keeps the contract. 1: it does not, and the report says where.
    """
    from rich.console import Console

    from qbench import registry
    from qbench.cli import messages
    from qbench.cli.method_reports import show_check
    from qbench.lab import check as checks
    from qbench.plugins import Plugin, load_plugin
    from qbench.suite.yaml import parse_assignment

    file = expanded(method)
    if file.suffix != ".py" and method not in registry.names("methods"):
        hint = nearest(method, registry.names("methods"))
        raise QbenchError(
            f"no method is named '{method}'{hint}; `qbench check FILE.py` checks those of a file"
        )
    names = load_plugin(Plugin.read(file)) if file.suffix == ".py" else [method]
    chosen = dict(parse_assignment(text) for text in options or ())
    reports = []
    for name in names:
        console = Console(stderr=True)
        if console.is_terminal:
            shown = messages.status(console, f"Checking {name} …", f"Checking {name}: ")
        else:
            shown = messages.lines(console, f"Checking {name}: ")
        with shown:
            report = checks.check(
                name,
                chosen,
                networks=checks.QUICK_NETWORKS if quick else checks.ALL_NETWORKS,
                thorough=not quick,
            )
        reports.append(report)
        if not as_json:
            show_check(report)
    if as_json:
        print(json.dumps([asdict(report) for report in reports], indent=2, ensure_ascii=False))
    raise typer.Exit(1 if any(report.findings for report in reports) else 0)


def new_method(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the new method, in snake_case.")
    ],
    folder: Annotated[
        Path,
        typer.Option("--in", metavar="DIR", parser=expanded, help="Folder to write the files to."),
    ] = Path(),
) -> None:
    """Write a working method file and its test, to start from."""
    from qbench.lab import scaffold

    file, test = scaffold.new_method(name, folder)
    print(f"Wrote {file} and {test}. Next:")
    print(f"  qbench check {file}")
    print(f"  qbench run suites/digits_start.yaml --methods {file}")
