"""Numbers and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from .probe import Version, differing, distinct, squared_error, steps

Rows = list[list[str]]


def number(value: float, digits: int = 4) -> str:
    """Format a number with at most ``digits`` decimals, or as a power of ten if it is large."""
    if abs(value) >= 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} · 10^{int(exponent)}"
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "0") else text.replace("-", "−")


def percent(share: float) -> str:
    """Format a share in percent."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{number(100 * share, 1)} %"


def numbers(values: Iterable[float], digits: int = 4) -> str:
    """Format numbers, separated by commas."""
    return ", ".join(number(value, digits) for value in values)


def span(values: Tensor) -> str:
    """Format the smallest and the largest value, or the common value."""
    low, high = number(float(values.min()), 3), number(float(values.max()), 3)
    return low if low == high else f"{low} … {high}"


def table(head: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def versions_table(versions: Sequence[Version], x: Tensor, reach: tuple[float, float]) -> str:
    """Return a table of versions, which compares each with the first.

    Args:
        versions: The versions, qbench's first.
        x: The tensor from which errors are measured.
        reach: Interval in which thresholds are searched.
    """
    rows = []
    for version in versions:
        levels = distinct(version.values)
        if version.function is None:
            each = [len(distinct(values)) for values in version.values]
            count = f"{min(each)}" if min(each) == max(each) else f"{min(each)} to {max(each)}"
            top = version.values.flatten(1).amax(1)
            what = f"{count} per filter, largest {span(top)}"
            thresholds = "per filter"
        else:
            what = f"{len(levels)}: {numbers(levels)}"
            thresholds = numbers(steps(version.function, *reach)[0])
        rows.append(
            [
                version.name,
                what,
                thresholds or "none",
                number(squared_error(version.values, x)),
                number(squared_error(version.values, x, scaled=True)),
                version.rule,
                span(version.slopes),
                percent(differing(version.values, versions[0].values)),
            ]
        )
    head = ["version", "levels", "thresholds", "error", "error, scaled"]
    return table([*head, "gradient", "∂q/∂w", "differs"], rows)
