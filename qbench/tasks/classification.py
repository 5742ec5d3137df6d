"""Image classification: cross-entropy, top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench import distributed
from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.spec.result import ImageDetections
from qbench.tasks.distillation import Distillation

AUXILIARY_WEIGHT = 0.3
"""Weight of the loss of an auxiliary classifier (GoogLeNet, arXiv:1409.4842, Section 5)."""

LabelledBatch = tuple[Tensor, Tensor]


def inputs(batch: LabelledBatch) -> Tensor:
    """Return the images of a batch, (N, C, H, W)."""
    return batch[0]


def random_batch(
    size: int, image_shape: tuple[int, int, int], classes: int, device: torch.device
) -> LabelledBatch:
    """Create normal images, float32, (N, C, H, W), and uniform labels, int64, (N,)."""
    images = torch.randn(size, *image_shape, device=device)
    return images, torch.randint(classes, (size,), device=device)


def scores(output: Any) -> Tensor:
    """Return the logits in the output of a classifier.

    Args:
        output: Logits, (N, classes), or a tuple of tensors whose first item they are. Networks with
            auxiliary classifiers return such a tuple in training.

    Raises:
        QbenchError: The output is neither.
    """
    return _all_scores(output)[0]


def _all_scores(output: Any) -> Sequence[Tensor]:
    """Return the logits in the output of a classifier, those of the network's end first."""
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, tuple) and output and all(isinstance(item, Tensor) for item in output):
        return output
    raise QbenchError(
        f"a classifier returns logits, or a tuple of them, not {type(output).__name__}"
    )


def loss(
    model: nn.Module,
    batch: LabelledBatch,
    label_smoothing: float = 0.0,
    hits: list[Tensor] | None = None,
    distillation: Distillation | None = None,
) -> Tensor:
    """Compute the mean cross-entropy of a batch, or its mixture with the distance to a teacher.

    The logits of auxiliary classifiers are trained too: their losses are added with the weight
    `AUXILIARY_WEIGHT`.

    Args:
        model: Classifier. Maps (N, C, H, W) to logits, (N, classes), or to a tuple of them, those
            of auxiliary classifiers last.
        batch: Images, (N, C, H, W), and labels, int64, (N,), from 0.
        label_smoothing: Share of the target that all classes have equally, in [0, 1).
        hits: List that the number of images whose label has the largest logit is appended to, a
            scalar, int64.
        distillation: Teacher, and its share of the loss. Default: there is none.

    Returns:
        Loss in nats, a scalar of float32, or of float64 if the logits are.

    Raises:
        QbenchError: The model returns no logits.
    """
    images, labels = batch
    every = _all_scores(model(images))
    if hits is not None:
        hits.append((every[0].detach().argmax(dim=1) == labels).sum())
    # Autocast gives bfloat16 logits, in which a small loss underflows to 0.
    losses = [
        F.cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            labels,
            label_smoothing=label_smoothing,
        )
        for logits in every
    ]
    if distillation is not None:
        targets = distillation.targets(images)
        losses = [
            distillation.loss(each, logits, targets)
            for each, logits in zip(losses, every, strict=True)
        ]
    total, *auxiliary = losses
    for each in auxiliary:
        total = total + AUXILIARY_WEIGHT * each
    return total


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[LabelledBatch], predicted: list[int] | None = None
) -> dict[str, float]:
    """Measure the accuracy of a model over the batches of all processes.

    Args:
        model: Classifier. Its mode is kept.
        batches: Batches as in `loss`, on the model's device.
        predicted: List that the predicted classes of all processes are appended to, in the order of
            the data.

    Returns:
        ``top1`` and ``top5`` in percent, and ``test_loss``, the mean cross-entropy in nats.
        ``top5`` only if there are more than five classes. Empty if there is no batch.
    """
    hits: dict[str, Tensor] = {}
    items, loss = 0, torch.zeros(())
    mine: list[int] = []
    for images, target in batches:
        logits = scores(model(images)).float()
        best = logits.argmax(dim=1)
        if predicted is not None:
            mine += best.tolist()
        found = {"top1": best == target}
        if logits.shape[1] > 5:
            found["top5"] = logits.topk(5, dim=1).indices == target[:, None]
        hits = {name: hits.get(name, 0) + each.sum() for name, each in found.items()}
        items += len(target)
        loss = loss.to(logits.device) + F.cross_entropy(logits, target) * len(target)
    if predicted is not None:
        predicted += distributed.interleave(mine)
    if not hits:
        return {}
    count = distributed.total(torch.tensor(items, device=loss.device))
    # The shares are of single precision, as those that are recorded.
    values = {name: 100 * float(distributed.total(each) / count) for name, each in hits.items()}
    return {**values, "test_loss": float(distributed.total(loss) / count)}


def examples(model: nn.Module, dataset: Dataset) -> list[ImageDetections]:
    """Return nothing: no figure shows labels."""
    return []
