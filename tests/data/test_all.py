"""What all datasets have in common."""

from __future__ import annotations

import pytest

from qbench import registry
from qbench.errors import QbenchError


def test_where_data_are_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QBENCH_DATA", raising=False)
    for name in ("imagenet", "cifar10", "cifar100"):
        assert f"{name}: where is it? Set QBENCH_DATA" in registry.build_dataset(name).missing()


def test_an_unknown_option_of_data_names_the_nearest() -> None:
    with pytest.raises(QbenchError, match="no option 'rot' of data; did you mean 'root'"):
        registry.build_dataset("imagenet", {"rot": "/data"})
    with pytest.raises(QbenchError, match=r"data\.image_size: .*whole number, not 'large'"):
        registry.build_dataset("imagenet", {"image_size": "large"})
