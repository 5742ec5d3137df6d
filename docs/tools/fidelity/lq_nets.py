"""Weights and activations of LQ-Nets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qbench.quant.options import build_method

from .libraries import Array, lq_nets_released
from .markdown import Rows, number, percent, table
from .probe import SCALE, built_quantizer, differing, layer_of, named, squared_error, tensor
from .sources import LQ_NETS

UPDATES = 10


def section(folder: Path) -> str:
    """Compare LQ-Nets before and after some updates of the basis."""
    rows: Rows = []
    for kind, x in (("weight", SCALE * tensor()), ("input", tensor().clamp(min=0))):
        for bits in (2, 3):
            released = [_released(x, bits, kind, updates) for updates in (0, UPDATES)]
            for options in ({}, {"debias": True}):
                ours = [_ours(x, bits, kind, updates, options) for updates in (0, UPDATES)]
                theirs = (
                    released
                    if not options
                    else [released[0], _released(x, bits, kind, UPDATES, debias=True)]
                )
                rows.append(
                    [
                        f"{kind}, {bits} bits",
                        named("lq_nets", options),
                        *(number(squared_error(values, x)) for values in (*ours, theirs[1])),
                        *(percent(differing(a, b)) for a, b in zip(ours, theirs, strict=True)),
                    ]
                )
    head = [
        "tensor", "version", "error, start", f"error, {UPDATES} updates",
        "error, released code", "differs, start", f"differs, {UPDATES} updates",
    ]  # fmt: skip
    return "\n\n".join(
        [
            "## LQ-Nets: weights and activations",
            "A value becomes the nearest of the levels vᵀe, with codes e of −1 and 1 for weights "
            "(one basis v for each filter) and of 0 and 1 for activations (arXiv:1807.10029, "
            "Eq. 4–5). Each training step moves v a tenth of the way to the basis of least error "
            f"for its codes. {LQ_NETS.link('The released code')} is compared at the start, and "
            f"after {UPDATES} such updates on the same tensor. Activations are max(x, 0) of the "
            "tensor with unit variance.",
            table(head, rows),
            "*differs* is the share of values that are apart by more than 10⁻⁶. The released code "
            "solves the system of activations without a ridge; here 1e-4 is on its diagonal too, "
            "because a code bit that no value uses would make it singular. TensorFlow's moving "
            "average corrects for its start unless told otherwise, which `debias: true` does. A "
            "basis with a negative element has its levels sorted in both; the code then maps what "
            "lies below the lowest threshold of activations to 0, and qbench to the nearest level.",
        ]
    )


def _ours(x: Tensor, bits: int, kind: str, updates: int, options: dict[str, Any]) -> Tensor:
    quantizer = built_quantizer(build_method("lq_nets", options), layer_of(bits, kind), x, kind)
    for _ in range(updates):
        quantizer.observe(x)  # type: ignore[operator]
    with torch.no_grad():
        values: Tensor = quantizer(x)
    return values


def _released(x: Tensor, bits: int, kind: str, updates: int, debias: bool = False) -> Tensor:
    weights = kind == "weight"
    rows: Array = x.double().flatten(1).numpy() if weights else x.double().flatten()[None].numpy()
    fan_out = x[:, 0].numel()  # the kernel's size times the output channels
    values = lq_nets_released(rows, bits, fan_out if weights else None, updates, debias)
    return torch.from_numpy(np.ascontiguousarray(values)).view(x.shape).float()
