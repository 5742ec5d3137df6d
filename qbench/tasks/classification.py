"""Image classification: cross-entropy, top-1 and top-5 accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_accuracy

Batch = tuple[Tensor, Tensor]


def inputs(batch: Batch) -> Tensor:
    """The images of a batch, (N, C, H, W)."""
    return batch[0]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of a batch of images, (N, C, H, W), and labels, (N,)."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader[Batch]) -> dict[str, float]:
    """Accuracy of a model, in the mode that it is in.

    Returns:
        ``top1`` and ``top5`` in percent (top5 only where there are more than five classes), and
        ``test_loss``, the mean cross-entropy.
    """
    device = next(model.parameters()).device
    scores, labels = [], []
    for images, target in loader:
        scores.append(model(images.to(device)).float().cpu())
        labels.append(target)
    logits, target = torch.cat(scores), torch.cat(labels)
    classes = logits.shape[1]
    metrics = {
        f"top{k}": 100
        * float(multiclass_accuracy(logits, target, classes, top_k=k, average="micro"))
        for k in (1, 5)
        if k == 1 or classes > k
    }
    metrics["test_loss"] = float(F.cross_entropy(logits, target))
    return metrics
