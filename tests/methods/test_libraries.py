"""Methods that wrap a library: what they say where it is missing and what they refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from torch import nn

from qbench.errors import QbenchError
from qbench.libraries import Library
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from tests.helpers.libraries import needs_brevitas, needs_torchao

MODULES = {
    "torchao": ("torchao", "torchao.quantization.qat"),
    "parq": ("torchao", "torchao.prototype.parq"),
    "brevitas": ("brevitas", "brevitas.quant.scaled_int"),
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str | None], None]:
    """Have a library be installed in a version, or not at all, and not be importable."""

    def install(name: str, version: str | None) -> None:
        def version_of(library: str) -> str:
            if version is None:
                raise PackageNotFoundError(library)
            return version

        library, module = MODULES[name]
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setattr("qbench.libraries.version", version_of)

    Library.problem.cache_clear()
    monkeypatch.setattr(Library, "problem", Library.problem.__wrapped__)
    return install


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("version", "problem"),
    [
        (None, r"needs {0}: pip install '{0}>=0\.1\d'"),
        ("0.9.0", r"needs {0} 0\.1\d or newer, not 0\.9\.0: pip install '{0}>=0\.1\d'"),
        ("0.19.1", r"{0} 0\.19\.1 is installed and cannot be imported: ModuleNotFoundError: .*"),
    ],
)
def test_a_method_says_what_is_wrong_with_its_library(
    name: str,
    version: str | None,
    problem: str,
    installed: Callable[[str, str | None], None],
) -> None:
    installed(name, version)
    expected = problem.format(MODULES[name][0])
    method = build_method(name, {})
    for bits in ("2/32", "8/8", "3(±4)/32"):
        found = method.supports(BitWidths.parse(bits), "classification")
        assert re.fullmatch(expected, found or ""), found
    with pytest.raises(QbenchError, match=f"{name} cannot do 2/32: {expected}"):
        attach(nn.Sequential(nn.Linear(4, 4)), name, bits="2/32", layers="all")


def test_a_library_that_is_there_has_no_problem() -> None:
    assert Library("pytest", "8.2", "pytest").problem() is None


def test_a_library_without_a_version_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkout_of_it.py").write_text("raise OSError('libcuda.so is missing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Library("checkout-of-it", "1", "checkout_of_it").problem() == (
        "checkout-of-it is installed and cannot be imported: OSError: libcuda.so is missing"
    )


def test_methods_are_listed_without_importing_their_libraries() -> None:
    code = (
        "import sys; from qbench import registry\n"
        f"for name in {list(MODULES)}: registry.method_class(name)\n"
        "assert not {'torchao', 'brevitas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "bits", "reason"),
    [
        pytest.param("torchao", "3(±4)/32", "levels", marks=needs_torchao),
        pytest.param("torchao", "1/2", "have 2 to 8 bits", marks=needs_torchao),
        pytest.param("parq", "2/2", "weights only", marks=needs_torchao),
        pytest.param("parq", "3(±2)/32", "learned levels", marks=needs_torchao),
        pytest.param("brevitas", "3(±2)/32", "symmetric integers", marks=needs_brevitas),
    ],
)
def test_what_a_library_cannot_do_is_refused(name: str, bits: str, reason: str) -> None:
    found = build_method(name, {}).supports(BitWidths.parse(bits), "classification")
    assert reason in (found or "")
