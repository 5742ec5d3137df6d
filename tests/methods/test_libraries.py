"""Methods that wrap a library: what they say where it is missing and what they refuse."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch import nn

from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from tests.helpers.libraries import needs_brevitas, needs_torchao

MODULES = {
    "torchao": ("torchao", "torchao.quantization.qat"),
    "parq": ("torchao", "torchao.prototype.parq"),
    "brevitas": ("brevitas", "brevitas.quant.scaled_int"),
}


@pytest.mark.parametrize("name", MODULES)
def test_without_its_library_a_method_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, module = MODULES[name]
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, module, None)
    advice = f"needs {library}: pip install 'qbench-quant[libraries]'"
    method = build_method(name, {})
    for bits in ("2/32", "8/8", "3(±4)/32"):
        assert method.supports(BitWidths.parse(bits), "classification") == advice
    with pytest.raises(QbenchError, match=f"{name} cannot do 2/32: needs {library}"):
        attach(nn.Sequential(nn.Linear(4, 4)), name, bits="2/32", layers="all")


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
        pytest.param("torchao", "1/2", "round to 0", marks=needs_torchao),
        pytest.param("parq", "2/2", "weights only", marks=needs_torchao),
        pytest.param("parq", "3(±2)/32", "would fix them", marks=needs_torchao),
        pytest.param("brevitas", "3(±2)/32", "evenly spaced", marks=needs_brevitas),
    ],
)
def test_what_a_library_cannot_do_is_refused(name: str, bits: str, reason: str) -> None:
    found = build_method(name, {}).supports(BitWidths.parse(bits), "classification")
    assert reason in (found or "")
