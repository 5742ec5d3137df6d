"""Keep an error of one model or one method from spoiling the rest of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pandas as pd

from qbench.errors import reason_of

Made = TypeVar("Made")
_ROW = ["model", "dataset", "label"]


@contextmanager
def noted(problems: list[str], what: str) -> Iterator[None]:
    """Context manager that turns an exception into a line and suppresses it.

    Args:
        problems: The lines; a line that is there already is not repeated.
        what: What could not be made.
    """
    try:
        yield
    except Exception as error:  # whatever a plugin, a stored file or a library raises
        line = f"{what}: {reason_of(error)}"
        if line not in problems:
            problems.append(line)


def make_of_sound(
    problems: list[str],
    what: str,
    rows: pd.DataFrame,
    make: Callable[[pd.DataFrame], Made],
    default: Made,
) -> Made:
    """Make something of rows; if that fails, make it of those models and methods that it can be of.

    Args:
        problems: Receives a line for what is left out, with the reason.
        what: What is made, for these lines.
        rows: Frame with the columns ``model``, ``dataset`` and ``label``.
        make: Makes it of a part of the rows.
        default: Value if it cannot be made at all.

    Returns:
        What was made of all rows, or of those of the models and methods with which it works.
    """
    try:
        return make(rows)
    except Exception as error:
        whole = reason_of(error)
    sound: list[pd.DataFrame] = []
    faults: dict[tuple[Any, Any, str], list[str]] = {}
    for (model, dataset, label), group in rows.groupby(_ROW, sort=False):
        try:
            make(group)
            sound.append(group)
        except Exception as error:
            faults.setdefault((model, dataset, reason_of(error)), []).append(str(label))
    if faults and sound:
        try:
            made = make(pd.concat(sound).sort_index())
        except Exception as error:
            whole = reason_of(error)
        else:
            for (model, dataset, reason), labels in faults.items():
                problems.append(f"{what} of {_listed(labels)} on {model}, {dataset}: {reason}")
            return made
    problems.append(f"{what}: {whole}")
    return default


def _listed(labels: Sequence[str]) -> str:
    """Join names with commas, at most three of them."""
    rest = len(labels) - 3
    return ", ".join(labels[:3]) + (f" and {rest} more" if rest > 0 else "")
