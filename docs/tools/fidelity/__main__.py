"""Command line of the tool."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .page import write

DEFAULT_OUTPUT = Path(__file__).parents[2]  # docs/


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write docs/fidelity.md and its figures.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="a folder")
    write(parser.parse_args(arguments).output)


if __name__ == "__main__":
    main()
