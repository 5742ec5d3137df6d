"""Distillation: the teacher of a training, and how far a network is from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Distillation:
    """A teacher and its share of the loss (Hinton et al., arXiv:1503.02531).

    Attributes:
        teacher: Classifier in evaluation mode. Maps (N, C, H, W) to logits, (N, classes).
        weight: Weight w of the divergence, in (0, 1]. The cross-entropy has the weight 1 − w.
        temperature: Temperature T that both distributions are softened by, above 0.
    """

    teacher: nn.Module
    weight: float
    temperature: float

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """Return the softened log-probabilities of the teacher, (N, classes), float32 or wider.

        Args:
            images: Images, (N, C, H, W).
        """
        return self._softened(self.teacher(images))

    def loss(self, cross_entropy: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (1 − w) · cross-entropy + w · T² · KL(teacher ‖ network).

        Args:
            cross_entropy: Mean cross-entropy of a batch in nats, a scalar.
            logits: Logits of the network, (N, classes).
            targets: What `targets` returns for the images.
        """
        divergence = F.kl_div(
            self._softened(logits), targets, reduction="batchmean", log_target=True
        )
        return (1 - self.weight) * cross_entropy + self.weight * self.temperature**2 * divergence

    def _softened(self, logits: Tensor) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.log_softmax(wide / self.temperature, dim=1)
