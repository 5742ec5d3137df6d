"""Print what `qbench check` and `qbench profile` found."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from qbench import registry
from qbench.errors import QbenchError
from qbench.lab.check import Report
from qbench.lab.profile import Profile, ProfileSettings, machine
from qbench.spec.placement import LAYER_INPUTS
from qbench.spec.words import counted


def show_check(report: Report) -> None:
    """Print the report of a contract check.

    Args:
        report: The report.
    """
    console = Console(highlight=False)
    total = counted(report.passed + len(report.findings), "check")
    if report.findings:
        console.print(f"[red]{report.method} breaks the contract[/] ({total} made)")
    else:
        console.print(f"[green]{report.method} keeps the contract[/]: {total} passed")
    console.print(f"  widths: {', '.join(report.widths) or 'none'}")
    if report.placements:
        console.print(f"  placements: {', '.join(report.placements)}")
    if report.shares:
        shares = [f"{share:.0%} of {kind}" for kind, share in report.shares.items()]
        console.print(f"  have a gradient: {' and '.join(shares)}, in the layer with the fewest")
    if report.doable:
        console.print(
            f"  It refuses {', '.join(report.doable)}, which its declared levels contain and which "
            "it could do as far as can be told: accept them, or declare fewer bits.",
        )
    for finding in report.findings:
        where = f" ({finding.network} network, {finding.bits})" if finding.bits else ""
        console.print(f"\n[bold]{finding.check.replace('_', ' ')}[/]{where}")
        console.print(f"  {finding.message}", markup=False, soft_wrap=True)
        if finding.traceback:
            console.print(f"  {finding.traceback.strip()}".replace("\n", "\n  "), markup=False)


def show_profile(settings: ProfileSettings, profile: Profile) -> None:
    """Print a profile as a table.

    Args:
        settings: What was profiled.
        profile: Its measurements.
    """
    table = Table("", box=None, pad_edge=False)
    for column in ("step, ms", "ratio", "ratio of CPU time", "peak memory, MiB", "ratio"):
        table.add_column(column, justify="right")
    low, high = profile.quartiles
    title = registry.method_class(settings.method).title
    table.add_row("full precision", *_numbers(profile.seconds, profile.bytes, "1", "1", "1"))
    time_ratio = f"{profile.ratio:.3f} ({low:.3f}–{high:.3f})"
    cpu_ratio = f"{profile.cpu_ratio:.3f}"
    memory_ratio = f"{profile.memory_ratio:.3f}"
    table.add_row(
        f"{title} {settings.bits}",
        *_numbers(
            profile.quantized_seconds, profile.quantized_bytes, time_ratio, cpu_ratio, memory_ratio
        ),
    )
    console = Console(highlight=False)
    console.print(table)
    where = "" if settings.placement == LAYER_INPUTS else f"placement {settings.placement}; "
    conditions = _conditions(settings, len(profile.seconds), where)
    console.print(conditions, soft_wrap=True, markup=False)
    for line in profile.advice:
        console.print(line, soft_wrap=True, markup=False)


def show_profiles(
    settings: ProfileSettings, found: Iterable[tuple[ProfileSettings, Profile | QbenchError]]
) -> list[tuple[ProfileSettings, Profile]]:
    """Print a table of profiles, a line as soon as each is there, and their medians.

    Args:
        settings: Network and batch of all.
        found: Settings of each method with its profile or the error that ended it.

    Returns:
        Those that were measured.
    """
    console = Console(highlight=False)
    measured = []
    titles = ("bits", "step, ms", "ratio", "CPU ratio", "memory, MiB", "ratio")
    console.print(_line("method", *titles), soft_wrap=True, markup=False)
    for each, profile in found:
        if isinstance(profile, QbenchError):
            line = f"{each.method:24}{each.bits:>8}  {profile}"
        else:
            measured.append((each, profile))
            milliseconds = f"{1000 * statistics.median(profile.quantized_seconds):.0f}"
            ratios = f"{profile.ratio:.2f}", f"{profile.cpu_ratio:.2f}"
            memory = f"{profile.quantized_bytes / 2**20:.0f}", f"{profile.memory_ratio:.2f}"
            line = _line(each.method, each.bits, milliseconds, *ratios, *memory)
        console.print(line, soft_wrap=True, markup=False)
    if measured:
        profiles = [profile for _, profile in measured]
        medians = [
            f"{statistics.median(values):.2f}"
            for values in (
                [profile.ratio for profile in profiles],
                [profile.cpu_ratio for profile in profiles],
                [profile.memory_ratio for profile in profiles],
            )
        ]
        line = _line("median", "", "", *medians[:2], "", medians[2])
        console.print(line, soft_wrap=True, markup=False)
        conditions = _conditions(settings, len(profiles[0].seconds))
        console.print(conditions, soft_wrap=True, markup=False)
    return measured


def _line(method: str, bits: str, *values: str) -> str:
    """Return a line of the table of several profiles."""
    return f"{method:24}{bits:>8}" + "".join(f"{value:>12}" for value in values)


def _conditions(settings: ProfileSettings, steps: int, where: str = "") -> str:
    """Describe the network, the batch and the machine of a profile."""
    shape = f"{settings.batch_size} × 3 × {settings.image_size} × {settings.image_size}"
    each = f"{counted(steps, 'step')} each"
    return f"{settings.model}, {shape}, {each}; {where}{machine(settings)}"


def _numbers(seconds: list[float], peak: int, *ratios: str) -> list[str]:
    *times, memory = ratios
    return [f"{1000 * statistics.median(seconds):.1f}", *times, f"{peak / 2**20:.0f}", memory]
