"""Every loop that is marked as one over vectors is compiled to one.

A scalar loop gives the same bits, many times slower, and nothing else would show it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import qbench.quant
from qbench.quant.kernels import build

SOURCES = {path.stem: path for path in sorted(Path(qbench.quant.__file__).parent.rglob("*.c"))}
DTYPES = ["float32", "float64"]
# Without distribution, as the report would call a loop a vector loop for one of its parts.
FLAGS = (
    "-ffp-contract=off",
    "-fno-tree-loop-distribution",
    "-fno-tree-loop-distribute-patterns",
)
MARK = re.compile(r"\s*(SIMD\b|SIMD_SUM\(|#pragma omp simd)")


def of_dtype(source: str, dtype: str) -> str:
    """Return a source that includes itself for one dtype only, with the same lines."""
    head, *after = source.split("#include __FILE__")
    includes = ["#include __FILE__" if each == dtype else "" for each in DTYPES]
    return head + "".join(include + text for include, text in zip(includes, after, strict=True))


def marked_loops(source: str) -> dict[int, str]:
    """Return the lines at which marked loops begin."""
    found, marked = {}, False
    for number, line in enumerate(source.splitlines(), 1):
        marked = marked or MARK.match(line) is not None
        if marked and "for (" in line:
            found[number], marked = line.strip(), False
    return found


def scalar_loops(source: str, headers: Path, folder: Path) -> dict[int, str]:
    """Return those of the marked loops that the compiler made no vector loops of."""
    file, report = folder / "loops.c", folder / "report.txt"
    file.write_text(source)
    flags = (*FLAGS, f"-I{headers}", f"-fopt-info-vec-optimized={report}")
    if build.load(file, *flags) is None:
        pytest.skip("has no compiler that reports what it makes of loops")
    made = re.findall(r"loops\.c:(\d+):\d+: optimized: +loop vectorized", report.read_text())
    vectors = set(map(int, made))  # of a loop's line, or of the first line within
    loops = marked_loops(source)
    return {line: loop for line, loop in loops.items() if vectors.isdisjoint((line, line + 1))}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name, path in SOURCES.items()
        for dtype in (DTYPES if "#include __FILE__" in path.read_text() else ["float32"])
        if (name, dtype) != ("curves", "float64")  # its curves are those of the C library
    ],
)
def test_every_marked_loop_is_a_vector_loop(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = SOURCES[name].read_text()
    if "#include __FILE__" in source:
        source = of_dtype(source, dtype)
    assert marked_loops(source)
    assert scalar_loops(source, SOURCES[name].parent, tmp_path) == {}


def test_a_loop_that_stays_scalar_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = """#include "blocks.h"
    void triple(double *x, int count) {
        SIMD for (int i = 0; i < count; i++) x[i] = 3 * x[i];
    }
    void factorial(double *x, int count) {
        SIMD for (int i = 0; i < count; i++) x[i] = tgamma(x[i]);
    }
    """
    assert list(scalar_loops(source, Path(build.__file__).parent, tmp_path)) == [6]
