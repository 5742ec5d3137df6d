"""Load full-precision states into models with quantizers."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


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
    own = module.state_dict(prefix=prefix)
    quantized = {name: value for name, value in own.items() if name not in _plain(module, prefix)}
    if not quantized or any(name in state for name in quantized):
        return  # no quantizer here, or the state of a model with quantizers
    weight = f"{prefix}weight"
    if weight in state and weight not in own:
        state[f"{prefix}parametrizations.weight.original"] = state.pop(weight)
    for name, value in quantized.items():
        state.setdefault(name, value)


def _plain(module: nn.Module, prefix: str) -> set[str]:
    """Return the names in the state of a layer that it has without quantizers."""
    return {prefix + name for name in (*module._parameters, *module._buffers)}
