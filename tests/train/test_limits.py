from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qbench.train.limits import over_time, resident_bytes

GUARDED = """
import sys, time
from pathlib import Path
from qbench.train.limits import Guard, Limits

def give_up(reason, where):
    Path(sys.argv[1]).write_text(f"{reason}\\n{where}")

def spend():
    %s

guard = Guard(Limits(%s), give_up)
spend()
guard.close()
print("ended by itself")
"""


@pytest.mark.parametrize(
    ("spend", "limits", "reason"),
    [
        ("while True: pass", "seconds=1", "it took longer than its time limit of 1 s"),
        ("time.sleep(1000)", "seconds=1", "it took longer than its time limit of 1 s"),
        ("x = bytearray(2**28)\n    time.sleep(60)", "memory=0.1", "GiB of memory, and may take 0"),
    ],
)
def test_what_exceeds_a_limit_is_ended_and_says_where_it_was(
    tmp_path: Path, spend: str, limits: str, reason: str
) -> None:
    told = tmp_path / "told"
    command = [sys.executable, "-c", GUARDED % (spend, limits), str(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "ended by itself" not in done.stdout
    assert reason in told.read_text()
    assert "in spend" in told.read_text()


def test_what_keeps_within_its_limits_ends_by_itself(tmp_path: Path) -> None:
    code = GUARDED % ("time.sleep(1.5)", "seconds=60, memory=4")
    command = [sys.executable, "-c", code, str(tmp_path / "told")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "ended by itself\n")


def test_memory_is_counted_in_bytes() -> None:
    before = resident_bytes()
    taken = bytearray(b"x" * 2**27)
    assert resident_bytes() - before > 2**26
    assert len(taken) == 2**27


def test_a_limit_is_shown_without_needless_digits() -> None:
    assert over_time(7200.0) == "it took longer than its time limit of 7200 s"
