"""The checks of methods as pytest tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbench import registry
from qbench.lab.check.checks import checks_of
from qbench.lab.check.networks import QUICK_NETWORKS, Case
from qbench.lab.check.promise import BrokenPromiseError, Check
from qbench.lab.check.widths import accepted_widths, cases
from qbench.quant.options import build_method

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class MethodCheck:
    """One check of one method. Call it to run the check.

    Attributes:
        method: Name of the method.
        check: The check; None checks the answers of `Method.supports`.
        options: Options of the method that differ from the defaults.
        networks: Names of the networks that it is checked on.
    """

    method: str
    check: Check | None
    options: Mapping[str, Any] = field(default_factory=dict)
    networks: Sequence[str] = QUICK_NETWORKS

    @property
    def name(self) -> str:
        """Name of the check, as `qbench check` prints it."""
        return "supports" if self.check is None else self.check.__name__

    def __call__(self) -> None:
        """Run the check at bit-widths that cover all that the method accepts.

        Raises:
            BrokenPromiseError: The method breaks the promise. The message begins with the network
                and the bit-widths.
        """
        report = accepted_widths(self.method, self.options)
        if self.check is None:
            if report.findings:
                raise BrokenPromiseError(report.findings[0].message)
            return
        built = build_method(self.method, self.options)
        for case in self._cases(report.widths):
            if self.check not in checks_of(built, once=case.network == self.networks[0]):
                continue
            try:
                self.check(case)
            except BrokenPromiseError as error:
                raise BrokenPromiseError(f"{case}: {error}") from error

    def _cases(self, widths: Sequence[str]) -> Sequence[Case]:
        """Return the cases of the method, those of the check before if they are the same."""
        key = (registry.method_class(self.method), self.options, self.networks, widths)
        if not _LAST or _LAST[0][0] != key:
            made = list(cases(self.method, self.options, self.networks, widths))
            _LAST[:] = [(key, made)]
        return _LAST[0][1]

    def __str__(self) -> str:
        return f"{self.method}-{self.name}"


_LAST: list[tuple[tuple[Any, ...], list[Case]]] = []  # cases keep what they have attached


def parametrize_with_checks(
    methods: Iterable[str],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    networks: Sequence[str] = QUICK_NETWORKS,
    expected_failed_checks: Callable[[str], Mapping[str, str]] = lambda method: {},
) -> pytest.MarkDecorator:
    """Parametrize a pytest test with each check of each method.

    Each check is a test of its own, with an id such as ``lsq-is_deterministic``. Methods from a
    file are loaded first, with `qbench.plugins.load_plugin`.

    Args:
        methods: Names of methods.
        options: Options by name of the method, for those that are not checked with their defaults.
        networks: Names of the networks that methods are checked on.
        expected_failed_checks: Function from the name of a method to the checks that are known to
            fail, as a mapping from the name of a check to the reason. These are marked ``xfail``.

    Returns:
        A ``pytest.mark.parametrize`` decorator of the argument ``check``, a `MethodCheck`.

    Raises:
        QbenchError: No method has one of the names, or an option is wrong.

    Example:
        >>> @parametrize_with_checks(["dorefa"])
        ... def test_the_contract(check):
        ...     check()
    """
    import pytest  # a dependency of those who write tests, not of those who train

    def parameters() -> Iterator[Any]:
        for method in methods:
            chosen = (options or {}).get(method, {})
            failing = expected_failed_checks(method)
            built = build_method(method, chosen)
            for each in (None, *checks_of(built, once=True)):
                check = MethodCheck(method, each, chosen, networks)
                known = check.name in failing
                marks = [pytest.mark.xfail(reason=failing[check.name])] if known else []
                yield pytest.param(check, id=str(check), marks=marks)

    return pytest.mark.parametrize("check", list(parameters()))
