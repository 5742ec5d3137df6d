"""Classes that are made at run time for modules whose class is exchanged."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn


class Exchanged(nn.Module):
    """Base class of mixins that `exchanged_class` puts before the original class of a module."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copy and pickle by the two classes, since the one made of them has no name to import."""
        reduced: Any = super().__reduce_ex__(protocol)
        return (_new, type(self).__bases__, *reduced[2:])


@functools.cache
def exchanged_class(mixin: Any, original: Any) -> Any:
    """Return the class with a mixin before the original one, and the name of the original.

    Args:
        mixin: Subclass of `Exchanged`, which is the first base class.
        original: Class of a module, the second one.
    """
    return type(original.__name__, (mixin, original), {})


def _new(mixin: Any, original: Any) -> nn.Module:
    exchanged = exchanged_class(mixin, original)
    made: nn.Module = exchanged.__new__(exchanged)
    return made
