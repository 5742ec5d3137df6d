"""Load full-precision states into models with quantizers."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from qbench.quant.state import attached_modules


def accept_float_states(module: nn.Module) -> RemovableHandle:
    """Let a layer with quantizers load the state of the same layer without them.

    Such a state has ``weight`` where the quantized layer has a parametrization. The weight becomes
    the latent weight. The quantizers keep their state.

    Args:
        module: A layer whose weight or input is quantized.

    Returns:
        A handle that removes the hook.
    """
    return module.register_load_state_dict_pre_hook(_rename_weight)


def _rename_weight(module: nn.Module, state: dict[str, Any], prefix: str, *others: object) -> None:
    attached = attached_modules(module)
    own = {
        f"{prefix}{name}.{key}": value
        for name, each in attached.items()
        for key, value in each.state_dict().items()
    }
    weight, latent = f"{prefix}weight", f"{prefix}parametrizations.weight.original"
    replaced = "parametrizations.weight.0" in attached  # else the layer has one of its own below
    if own.keys() & state.keys() or (replaced and latent in state):
        return  # the state of a model with quantizers
    if replaced and weight in state:
        state[latent] = state.pop(weight)
    state.update(own)
