"""Check that a model can be quantized as it is, before anything is attached to it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from qbench.errors import QbenchError
from qbench.method import Layer
from qbench.quant.layers import QUANTIZABLE

ATTACHED = "_attached_by_qbench"
"""Attribute of the modules that are attached to a model."""

PLACED = "activation_quantizers"
"""Submodule that holds the quantizers of places between layers. It is part of stored states."""

_RENAMED = {
    "weight_g": "torch.nn.utils.weight_norm; use torch.nn.utils.parametrizations.weight_norm",
    "weight_orig": (
        "torch.nn.utils.spectral_norm or torch.nn.utils.prune; use "
        "torch.nn.utils.parametrizations.spectral_norm, or make the pruning permanent with "
        "torch.nn.utils.prune.remove"
    ),
}


def check_attachable(model: nn.Module) -> None:
    """Check that a model has initialized, finite and plain weights, and no quantizers yet.

    Args:
        model: Any module.

    Raises:
        QbenchError: It has quantizers, uninitialized or non-finite values, or weights that hooks of
            torch's old style compute. The message names the layer and says what to do.
    """
    for name, module in model.named_modules():
        _check_is_unquantized(name, module)
        if isinstance(module, QUANTIZABLE):
            _check_weight_is_plain(name, module)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise QbenchError(
                f"'{name}' is not initialized: run the model once on a batch before attaching, so "
                "that its lazy layers get their shapes"
            )
    check_finite(model)


def check_finite(model: nn.Module) -> None:
    """Check that all parameters and buffers of a model are finite.

    Args:
        model: Any module without lazy layers.

    Raises:
        QbenchError: A value is not finite. The message names the parameter or the buffer.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and not value.is_meta and not value.isfinite().all():
            raise QbenchError(
                f"'{name}' has values that are not finite: check the checkpoint, or how the model "
                "was trained"
            )


def check_selection(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Check that something is left to quantize.

    Args:
        model: Any module.
        layers: The layers that a policy selects.

    Raises:
        QbenchError: No layer is selected. The message says which layers there are.
    """
    if layers:
        return
    names = [name for name, module in model.named_modules() if isinstance(module, QUANTIZABLE)]
    if not names:
        raise QbenchError(
            "nothing to quantize: the model has no convolution and no linear layer of its own"
        )
    found = ", ".join(f"'{name}'" for name in names[:5]) + (" …" if len(names) > 5 else "")
    raise QbenchError(
        f"nothing to quantize: the layer policy leaves all of {found} at full precision; pass "
        "layers='all', or a list of names"
    )


def attached_modules(module: nn.Module) -> dict[str, nn.Module]:
    """Return what is attached to a module: its quantizers, by their names in the module.

    Args:
        module: Any module.
    """
    chain = getattr(module, "parametrizations", {})
    found = dict(enumerate(chain["weight"])) if "weight" in chain else {}
    named = {f"parametrizations.weight.{place}": each for place, each in found.items()}
    named |= {name: getattr(module, name, None) for name in ("input_quantizer", "output_module")}
    named |= {f"{PLACED}.{key}": each for key, each in getattr(module, PLACED, {}).items()}
    return {name: each for name, each in named.items() if hasattr(each, ATTACHED)}


def _check_is_unquantized(name: str, module: nn.Module) -> None:
    if attached_modules(module):
        raise QbenchError(
            f"'{name}' has quantizers already: call handle.remove() of the handle that attached "
            "them, or attach to a model without quantizers"
        )


def _check_weight_is_plain(name: str, module: nn.Module) -> None:
    if "weight" in module._parameters or parametrize.is_parametrized(module, "weight"):
        return
    for parameter, advice in _RENAMED.items():
        if parameter in module._parameters:
            raise QbenchError(f"the weight of '{name}' is computed by {advice}")
    raise QbenchError(f"the weight of '{name}' is no parameter; only parameters can be quantized")
