from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from qbench.spec.predictions import Predictions


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 16, 17, 1000])
@pytest.mark.parametrize("count", [0, 1, 7, 360])
def test_what_is_packed_is_unpacked(classes: int, count: int) -> None:
    values = [random.Random(i).randrange(classes) for i in range(count)]
    found = Predictions.of(values, classes)
    assert found.values == values
    assert Predictions.model_validate_json(found.model_dump_json()) == found


def test_ten_classes_take_four_bits_each() -> None:
    assert Predictions.of([1, 2, 9], 10).packed == "EpA="  # 0x12 0x90
    assert len(Predictions.of([3] * 10_000, 10).packed) < 6_700


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"packed": "EpA"}, "packed is not base64"),
        ({"count": 5}, "packed has 2 bytes, which are not 5 predictions"),
        ({"classes": 300}, "packed has 2 bytes, which are not 3 predictions"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Predictions.model_validate({"classes": 10, "count": 3, "packed": "EpA=", **change})
