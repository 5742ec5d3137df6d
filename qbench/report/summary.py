"""Summary of trials: one row for each result. Tables, figures and pages are made from it.

A result is a dataset, a model, a row of the suite and its bit-widths, over its seeds.
`qbench.report.columns.COLUMNS` describes the columns. Full-precision networks are results too.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from qbench.report.columns import BY_NAME, COLUMNS, Column
from qbench.report.significance import LEVEL, PairedTests, Verdict, interval, judge
from qbench.report.tables.text import setting_text
from qbench.spec.recipe import Recipe
from qbench.spec.trial import FP32

RESULT = ["dataset", "model", "label", "bits"]
COLUMN = ["dataset", "model", "bits"]  # what the results of a column of a table share
# Columns that older or hand-made frames of trials may lack, with their defaults.
_DEFAULTS: dict[str, Any] = {
    "options": "{}",
    "w_bits": np.nan,
    "a_bits": np.nan,
    "audit": "",
    "stale": "",
    "training": "{}",
    "train_seconds": np.nan,
    "soft_gap": np.nan,
    "reestimation": np.nan,
    "published_value": np.nan,
    "published_decimals": 1,
    "source": "",
    "claim_unlike": "",
    "claim_apart": "",
    "paper_network": "",
    "first_layer": "",
    "last_layer": "",
    "w_levels": np.nan,
    "a_levels": np.nan,
    "w_coverage": np.nan,
    "mac_coverage": np.nan,
    "partly": "",
    "start": "",
    "teacher": "",
    "augmentation": "",
    "weight_mb": np.nan,
    "full_weight_mb": np.nan,
    "gbops": np.nan,
    "full_gbops": np.nan,
    "key": "",
    "base": "",
    "prepared": "",
}
Row = dict[str, Any]
_PROTOCOL = ("network", "first_layer", "last_layer", "start", "augmentation")
_TOLD_ELSEWHERE = ("initialization",)
# Values of a recipe that JSON leaves out while they are the default.
_LATER_VALUES = {name: Recipe.model_fields[name].default for name in sorted(Recipe.later)}
_FEWEST_ROWS = 3  # of two rows, neither is like most


def summarise(trials: pd.DataFrame, metric: str = "top1", items: int = 0) -> pd.DataFrame:
    """Summarise trials over their seeds.

    Args:
        trials: One row for each trial, as `qbench.benchmark.benchmark.Benchmark.trials` returns
            them. Required columns: ``dataset``, ``model``, ``label`` (row of the table), ``bits``,
            ``method``, ``seed`` (int), ``recipe``, ``epochs`` (int), ``status`` (done, failed,
            missing or unsupported), ``reason``, and `metric` (float, %; NaN if not measured).
            Columns of policy, cost and claims may be missing.
        metric: Metric of the mean, the standard deviation and the tests. Higher values are better.
        items: Number of test items. 0 if it is not known.

    Returns:
        One row for each result, in the order of the trials, with the columns of
        `qbench.report.columns.COLUMNS`. Metrics other than `metric` that the trials lack are left
        out. A number that is not known is NaN.

    Raises:
        KeyError: The trials lack a required column.
    """
    trials = trials.assign(**{k: v for k, v in _DEFAULTS.items() if k not in trials})
    if "network" not in trials:
        trials = trials.assign(network=trials["model"])
    rows: list[dict[str, Any]] = []
    for network in grouped(records(trials), "dataset", "model"):
        results = [
            _Result(group, metric, _full_precision_of(group, network))
            for group in grouped(network, *RESULT)
        ]
        compared = [result for result in results if not result.is_changed_base]
        for bits in dict.fromkeys(result.row["bits"] for result in compared):
            _compare([result for result in compared if result.row["bits"] == bits], items)
        _mark_protocols([result for result in results if result.has_protocol])
        rows += [result.row for result in results]
    names = [column.name for column in COLUMNS]
    present = set().union(*rows) if rows else set(names)
    return pd.DataFrame(rows, columns=[name for name in names if name in present])


def columns_of(summary: pd.DataFrame, *groups: str) -> list[Column]:
    """Return the descriptions of a summary's columns.

    Args:
        summary: Frame as `summarise` returns it, one row for each result.
        groups: Groups of columns to return, such as ``cost``. Default: all.

    Returns:
        The columns, in the order of the frame.

    Raises:
        KeyError: The frame has a column that `qbench.report.columns.COLUMNS` does not describe.
    """
    columns = [BY_NAME[str(name)] for name in summary]
    return [column for column in columns if not groups or column.group in groups]


def records(trials: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame as plain mappings, which are much faster than many small frames.

    Args:
        trials: Any frame.

    Returns:
        One mapping from column name to value for each row, in order.
    """
    columns = {str(name): values.tolist() for name, values in trials.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def grouped(trials: list[Row], *names: str) -> list[list[Row]]:
    """Group trials that agree in some columns.

    Args:
        trials: Rows of trials.
        names: The columns.

    Returns:
        The groups, in the order in which the first trial of each appears.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for trial in trials:
        groups.setdefault(tuple(trial[name] for name in names), []).append(trial)
    return list(groups.values())


def by_seed(done: list[Row], metric: str) -> dict[int, float]:
    """Return a metric of finished trials by their seed.

    Args:
        done: Rows of trials of one result, one for each seed.
        metric: Column of the metric.
    """
    return {int(trial["seed"]): float(trial[metric]) for trial in done}


def _full_precision_of(trials: list[Row], network: list[Row]) -> list[Row]:
    """Return the full-precision trials of a result, of its changed network if it has one.

    Args:
        trials: Rows of the result's trials.
        network: Rows of all trials of the same dataset and model.
    """
    full = [trial for trial in network if trial["method"] == FP32]
    first = trials[0]
    if _is_changed(first) and (first["base"] or first["prepared"]):
        wanted = {trial["base"] or trial["key"] for trial in trials}
        return [trial for trial in full if trial["key"] in wanted]
    same = (first["network"], "")
    return [trial for trial in full if (trial["network"], trial["prepared"]) == same]


def _is_changed(trial: Row) -> bool:
    """Return whether the network of a trial is not the model as it is."""
    return bool(trial["prepared"]) or trial["network"] != trial["model"]


class _Result:
    """The trials of one result, with the row of the summary that they give.

    Args:
        trials: Rows of the trials, one for each seed.
        metric: Metric of the mean, in %.
        full: Rows of the full-precision trials that it is compared with.
    """

    def __init__(self, trials: list[Row], metric: str, full: list[Row]) -> None:
        self.done = _done(trials)
        self.values = by_seed(self.done, metric)
        self._evidence = _evidence(self.done, metric)
        first, n = trials[0], len(self.done)
        self.training: dict[str, Any] = json.loads(first["training"])
        whole = n == len(trials)
        quantized = first["method"] != FP32
        self.is_changed_base = not quantized and _is_changed(first)
        audits = list(dict.fromkeys(t["audit"] for t in self.done if t["audit"]))
        mean, std = _mean_and_deviation([trial[metric] for trial in self.done])
        self.row: dict[str, Any] = {
            **{name: first[name] for name in (*RESULT, "method", "options", "w_bits", "a_bits")},
            "status": "done" if whole else _status({trial["status"] for trial in trials}),
            "reason": next((trial["reason"] for trial in trials if trial["reason"]), ""),
            "n": n,
            "seeds": len(trials),
            "metric": metric,
            "mean": mean,
            "std": std,
            "ci95": interval(list(self.values.values())),
            "soft_gap": _mean_and_deviation([trial["soft_gap"] for trial in self.done])[0],
            "reestimation": _mean_and_deviation([t["reestimation"] for t in self.done])[0],
            "standing": "",
            "p": np.nan,
            "p_holm": np.nan,
            "ranks": "",
            "deviation": np.nan,
            "same_as": "",
            "bold": False,
            **{name: first[name] for name in (*_PROTOCOL, "recipe", "epochs", "teacher")},
            "w_levels": _most([trial["w_levels"] for trial in self.done]),
            "a_levels": _most([trial["a_levels"] for trial in self.done]),
            "w_coverage": _most([trial["w_coverage"] for trial in self.done]),
            "mac_coverage": _most([trial["mac_coverage"] for trial in self.done]),
            "partly": next((t["partly"] for t in self.done if t["partly"]), ""),
            "checkpoint": "last epoch",
            "differs": "",
            "audit": "; ".join(audits) or ("k-bit" if quantized and n else ""),
        }
        for name in ("top5", "map50", "map"):
            if name in first and name != metric:
                self.row[name] = _mean_and_deviation([trial[name] for trial in self.done])[0]
        if "exported" in first:
            self.row |= deployment(self.done)
        doubts = ["it is not k-bit"] if audits else []
        doubts += ["it is partly quantized"] if self.row["partly"] else []
        doubts += dict.fromkeys(t["stale"] for t in self.done if t["stale"])
        self.comparable = whole and not doubts
        self.has_protocol = quantized and self.row["status"] != "unsupported"
        self._set_beside_full_precision(by_seed(_done(full), metric))
        self._set_claim(first, doubts)
        self._set_cost(first, full)

    def is_same_as(self, other: _Result) -> bool:
        """Return whether both are the same function: equal results and losses in every seed."""
        return bool(self._evidence) and self._evidence == other._evidence

    def _set_beside_full_precision(self, base: dict[int, float]) -> None:
        self.row["full_precision"], _ = _mean_and_deviation(list(base.values()))
        its_own = self.row["method"] == FP32
        common = [] if its_own else sorted(base.keys() & self.values.keys())
        drop, std = _mean_and_deviation([base[seed] - self.values[seed] for seed in common])
        self.row |= {"drop": drop, "drop_std": std}

    def _set_claim(self, first: Row, doubts: list[str]) -> None:
        claim = float(first["published_value"])
        verdict = Verdict("")
        if not np.isnan(claim) and self.values:
            unlike = first["claim_unlike"] or "; ".join(doubts)
            verdict = judge(list(self.values.values()), claim, int(first["published_decimals"]))
            verdict = Verdict("not judged" if unlike else verdict.text, unlike)
        self.row |= {
            "published": claim,
            "source": first["source"],
            "paper_network": first["paper_network"],
            "delta": np.nan if verdict.text == "not judged" else self.row["mean"] - claim,
            "verdict": verdict.text,
            "verdict_note": verdict.note or (first["claim_apart"] if verdict.text else ""),
        }

    def _set_cost(self, first: Row, full: list[Row]) -> None:
        base, own = _pace(_done(full)), _pace(self.done)
        ratios = [own[seed] / base[seed] for seed in sorted(base.keys() & own.keys())]
        self.row |= {
            "weight_mb": first["weight_mb"],
            "compression": first["full_weight_mb"] / first["weight_mb"],
            "gbops": first["gbops"],
            "bops_ratio": first["full_gbops"] / first["gbops"],
            "train_ratio": _mean_and_deviation(ratios)[0],
        }


def _compare(column: list[_Result], items: int) -> None:
    """Set the standing of each result of a column relative to the best one, and its ranks."""
    measured = [result for result in column if result.row["n"]]
    if len(measured) < 2:
        return
    for result in measured:
        result.row["standing"] = "untested"
    distinct: list[_Result] = []
    same: list[tuple[_Result, _Result]] = []
    for result in measured:
        if not result.comparable:
            continue
        first = next((other for other in distinct if result.is_same_as(other)), None)
        distinct.append(result) if first is None else same.append((result, first))
    if not distinct:
        return
    tests = PairedTests([result.values for result in distinct], items)
    if len(distinct) > 1:
        for result in distinct:
            result.row["deviation"] = float(np.sqrt(tests.variance))
    best = max(range(len(distinct)), key=lambda i: distinct[i].row["mean"])
    others = [i for i in range(len(distinct)) if i != best]
    corrected = tests.corrected([(best, i) for i in others])
    for i, p_holm in zip(others, corrected, strict=True):
        p = tests.uncorrected(best, i)
        distinct[i].row |= {"p": p, "p_holm": p_holm, "standing": _standing(p, p_holm)}
    distinct[best].row["standing"] = "best"
    told = [distinct[i].row["standing"] in ("behind", "worse") for i in others]
    distinct[best].row["bold"] = bool(told) and all(told)
    if len(distinct) > 1 and np.isfinite(tests.differences[best]).sum() > 1:
        for result, (first_rank, last_rank) in zip(distinct, tests.ranks(), strict=True):
            between = f"{first_rank}–{last_rank}"
            result.row["ranks"] = str(first_rank) if first_rank == last_rank else between
    for result, first in same:
        result.row |= {
            name: first.row[name]
            for name in ("standing", "p", "p_holm", "ranks", "deviation", "bold")
        }
        result.row["same_as"] = first.row["label"]


def _standing(p: float, corrected: float) -> str:
    if np.isnan(p):
        return "untested"
    if p >= LEVEL:
        return "tied"
    return "worse" if corrected < LEVEL else "behind"


def _mark_protocols(results: list[_Result]) -> None:
    """Set how the protocol of each result differs from that of most rows, if there are three.

    Results with and without quantized activations are compared apart: layers that a suite keeps at
    8 bits are 8/8 in the former and 8/32 in the latter.
    """
    if len({result.row["label"] for result in results}) < _FEWEST_ROWS:
        return
    protocols = [_protocol(result) for result in results]
    weights_only = [str(result.row["bits"]).endswith("/32") for result in results]
    counts: dict[tuple[str, bool], Counter[str]] = {}
    for protocol, group in zip(protocols, weights_only, strict=True):
        for name, value in protocol.items():
            counts.setdefault((name, group), Counter())[json.dumps(value)] += 1
    for result, protocol, group in zip(results, protocols, weights_only, strict=True):
        result.row["differs"] = ", ".join(
            f"{name} {setting_text(value)}"
            for name, value in protocol.items()
            if json.dumps(value) != counts[name, group].most_common(1)[0][0]
        )


def _protocol(result: _Result) -> dict[str, Any]:
    """Return the settings that comparable results share. Without training, no recipe values."""
    epochs = int(result.row["epochs"])
    known = {name: result.row[name] for name in _PROTOCOL if result.row[name]}
    protocol = {name.replace("_", " "): value for name, value in known.items()}
    protocol["epochs"] = epochs
    if epochs:
        training = {**_LATER_VALUES, **result.training}
        protocol |= {k: v for k, v in training.items() if k not in _TOLD_ELSEWHERE}
    return protocol


def _status(found: set[str]) -> str:
    if "done" in found:
        return "partly"
    return next(status for status in ("unsupported", "failed", "missing") if status in found)


def deployment(done: list[Row]) -> Row:
    """Return how trials were exported: as badly as the worst of them, in the median as fast.

    Args:
        done: The trials, with the columns ``exported``, ``flips``, ``onnx_mb`` and
            ``latency_ratio``.
    """
    reasons = [trial["exported"] for trial in done]
    ratios = [t["latency_ratio"] for t in done if not np.isnan(t["latency_ratio"])]
    return {
        "exported": next((reason for reason in reasons if reason != "yes"), "yes" if done else ""),
        "flips": _most([trial["flips"] for trial in done]),
        "onnx_mb": _most([trial["onnx_mb"] for trial in done]),
        "latency_ratio": float(np.median(ratios)) if ratios else np.nan,
    }


def _done(trials: list[Row]) -> list[Row]:
    return [trial for trial in trials if trial["status"] == "done"]


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation. Each is NaN if there are too few values."""
    mean = float(np.mean(values)) if values else np.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def _evidence(done: list[Row], metric: str) -> dict[int, tuple[float, ...]]:
    """Return what a network measures by seed; empty if that does not identify its function.

    The accuracy of two functions on a few test images is often equal, their loss or mAP is not.
    """
    telling = [
        name for name in ("test_loss", "map") if done and np.isfinite(done[0].get(name, np.nan))
    ]
    if not telling:
        return {}
    return {int(t["seed"]): tuple(float(t[name]) for name in (metric, *telling)) for t in done}


def _most(levels: list[float]) -> float:
    return max((float(level) for level in levels if not np.isnan(level)), default=np.nan)


def _pace(done: list[Row]) -> dict[int, float]:
    """Return the seconds of an epoch by seed, for the trials that were trained here."""
    trained = [t for t in done if t["epochs"] > 0 and t["train_seconds"] > 0]
    return {int(t["seed"]): t["train_seconds"] / t["epochs"] for t in trained}
