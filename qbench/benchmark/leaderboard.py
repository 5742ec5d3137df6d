"""Gather what tables, figures and the page need of a benchmark, and have them written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.spec.bits import FULL_PRECISION, BitWidths

if TYPE_CHECKING:
    from qbench.benchmark.benchmark import Benchmark


def write(benchmark: Benchmark, html: bool = False) -> list[Path]:
    """Write the tables and figures of a suite from what is stored.

    Args:
        benchmark: The benchmark. Nothing is trained.
        html: Whether to write the page ``leaderboard.html`` too.

    Returns:
        The files written, in the benchmark's `folder`.

    Raises:
        QbenchError: The store cannot be read.
        OSError: The folder cannot be written.
    """
    from qbench.report import write as report
    from qbench.report.presentation import Presentation

    suite, runs, store = benchmark.suite, benchmark.runs, benchmark.store
    shown = benchmark.dataset.shown
    presentation = Presentation(
        name=suite.name,
        title=suite.title or suite.name,
        bits=[str(BitWidths.parse(text)) for text in suite.bits],
        shown=shown,
        rehearsal=benchmark.rehearsal,
        tables=suite.tables,
    )
    trials = benchmark.trials()
    finished = {key: run for key, run in runs.items() if run.info.status == "FINISHED"}
    histories = store.histories(finished, history_columns(shown[0]))
    examples = _draw_examples(benchmark)
    evidence = None
    if html:
        from qbench.store.evidence import evidence_of

        evidence = {key: evidence_of(store, run) for key, run in runs.items()}
    return report.write(presentation, trials, histories, benchmark.folder, examples, evidence)


def history_columns(metric: str) -> tuple[str, ...]:
    """Return the columns of a training history that figures of a metric need.

    Args:
        metric: Name of the metric, such as ``top1``.
    """
    return ("train_loss", metric, f"soft_{metric}", "lr")


def _draw_examples(benchmark: Benchmark) -> list[Path]:
    """Draw what detectors find in a few test images: at full precision, and with each method.

    Draws one picture for each model and pair of bit-widths, from the first seed. Draws nothing in a
    rehearsal, for other tasks than detection, or without the dataset's images.
    """
    dataset, suite = benchmark.dataset, benchmark.suite
    if dataset.task != "detection" or benchmark.rehearsal or dataset.missing():
        return []
    from qbench.report.figures.detections import detections
    from qbench.tasks.detection import EXAMPLE_IMAGES

    first = [planned for planned in benchmark.planned if planned.trial.seed == suite.seeds[0]]
    done = [planned for planned in first if benchmark.status(planned) == "done"]
    keys = [planned.trial.key for planned in done]
    found = {key: benchmark.store.examples(benchmark.runs[key]) for key in keys}
    if not any(found.values()):
        return []
    benchmark.folder.mkdir(parents=True, exist_ok=True)
    images, targets = dataset.first(EXAMPLE_IMAGES)
    drawn: list[Path] = []
    for model in suite.models:
        for bits in [str(BitWidths.parse(text)) for text in suite.bits]:
            columns = {
                planned.label: found[planned.trial.key]
                for planned in done
                if planned.trial.model == model
                and planned.trial.bits in (str(FULL_PRECISION), bits)
            }
            if len(columns) > 1:
                stem = f"detections_{model}_{'-'.join(re.findall(r'[0-9]+', bits))}"
                drawn += detections(
                    images, targets, columns, dataset.classes, benchmark.folder, stem
                )
    return drawn
