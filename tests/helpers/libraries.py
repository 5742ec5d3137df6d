"""Marks of tests that need an optional library."""

from __future__ import annotations

import importlib.util

import pytest


def needs(library: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test where a library is not installed."""
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library} is not installed")


needs_torchao, needs_brevitas, needs_timm = map(needs, ("torchao", "brevitas", "timm"))
