"""Optional libraries that methods wrap: whether they can be used, and what to do if not."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version


@dataclass(frozen=True)
class Library:
    """A library that a method needs.

    Attributes:
        name: Name of the distribution, as pip installs it.
        minimum: Oldest version that works.
        module: Module that the method uses, which is imported to see whether it can be.

    Example:
        >>> Library("absent-library", "1.2", "absent_library.core").problem()
        "needs absent-library: pip install 'absent-library>=1.2'"
    """

    name: str
    minimum: str
    module: str

    @functools.cache  # noqa: B019 - there are few libraries, and importing takes long
    def problem(self) -> str | None:
        """Return why the library cannot be used, or None if it can."""
        advice = f"pip install '{self.name}>={self.minimum}'"
        try:
            installed = version(self.name)
        except PackageNotFoundError:
            installed = ""  # a checkout on Python's path has no version
        if not installed and importlib.util.find_spec(self.module.partition(".")[0]) is None:
            return f"needs {self.name}: {advice}"
        if installed and Version(installed) < Version(self.minimum):
            return f"needs {self.name} {self.minimum} or newer, not {installed}: {advice}"
        try:
            importlib.import_module(self.module)
        except Exception as error:  # of a missing shared library, or of another version of torch
            reason = (str(error).strip() or "no message").splitlines()[0]
            what = f"{self.name} {installed}".strip()
            return f"{what} is installed and cannot be imported: {type(error).__name__}: {reason}"
        return None
