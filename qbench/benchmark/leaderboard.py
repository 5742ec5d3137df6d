"""Gather what tables, figures and the page need of a benchmark, and have them written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from qbench.report.presentation import Presentation, shown_metrics
from qbench.report.problems import noted
from qbench.report.tables.text import setting_text
from qbench.spec.bits import FULL_PRECISION, BitWidths
from qbench.suite.published import differences
from qbench.suite.tuned import fresh_seeds

if TYPE_CHECKING:
    from qbench.benchmark.benchmark import Benchmark
    from qbench.report.tables.details import DetailsTable
    from qbench.report.write import Report
    from qbench.spec.result import ImageDetections
    from qbench.store.mlflow import Store
    from qbench.store.run import Run

_HASH = re.compile(r"[0-9a-f]{8,}")


def write(benchmark: Benchmark, html: bool = False) -> Report:
    """Write the tables and figures of a suite from what is stored.

    Args:
        benchmark: The benchmark. Nothing is trained.
        html: Whether to write the page ``leaderboard.html`` too.

    Returns:
        The files written, in the benchmark's `folder`, and what could not be made.

    Raises:
        QbenchError: The store cannot be read, or nothing can be made of the trials.
        OSError: The folder cannot be written.
    """
    from qbench.benchmark import deployed, tuned_frames
    from qbench.report import studies, tuning_effect
    from qbench.report import write as report

    runs, store = benchmark.runs, benchmark.store
    presentation = _presentation(benchmark)
    trials = benchmark.trials()
    if benchmark.suite.deploy:
        trials = trials.join(deployed.columns(benchmark, trials["key"]))
    every: pd.DataFrame | None = None
    configurations: pd.DataFrame | None = None
    beneath: list[DetailsTable] = []
    effects: list[tuning_effect.Effect] = []
    problems = list(benchmark.rows.problems)
    if benchmark.tuned is not None:
        every = tuned_frames.tested(benchmark, trials)
        trials = studies.means(tuned_frames.second_stage(benchmark, trials))
        configurations = tuned_frames.configurations(benchmark)
        metric, items = presentation.shown[0], presentation.test_items
        aligned = tuned_frames.aligned(benchmark)
        means = studies.means_of(aligned, metric)
        with noted(problems, "what tuning changes"):
            published = differences(benchmark.results, metric)
            effects = tuning_effect.effects(aligned, trials, metric, items, published)
            beneath += tuning_effect.tables(effects, trials, means, metric)
        beneath += studies.tables(configurations, trials, means, metric)
    names = {planned.trial.key: planned.name for planned in benchmark.planned}
    finished = {key: run for key, run in runs.items() if run.status == "FINISHED"}
    histories = _histories(store, finished, history_columns(presentation.shown[0]), names, problems)
    further = _draw_examples(benchmark, problems)
    tuning = benchmark.suite.tuning
    # The figure is of configurations that no score has chosen or stopped.
    alike = tuning.search != "optuna" and tuning.scheduler == "none"
    if configurations is not None:
        of_search = configurations if alike and not benchmark.rehearsal else configurations[:0]
        further += _draw_tuning(benchmark, presentation, trials, of_search, problems)
    evidence = None
    if html:
        from qbench.store.evidence import evidence_of

        evidence = {}
        for key, run in runs.items():
            with noted(problems, f"the details of {names[key]}"):
                evidence[key] = evidence_of(store, run)
    written = report.write(
        presentation,
        trials,
        histories,
        benchmark.folder,
        further,
        evidence,
        problems,
        beneath,
        every,
    )
    if configurations is not None:
        changes = tuning_effect.to_frame(effects)
        written.files.extend(tuned_frames.write(configurations, changes, benchmark.folder))
    return written


def _presentation(benchmark: Benchmark) -> Presentation:
    suite, dataset = benchmark.suite, benchmark.dataset
    own = {name: setting_text(value) for name, value in dataset.identity().items()}
    told = ", ".join(f"{name} {text}" for name, text in own.items() if not _HASH.fullmatch(text))
    test_items = dataset.sizes()[1]
    known = test_items and dataset.task == "classification"
    return Presentation(
        name=suite.name,
        title=suite.title or suite.name,
        bits=[str(BitWidths.parse(text)) for text in suite.bits],
        shown=shown_metrics(dataset),
        rehearsal=benchmark.rehearsal,
        tables=suite.tables,
        data=f"Data: {dataset.title} with {told}." if told else "",
        effort=suite.tuning.effort if suite.is_tuned else "",
        chance=100 / dataset.num_classes if known else math.nan,
        test_items=test_items,
        date=_day(benchmark.runs.values()),
    )


def _day(runs: Iterable[Run]) -> str:
    """Return the day (UTC) on which the newest run ended, or an empty string."""
    ended = [run.end_time for run in runs if run.end_time]
    return datetime.fromtimestamp(max(ended) / 1000, UTC).date().isoformat() if ended else ""


def _histories(
    store: Store,
    runs: Mapping[str, Run],
    columns: Sequence[str],
    names: Mapping[str, str],
    problems: list[str],
) -> pd.DataFrame:
    """Return the histories of runs, without those that cannot be read."""
    with suppress(Exception):  # which one it is of is found below
        return store.histories(dict(runs), columns)
    found = [store.histories({}, columns)]
    for key, run in runs.items():
        with noted(problems, f"the curves of {names[key]}"):
            found.append(store.histories({key: run}, columns))
    return pd.concat([frame for frame in found if len(frame)] or found[:1])


def history_columns(metric: str) -> tuple[str, ...]:
    """Return the columns of a training history that figures of a metric need.

    Args:
        metric: Name of the metric, such as ``top1``.
    """
    return ("train_loss", metric, f"soft_{metric}", f"train_{metric}", "lr")


def _draw_tuning(
    benchmark: Benchmark,
    presentation: Presentation,
    trials: pd.DataFrame,
    configurations: pd.DataFrame,
    problems: list[str],
) -> list[Path]:
    """Draw the expected best score of each method by the number of configurations tried."""
    from qbench.report.figures.tuning import tuning_curves

    benchmark.folder.mkdir(parents=True, exist_ok=True)
    metric, chance = presentation.shown[0], presentation.chance
    drawn: list[Path] = []
    with noted(problems, "the figure tuning_curves"):
        drawn += tuning_curves(trials, configurations, benchmark.folder, metric, chance)
    if not drawn:  # of an earlier report
        for suffix in (".png", ".svg"):
            (benchmark.folder / f"tuning_curves{suffix}").unlink(missing_ok=True)
    return drawn


def _draw_examples(benchmark: Benchmark, problems: list[str]) -> list[Path]:
    """Draw what detectors find in a few test images: at full precision, and with each method.

    Draws one picture for each model and pair of bit-widths, from the first seed, or from that of
    the first study. Draws nothing in a rehearsal, for other tasks than detection, or without the
    dataset's images.
    """
    dataset, suite = benchmark.dataset, benchmark.suite
    if dataset.task != "detection" or benchmark.rehearsal or dataset.missing():
        return []
    from qbench.report.figures.detections import detections
    from qbench.tasks.detection import EXAMPLE_IMAGES

    seed = fresh_seeds(1, 1)[0] if benchmark.tuned is not None else suite.seeds[0]
    tested = [each for each in benchmark.planned if not each.trial.validation]
    first = [planned for planned in tested if planned.trial.seed == seed]
    done = [planned for planned in first if benchmark.status(planned) == "done"]
    found: dict[str, list[ImageDetections]] = {}
    for planned in done:
        with noted(problems, f"the detections of {planned.name}"):
            key = planned.trial.key
            found[key] = benchmark.store.examples(benchmark.runs[key])
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
                if planned.trial.key in found
                and planned.trial.model == model
                and planned.trial.bits in (str(FULL_PRECISION), bits)
            }
            if len(columns) > 1:
                stem = f"detections_{model}_{'-'.join(re.findall(r'[0-9]+', bits))}"
                with noted(problems, f"the figure {stem}"):
                    drawn += detections(
                        images, targets, columns, dataset.classes, benchmark.folder, stem
                    )
    return drawn
