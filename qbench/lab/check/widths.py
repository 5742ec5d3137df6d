"""Choose the bit-widths at which a method is checked, from those that it accepts."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from qbench.errors import QbenchError
from qbench.lab.check.levels import has_the_levels_it_promises_when_hard
from qbench.lab.check.networks import Case, images
from qbench.lab.check.report import Finding, Report
from qbench.lab.check.steps import state_of, through_quantizers, train
from qbench.lab.check.structure import attaches_as_told
from qbench.method import BitWidth, Levels, Method
from qbench.quant.audit import count_levels
from qbench.quant.layers import layer_weight
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from qbench.spec.placement import PLACEMENTS

WEIGHTS = ("1", "2", "3", "3(±2)", "3(±4)", "4", "8", "32")
ACTIVATIONS = ("32", "1", "2", "4", "8")
WIDTHS = tuple(f"{w}/{a}" for a in ACTIVATIONS for w in WEIGHTS if w != "32" or a != "32")
GRANULARITIES = ("per_tensor", "per_channel", "per_group(6)")  # the last groups of 6 are short


def accepted_widths(method: str, options: Mapping[str, Any]) -> Report:
    """Ask a method which bit-widths it supports, and check its answers.

    Args:
        method: Name of the method.
        options: Options of the method that differ from the defaults.

    Returns:
        A report with the bit-widths to check, those refused, and what is wrong with the answers.

    Raises:
        QbenchError: No method has the name, or an option is wrong.
    """
    report = Report(method)
    built = build_method(method, options)
    accepted = []
    for bits in WIDTHS:
        reason = _refusal(built, bits, report)
        if reason is None:
            accepted.append(bits)
        else:
            report.refused[bits] = reason
    report.widths = _cover(accepted)
    if not accepted and not report.findings:
        reasons = "; ".join(sorted(set(report.refused.values())))
        message = f"supports() refuses every width, so the method can do nothing: {reasons}"
        report.findings.append(Finding("supports", "", "", message))
    return report


def cases(
    method: str, options: Mapping[str, Any], networks: Sequence[str], widths: Sequence[str]
) -> Iterator[Case]:
    """Yield the cases that a method is checked in.

    That is every network at every bit-width; every other placement on a residual network, at the
    smallest and the largest bit-width of activations; and, if the method has an option
    ``granularity``, every other granularity on the first network, at the smallest and the largest
    bit-width.

    Args:
        method: Name of the method.
        options: Options of the method that differ from the defaults.
        networks: Names of networks.
        widths: Bit-widths that the method accepts.
    """
    for network in networks:
        for bits in widths:
            yield Case(method, options, network, bits)
    built = build_method(method, options)
    if not networks:
        return
    activations = [bits for bits in widths if not bits.endswith("/32")]
    for placement in PLACEMENTS:
        for bits in dict.fromkeys((*activations[:1], *activations[-1:])):
            if placement != built.placement:
                yield Case(method, options, "residual", bits, placement=placement)
    if built.granularity is None:
        return
    weights = [bits for bits in widths if not bits.startswith("32/")]
    for granularity in GRANULARITIES:
        try:
            other = build_method(method, {**options, "granularity": granularity})
        except QbenchError:  # the option does not allow it, or is set
            continue
        for bits in dict.fromkeys((*weights[:1], *weights[-1:])):
            if (
                other.granularity != built.granularity
                and other.supports(BitWidths.parse(bits), "classification") is None
            ):
                yield Case(method, options, networks[0], bits, granularity)


def _cover(accepted: Sequence[str]) -> list[str]:
    """Choose bit-widths such that every width of weights and of activations is among them."""
    chosen: list[str] = []
    covered: set[tuple[str, str]] = set()
    by_news = sorted(accepted, key=lambda bits: "32" in bits.split("/"))  # pairs cover two at once
    for bits in by_news:
        weights, activations = bits.split("/")
        news = {("weights", weights), ("activations", activations)} - covered
        if len(news) == 2 or (news and bits not in chosen and "32" in bits.split("/")):
            chosen.append(bits)
            covered |= news
    for bits in accepted:
        weights, activations = bits.split("/")
        if {("weights", weights), ("activations", activations)} - covered:
            chosen.append(bits)
            covered |= {("weights", weights), ("activations", activations)}
    return sorted(chosen, key=list(accepted).index)


def _refusal(method: Method, bits: str, report: Report) -> str | None:
    """Return why a method refuses bit-widths, or None; report an answer that is neither."""
    try:
        reason = method.supports(BitWidths.parse(bits), "classification")
    except Exception as error:
        message = f"supports() raised {type(error).__name__}: {error}; return a reason, or None"
        report.findings.append(Finding("supports", "", bits, message, traceback.format_exc()))
        return message
    declared = Method.supports(method, BitWidths.parse(bits), "classification")
    if reason is None and declared is not None:
        message = (
            f"supports() accepts {bits}, which the declared levels do not contain ({declared}): "
            "declare them in `weights` and `activations`, or refuse the widths"
        )
        report.findings.append(Finding("supports", "", bits, message))
        return message
    if reason is None or (isinstance(reason, str) and reason.strip() and "\n" not in reason):
        return reason
    message = f"supports() returned {reason!r}; return one line that says why not, or None"
    report.findings.append(Finding("supports", "", bits, message))
    return message


def could_do(case: Case, method: Method) -> bool:
    """Return whether a method could do bit-widths that it refuses.

    It could if it declares them, trains with them, and uses all levels.
    """
    if Method.supports(method, BitWidths.parse(case.bits), "classification") is not None:
        return False
    forced = copy.copy(method)
    forced.supports = lambda bits, task: None  # type: ignore[method-assign]
    try:
        handle = case.attach(method=forced)
        attaches_as_told(handle, case.bits)
        train(handle)
        has_the_levels_it_promises_when_hard(handle)
        weights = {m.name: layer_weight(m).detach() for m in handle.layers}
        inputs = {name: y for name, (_, y) in through_quantizers(handle, images(2)).items()}
        used = [
            _uses(weights[layer.name], layer.weight_levels, layer.weight_bits)
            for layer in handle.layers
            if layer.weight_levels is not None
        ]
        used += [
            _uses(inputs[place.name], place.activation_levels, place.activation_bits)
            for place in handle.places
            if place.activation_levels is not None
        ]
        finite = all(v.isfinite().all() for v in state_of(handle.model).values())
    except Exception:
        return False
    return all(used) and finite


def _uses(x: Tensor, levels: Levels, width: BitWidth) -> bool:
    """Return whether a tensor has more than half of the levels that it may have."""
    return count_levels(x, levels.granularity) > levels.count(width) // 2
