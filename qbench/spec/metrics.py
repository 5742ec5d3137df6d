"""Metrics of trials: their names in files and in text. All but the loss are in percent."""

from __future__ import annotations

# Metrics of each task, in the order of the columns of `trials.csv`.
MEASURED = {
    "classification": ("top1", "top5", "test_loss"),
    "detection": ("map50_voc07", "map50", "map"),
}
TITLES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "map50_voc07": "mAP at IoU 0.5 (VOC2007's 11 points)",
    "map50": "mAP at IoU 0.5",
    "map": "mAP at IoU 0.5 to 0.95",
}
SHORT = {
    "top1": "top-1",
    "top5": "top-5",
    "map50_voc07": "mAP at IoU 0.5",
    "map50": "mAP at IoU 0.5",
    "map": "mAP",
}


def shown_by(task: str) -> list[str]:
    """Return the metrics of a task that a cell of a table can show.

    Args:
        task: ``classification`` or ``detection``.
    """
    return [name for name in MEASURED[task] if name in TITLES]
