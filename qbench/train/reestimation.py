"""Running statistics of batch normalization, estimated again after training.

Weights that change their level late in training leave running statistics that are not those of the
final network (Nagel et al., ICML 2022, arXiv:2203.11086, Section 2.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of a model by their mean over batches.

    Args:
        model: Model in evaluation mode. All but its batch normalization stays in that mode.
        batches: Inputs of the model; at least one.
    """
    norms = norms_of(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in batches:
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """Return the modules of a model that have running statistics.

    Args:
        model: Any module.
    """
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [norm for norm in norms if norm.track_running_stats]


def repeated(loader: Iterable[Any], count: int) -> Iterator[Any]:
    """Yield a number of batches, over as many passes as it takes.

    Args:
        loader: Batches of one pass; at least one.
        count: Number of batches.
    """
    while count > 0:
        for batch in loader:
            if count == 0:
                return
            count -= 1
            yield batch
