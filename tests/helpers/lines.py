"""Files of results that somebody edits line by line."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lines = list[dict[str, Any]]


def lines_of(file: Path) -> Lines:
    """The lines of a file: what describes it, then the trials."""
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def edit(file: Path, change: Callable[[Lines], Any], honest: bool = True) -> None:
    """Change lines of a file. A dishonest editor writes new hashes of the lines, too."""
    lines = lines_of(file)
    change(lines)
    texts = [json.dumps(line, sort_keys=True, separators=(",", ":")) for line in lines]
    if not honest:
        listed = {}
        for line, text in zip(lines[1:], texts[1:], strict=True):
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            trial = line["trial"]
            listed[line["key"]] = {
                "name": f"{trial['method']} seed {trial['seed']}",
                "hash": digest,
            }
        texts[0] = json.dumps({**lines[0], "trials": listed})
    file.write_bytes(gzip.compress("".join(f"{text}\n" for text in texts).encode()))
