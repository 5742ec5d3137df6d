"""The contract check: the promises that every method keeps, built in or a plugin.

`qbench check` runs `check`. `parametrize_with_checks` makes a pytest test of each check::

    from qbench.lab.check import MethodCheck, parametrize_with_checks

    @parametrize_with_checks(["my_method"])
    def test_my_method_keeps_the_contract(check: MethodCheck) -> None:
        check()
"""

from qbench.lab.check.networks import ALL_NETWORKS, QUICK_NETWORKS
from qbench.lab.check.parametrize import MethodCheck, parametrize_with_checks
from qbench.lab.check.promise import BrokenPromiseError
from qbench.lab.check.report import Finding, Report
from qbench.lab.check.run import check
from qbench.lab.check.widths import WIDTHS

__all__ = [
    "ALL_NETWORKS",
    "QUICK_NETWORKS",
    "WIDTHS",
    "BrokenPromiseError",
    "Finding",
    "MethodCheck",
    "Report",
    "check",
    "parametrize_with_checks",
]
