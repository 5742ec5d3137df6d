"""Predicted classes of a network on a split, packed into the fewest bits."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field, model_validator


class Predictions(BaseModel):
    """Predicted classes, in the order of the data.

    10,000 predictions of 10 classes take 5 kB.

    Attributes:
        classes: Number of classes, at least 1.
        count: Number of predictions.
        packed: Base64 of the classes, each in the fewest bits that hold ``classes`` numbers, the
            most significant bit first, padded with zeros to whole bytes.
    """

    classes: int = Field(ge=1)
    count: int = Field(ge=0)
    packed: str

    @classmethod
    def of(cls, values: Sequence[int], classes: int) -> Predictions:
        """Pack predicted classes.

        Args:
            values: The classes, from 0 to ``classes`` − 1.
            classes: Number of classes.
        """
        width = _width(classes)
        shifts = np.arange(width)[::-1]
        bits = (np.asarray(values, dtype=np.int64).reshape(-1, 1) >> shifts) & 1
        packed = np.packbits(bits.astype(np.uint8)).tobytes()
        return cls(classes=classes, count=len(values), packed=base64.b64encode(packed).decode())

    @property
    def values(self) -> list[int]:
        """The predicted classes."""
        width = _width(self.classes)
        bits = np.unpackbits(np.frombuffer(base64.b64decode(self.packed), dtype=np.uint8))
        each = bits[: self.count * width].reshape(self.count, width).astype(np.int64)
        return [int(value) for value in each @ (1 << np.arange(width)[::-1])]

    @model_validator(mode="after")
    def _check(self) -> Predictions:
        try:
            size = len(base64.b64decode(self.packed, validate=True))
        except binascii.Error as error:
            raise ValueError(f"packed is not base64: {error}") from error
        if size != -(-self.count * _width(self.classes) // 8):
            raise ValueError(f"packed has {size} bytes, which are not {self.count} predictions")
        return self


def _width(classes: int) -> int:
    """Return the number of bits of a class."""
    return max(1, (classes - 1).bit_length())
