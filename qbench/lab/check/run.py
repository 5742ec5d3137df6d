"""Run all checks of a method, at every bit-width that it accepts, and report what is broken."""

from __future__ import annotations

import copy
import itertools
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qbench import registry
from qbench.errors import QbenchError
from qbench.lab.check.checks import (
    CHECKS,
    COMPILED,
    TRAINING,
    BrokenPromiseError,
    Check,
    attaches_as_told,
    has_named_levels,
)
from qbench.lab.check.networks import ALL_NETWORKS, Case, images
from qbench.lab.check.processes import agrees_in_two_processes
from qbench.lab.check.steps import layer_weight, state_of, through_quantizers, train
from qbench.method import Method
from qbench.quant.audit import count_levels
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths

WEIGHTS = ("1", "2", "3", "3(±2)", "3(±4)", "4", "8", "32")
ACTIVATIONS = ("32", "1", "2", "4", "8")
WIDTHS = tuple(f"{w}/{a}" for a in ACTIVATIONS for w in WEIGHTS if w != "32" or a != "32")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One broken promise.

    Attributes:
        check: Name of the check.
        network: Name of the network; empty if the check needs none.
        bits: Bit-widths as ``W/A``; empty if the check is about all of them.
        message: What is broken.
        traceback: Where the method's own code raised, if it did.
    """

    check: str
    network: str
    bits: str
    message: str
    traceback: str = ""


@dataclass
class Report:
    """Result of checking a method.

    Attributes:
        method: Name of the method.
        widths: Bit-widths that it was checked at. They cover every width of weights and every width
            of activations that it accepts.
        refused: Bit-widths that it refuses, each with its reason.
        doable: Refused bit-widths that it could do, as far as the checks can tell.
        passed: Number of checks that passed.
        findings: What is broken.
    """

    method: str
    widths: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    doable: list[str] = field(default_factory=list)
    passed: int = 0
    findings: list[Finding] = field(default_factory=list)


def check(
    method: str,
    options: Mapping[str, Any] | None = None,
    *,
    networks: Sequence[str] = ALL_NETWORKS,
    thorough: bool = True,
) -> Report:
    """Check a method at bit-widths that cover all that it accepts.

    Args:
        method: Name of the method.
        options: Options of the method that differ from the defaults.
        networks: Names of `qbench.lab.check.networks.NETWORKS`.
        thorough: Whether to run what takes seconds too: ``torch.compile``, training in two
            processes, and whether bit-widths are refused without need.

    Returns:
        What was found. A check that failed is not repeated on other networks and bit-widths.

    Raises:
        QbenchError: No method has the name, or an option is wrong.
    """
    options = dict(options or {})
    report = accepted_widths(method, options)
    built = build_method(method, options)
    broken: set[str] = set()
    for network, bits in itertools.product(networks, report.widths):
        _LOGGER.info("%s %s", network, bits)
        case = Case(method, options, network, bits)
        for each in checks_of(built, compiled=thorough and network == networks[0]):
            if each.__name__ in broken:
                continue
            finding = _run(each, case)
            if finding is None:
                report.passed += 1
            else:
                broken.add(each.__name__)
                report.findings.append(finding)
                if each is CHECKS[0]:
                    return report  # what cannot be attached cannot be checked
    if thorough and not report.findings:
        if built.trains:
            _check_in_two_processes(method, options, report)
        for bits in report.refused:
            _LOGGER.info("whether %s is rightly refused", bits)
            if _would_do(Case(method, options, "mixed", bits), built):
                report.doable.append(bits)
    return report


def checks_of(method: Method, compiled: bool) -> tuple[Check, ...]:
    """Return the checks that apply to a method.

    Args:
        method: The method.
        compiled: Whether to include those that compile.
    """
    checks = CHECKS + (TRAINING if method.trains else ())
    return checks + (COMPILED if compiled else ())


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


def _check_in_two_processes(method: str, options: Mapping[str, Any], report: Report) -> None:
    _LOGGER.info("two processes")
    cases = [Case(method, options, "linear", bits) for bits in report.widths]
    try:
        agrees_in_two_processes(cases)
    except BrokenPromiseError as error:
        name = agrees_in_two_processes.__name__
        report.findings.append(Finding(name, "linear", "", str(error)))
    else:
        report.passed += len(cases)


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
    if reason is None or (isinstance(reason, str) and reason.strip() and "\n" not in reason):
        return reason
    message = f"supports() returned {reason!r}; return one line that says why not, or None"
    report.findings.append(Finding("supports", "", bits, message))
    return message


def _run(each: Check, case: Case) -> Finding | None:
    """Run a check and return what it found, if anything."""
    name = each.__name__
    try:
        each(case)
    except (BrokenPromiseError, QbenchError) as error:
        return Finding(name, case.network, case.bits, str(error))
    except Exception as error:
        what = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        where, shown = _where(error, case.method)
        return Finding(name, case.network, case.bits, f"raised {what}{where}", shown)
    except SystemExit as error:
        return Finding(name, case.network, case.bits, f"called sys.exit({error.code})")
    return None


def _where(error: Exception, method: str) -> tuple[str, str]:
    """Return the line of the method's file that raised, and the traceback from there on."""
    file = sys.modules[registry.method_class(method).__module__].__file__
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != file:
        trace = trace.tb_next
    if trace is None:
        return "", ""
    lines = [f.lineno for f in traceback.extract_tb(trace) if f.filename == file]
    shown = "".join(traceback.format_exception(type(error), error, trace))
    return f" ({Path(str(file)).name}:{lines[-1]})", shown


def _would_do(case: Case, method: Method) -> bool:
    """Return whether a method could do bit-widths that it refuses: it trains and uses all bits."""
    forced = copy.copy(method)
    forced.supports = lambda bits, task: None  # type: ignore[method-assign]
    try:
        handle = case.attach(method=forced)
        attaches_as_told(handle, case.bits)
        train(handle)
        handle.harden().eval()
        through = through_quantizers(handle, images(2))
        weights = [
            (layer_weight(m).detach(), m.weight_bits, m.weight_levels.granularity)
            for m in handle.layers
            if m.weight_levels is not None
        ]
        counts = [(count_levels(w, granularity), width) for w, width, granularity in weights]
        counts += [
            (count_levels(through[m.name][1]), m.activation_bits)
            for m in handle.layers
            if m.name in through
        ]
        used = all(
            width.is_float or width.count // 2 < levels <= width.count for levels, width in counts
        )
        named = all(has_named_levels(*each) for each in weights)
        finite = all(v.isfinite().all() for v in state_of(handle.model).values())
    except Exception:
        return False
    return used and named and finite
