from __future__ import annotations

from qbench.spec.words import counted


def test_one_is_singular() -> None:
    assert counted(1, "trial") == "1 trial"
    assert counted(0, "trial") == "0 trials"
    assert counted(136340, "trial") == "136,340 trials"
