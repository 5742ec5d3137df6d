"""The page: introduction, sections and sources."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl

from qbench.report.figures.style import STYLE

from . import (
    admm,
    bwn,
    dorefa,
    every_method,
    hwgq,
    lq_nets,
    lsq,
    pact,
    quantization_networks,
    twn,
    wrpn,
)
from .markdown import number, table
from .probe import SCALE, SHAPE
from .sources import READ


def _files_read() -> str:
    """Return the section that lists the files that were read."""
    rows = [
        [code.repository, code.link(f"`{code.path}`"), f"`{code.commit[:12]}`"] for code in READ
    ]
    return "\n\n".join(
        [
            "## Sources",
            "The equations of the papers for WRPN, LSQ, BWN, PACT and ADMM come from descriptions. "
            "Everything else above the table of all methods comes from these files.",
            table(["repository", "file", "commit"], rows),
            "\n".join(code.definition for code in READ),
        ]
    )


def _introduction() -> str:
    """Return the introduction, which says how to read the page."""
    count = math.prod(SHAPE)
    shape = " × ".join(map(str, SHAPE))
    return "\n\n".join(
        [
            "# Is it the method of the paper?",
            "This page compares qbench's version of a method with those of well-known libraries, "
            "on one tensor, and names every difference. Implementations that carry the name of "
            "one method often differ. [A table](#all-methods) lists all methods, what each was "
            "checked against, and its departures. The page is about quantizers. Which network a "
            "method quantizes, and where that is not its authors', is told in "
            "[methodology.md](methodology.md#networks-that-a-method-changes).",
            f"The tensor is Gaussian and seeded: {shape} = {count} values with standard deviation "
            f"{number(SCALE)}, like the weight of a convolution. The values of qbench come through "
            "its plugin interface, as in a trial. The others come from transcriptions in "
            "[`libraries.py`](tools/fidelity/libraries.py), which were written from the linked "
            "files and share no code with qbench. `python -m docs.tools.fidelity` computes every "
            "number and writes this page. A test checks that the page is up to date.",
            "- *levels*: the number of distinct values of the quantized tensor, and the values.\n"
            "- *thresholds*: the boundaries between levels.\n"
            "- *error*: mean squared error over the mean square of the tensor; a tensor of zeros "
            "has an error of 1. *error, scaled*: the error after multiplying the layer by the "
            "factor that minimises it. A batch normalisation behind the layer absorbs such a "
            "factor.\n"
            "- *gradient* and *∂q/∂w*: the rule that replaces the derivative, and its smallest and "
            "largest value over the tensor.\n"
            "- *differs*: the share of values that differ from those of the first row.",
        ]
    )


def write(output: Path) -> Path:
    """Write the page and its figures.

    Args:
        output: Folder to write into.

    Returns:
        Path of the page.
    """
    folder = output / "fidelity"
    sections = [
        dorefa.weights,
        dorefa.activations,
        wrpn.section,
        lsq.section,
        hwgq.section,
        bwn.section,
        twn.section,
        pact.section,
        lq_nets.section,
        quantization_networks.section,
        admm.section,
        every_method.section,
    ]
    with mpl.rc_context(STYLE):
        parts = [_introduction(), *(section(folder) for section in sections), _files_read()]
    page = output / "fidelity.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page
