from __future__ import annotations

import pytest

from qbench.data.digits import Digits
from qbench.report.presentation import shown_metrics


class Few(Digits):
    shown = ("top1", "top5")


@pytest.mark.parametrize(
    ("classes", "shown"), [(2, ("top1",)), (6, ("top1",)), (10, ("top1", "top5"))]
)
def test_top_5_is_shown_where_it_means_something(classes: int, shown: tuple[str, ...]) -> None:
    dataset = Few()
    dataset.num_classes = classes
    assert shown_metrics(dataset) == shown
