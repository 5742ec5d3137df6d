"""The end of a process whose threads do not survive the shutdown of its interpreter."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def end(code: int = 0) -> NoReturn:
    """End this process without shutting its interpreter down.

    Output is flushed, but functions registered with `atexit` are not called.

    Args:
        code: The exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
