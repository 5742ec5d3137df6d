"""Run all checks of a method, at every bit-width that it accepts, and report what is broken."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qbench import registry
from qbench.errors import QbenchError
from qbench.lab.check.checks import checks_of
from qbench.lab.check.networks import ALL_NETWORKS, Case
from qbench.lab.check.processes import agrees_in_two_processes
from qbench.lab.check.promise import BrokenPromiseError, Check
from qbench.lab.check.report import Finding, Report
from qbench.lab.check.structure import attaches
from qbench.lab.check.widths import accepted_widths, cases, could_do
from qbench.quant.options import build_method

_LOGGER = logging.getLogger(__name__)


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
    with _one_thread():
        for case in cases(method, options, networks, report.widths):
            _LOGGER.info("%s", case)
            placement = case.placement or built.placement
            if not case.bits.endswith("/32") and placement not in report.placements:
                report.placements.append(placement)
            first = case.network == networks[0]
            for each in checks_of(built, once=first, thorough=thorough and not case.granularity):
                if each.__name__ in broken:
                    continue
                finding = _run(each, case)
                if finding is None:
                    report.passed += 1
                else:
                    broken.add(each.__name__)
                    report.findings.append(finding)
                    if each is attaches:
                        return report  # what cannot be attached cannot be checked
            for kind, share in case.shares.items():
                report.shares[kind] = min(share, report.shares.get(kind, 1.0))
        if thorough and not report.findings:
            if built.trains:
                _check_in_two_processes(method, options, report)
            for bits in report.refused:
                if could_do(Case(method, options, "mixed", bits), built):
                    report.doable.append(bits)
    return report


@contextmanager
def _one_thread() -> Iterator[None]:
    """Context manager in which torch computes in one thread: more cost time on small networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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


def _run(each: Check, case: Case) -> Finding | None:
    """Run a check and return what it found, if anything."""
    name, shown = each.__name__, ""
    try:
        each(case)
    except (BrokenPromiseError, QbenchError) as error:
        message = f"{error}{_where(error, case.method)[0]}"
    except Exception as error:
        what = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        where, shown = _where(error, case.method)
        message = f"raised {what}{where}"
    except SystemExit as error:
        message = f"called sys.exit({error.code})"
    else:
        return None
    for option, value in (("granularity", case.granularity), ("placement", case.placement)):
        if value:
            message = f"with {option}: {value}: {message}"
    return Finding(name, case.network, case.bits, message, shown)


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
