"""Print what `qbench check` and `qbench profile` found."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.table import Table

from qbench import registry
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
    for column in ("step, ms", "ratio", "peak memory, MiB", "ratio"):
        table.add_column(column, justify="right")
    low, high = profile.quartiles
    title = registry.method_class(settings.method).title
    table.add_row("full precision", *_numbers(profile.seconds, profile.bytes, "1", "1"))
    time_ratio = f"{profile.ratio:.3f} ({low:.3f}–{high:.3f})"
    memory_ratio = f"{profile.quantized_bytes / profile.bytes:.3f}"
    table.add_row(
        f"{title} {settings.bits}",
        *_numbers(profile.quantized_seconds, profile.quantized_bytes, time_ratio, memory_ratio),
    )
    console = Console(highlight=False)
    console.print(table)
    steps = counted(len(profile.seconds), "step")
    shape = f"{settings.batch_size} × 3 × {settings.image_size} × {settings.image_size}"
    where = "" if settings.placement == LAYER_INPUTS else f"placement {settings.placement}; "
    console.print(
        f"{settings.model}, {shape}, {steps} each; {where}{machine(settings)}",
        soft_wrap=True,
        markup=False,
    )


def _numbers(seconds: list[float], peak: int, time_ratio: str, memory_ratio: str) -> list[str]:
    milliseconds = f"{1000 * statistics.median(seconds):.1f}"
    return [milliseconds, time_ratio, f"{peak / 2**20:.0f}", memory_ratio]
