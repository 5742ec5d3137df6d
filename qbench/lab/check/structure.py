"""The promises about what is attached, shared, changed and removed."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from qbench.lab.check.levels import has_the_levels_it_promises_when_hard
from qbench.lab.check.networks import EPOCHS_OF_CHECK, STEPS_OF_CHECK, Case, images, seed_cpu
from qbench.lab.check.promise import BrokenPromiseError
from qbench.lab.check.steps import (
    difference,
    equal,
    optimizer_of,
    state_of,
    take_steps,
    through_quantizers,
    train,
    trained,
)
from qbench.method import Layer, Place
from qbench.quant.handle import Handle
from qbench.quant.layers import layer_weight
from qbench.quant.state import attached_modules
from qbench.spec.bits import BitWidths


def attaches(case: Case) -> None:
    """Check that what the bit-widths name is quantized, and nothing else."""
    attaches_as_told(case.attached(), case.bits)


def attaches_as_told(handle: Handle, widths: str) -> None:
    """Check that every layer has the quantizers that the bit-widths ask for.

    Raises:
        BrokenPromiseError: A quantizer is missing, or one is too many.
    """
    bits = BitWidths.parse(widths)
    quantized = {name for p in handle.places if isinstance(p, Place) for name in p.consumers}
    for layer in handle.layers:
        pairs = (
            ("weight", layer.weight_quantizer, bits.weights),
            ("activation", layer.activation_quantizer, bits.activations),
        )
        for kind, quantizer, width in pairs:
            if kind == "activation" and layer.name in quantized:
                continue
            if quantizer is None and not width.is_float:
                raise BrokenPromiseError(
                    f"{kind}_quantizer() returned None for '{layer.name}' at {width} bits: "
                    f"return a module, or refuse {widths} in supports()"
                )
            if quantizer is not None and width.is_float:
                raise BrokenPromiseError(
                    f"the {kind} of '{layer.name}' is quantized, and should stay float"
                )


def keeps_shape_and_dtype(case: Case) -> None:
    """Check that quantizers keep shape, dtype and device, in training and in evaluation."""
    for dtype in (torch.float32, torch.float64):
        handle = case.attach(dtype=dtype)
        for training in (True, False):
            handle.model.train(training)
            pairs: dict[str, tuple[Tensor, Tensor]] = {
                f"{m.name}.weight": (m.latent_weight, layer_weight(m)) for m in handle.layers
            }
            through = through_quantizers(handle, images(2).to(dtype))
            pairs |= {f"{name}'s input": pair for name, pair in through.items()}
            for name, (before, after) in pairs.items():
                found = (after.shape, after.dtype, after.device)
                if found != (before.shape, before.dtype, before.device):
                    raise BrokenPromiseError(
                        f"{name} goes in as {tuple(before.shape)} {before.dtype} and comes out as "
                        f"{tuple(after.shape)} {after.dtype}"
                    )


def shares_a_quantizer(case: Case) -> None:
    """Check that layers that share a weight share its quantizer, and stay tied to the end."""
    case = case.on("tied")
    handle, fresh = case.attach(), case.attach(seed=1)
    first, second = _tied(handle)
    if first.weight_quantizer is not second.weight_quantizer:
        raise BrokenPromiseError("layers that share a weight have different quantizers")
    train(handle)
    _check_tied(handle, "training")
    fresh.model.load_state_dict(handle.model.state_dict())
    _check_tied(fresh, "loading a state_dict")
    for each in (handle, fresh):
        each.on_epoch_start(2, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
        train(each, first=2)
    if name := difference(state_of(handle.model), state_of(fresh.model)):
        raise BrokenPromiseError(
            f"with a shared weight, training that goes on from a checkpoint differs in {name}"
        )
    fresh.remove()
    _check_tied(fresh, "removing the quantizers")
    has_the_levels_it_promises_when_hard(handle)
    _check_tied(handle, "hardening")


def _tied(handle: Handle) -> tuple[Layer, Layer]:
    """Return the two layers that share a weight; a method may have renamed them."""
    for pair in itertools.combinations(handle.layers, 2):
        if pair[0].latent_weight is pair[1].latent_weight:
            return pair
    raise BrokenPromiseError(
        "two layers that shared a weight have weights of their own once quantizers are attached: "
        "prepare() must keep a shared Parameter shared"
    )


def _check_tied(handle: Handle, what: str) -> None:
    weights = []
    for layer in _tied(handle):
        seed_cpu(0)  # what is drawn is drawn again
        weights.append(layer_weight(layer))
    if not equal(*weights):
        raise BrokenPromiseError(f"after {what}, layers with one weight compute with two")


def changes_only_its_own(case: Case) -> None:
    """Check that hooks change quantizers and quantized weights, and nothing else.

    The learning rate is zero, so what changes, the hooks have changed.
    """
    handle = case.attached()
    quantized = {layer.latent_weight for layer in handle.layers if layer.weight_quantizer}
    own = {p for quantizer in handle.quantizers for p in quantizer.parameters()}
    others = {
        name: parameter
        for name, parameter in handle.model.named_parameters()
        if parameter not in quantized | own and ".output_module." not in f".{name}"
    }
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in others.items()}
    for epoch in range(1, EPOCHS_OF_CHECK + 1):
        handle.on_epoch_start(epoch, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
        optimizer = optimizer_of(handle, lr=0.0)
        take_steps(handle, optimizer, range(2))
        for name, (value, learns) in before.items():
            if not equal(others[name], value) or others[name].requires_grad != learns:
                raise BrokenPromiseError(
                    f"a hook changes {name}, which the method does not quantize: only quantizers "
                    "and the latent weights of their layers are the method's to change"
                )


def comes_off(case: Case) -> None:
    """Check that removing the quantizers leaves the latent weights and a model that runs."""
    handle = trained(case)
    latent = {layer.name: layer.latent_weight.detach().clone() for layer in handle.layers}
    model = handle.remove()
    modules = dict(model.named_modules())
    for name, weight in latent.items():
        if not equal(modules[name].get_parameter("weight"), weight):
            raise BrokenPromiseError(f"removing the quantizers changes {name}.weight")
    model.train()(images()).sum().backward()
    if handle.quantizers or any(map(attached_modules, model.modules())):
        raise BrokenPromiseError("removing the quantizers leaves some behind")


def gives_its_parameters_once(case: Case) -> None:
    """Check that every learned parameter is in exactly one of the optimiser's groups."""
    handle = case.attached()
    groups = handle.parameter_groups(lr=0.1, weight_decay=1e-4)
    given = [parameter for group in groups for parameter in group["params"]]
    wanted = {id(p): n for n, p in handle.model.named_parameters() if p.requires_grad}
    if missing := [name for key, name in wanted.items() if key not in map(id, given)]:
        raise BrokenPromiseError(f"parameter_groups() leaves out {missing[0]}")
    if len(given) != len(set(map(id, given))):
        raise BrokenPromiseError("parameter_groups() gives a parameter twice")
