"""The promises of a method, one check each.

Each check takes a `Case`, one method at one pair of bit-widths on one small network, and raises
`BrokenPromiseError` with a message that the method's author can act on.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from qbench.lab.check.networks import EPOCHS_OF_CHECK, STEPS_OF_CHECK, Case, images
from qbench.lab.check.steps import (
    difference,
    equal,
    layer_weight,
    optimizer_of,
    state_of,
    take_steps,
    through_quantizers,
    train,
    untouched,
)
from qbench.method import Granularity, PerTensor
from qbench.quant.attach import Handle
from qbench.quant.audit import count_levels
from qbench.spec.bits import BitWidth, BitWidths

Check = Callable[[Case], None]


class BrokenPromiseError(Exception):
    """Raised if a method breaks a promise. The message says which, and what to look at."""


def attaches(case: Case) -> None:
    """Check that what the bit-widths name is quantized, and nothing else."""
    attaches_as_told(case.attach(), case.bits)


def attaches_as_told(handle: Handle, widths: str) -> None:
    """Check that every layer has the quantizers that the bit-widths ask for.

    Raises:
        BrokenPromiseError: A quantizer is missing, or one is too many.
    """
    bits = BitWidths.parse(widths)
    for layer in handle.layers:
        pairs = (
            ("weight", layer.weight_quantizer, bits.weights),
            ("input", layer.activation_quantizer, bits.activations),
        )
        for kind, quantizer, width in pairs:
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


def has_the_levels_it_promises(case: Case) -> None:
    """Check that after hardening no tensor has more values than its bits can represent."""
    handle = case.attach()
    train(handle)
    handle.harden().eval()
    for layer in handle.layers:
        if layer.weight_levels is None:
            continue
        weight = layer_weight(layer).detach()
        if not weight.isfinite().all():
            raise BrokenPromiseError(f"{layer.name}.weight is not finite after hardening")
        granularity = layer.weight_levels.granularity
        levels = count_levels(weight, granularity)
        promised = layer.weight_levels.count(layer.weight_bits)
        if levels > promised:
            hint = "; or is it quantized per channel?" if granularity == PerTensor() else ""
            raise BrokenPromiseError(
                f"{layer.name}.weight has {levels} values after hardening, where "
                f"{layer.weight_bits} bits of the declared levels allow {promised}: quantize fully "
                f"where `self.training` is False{hint}"
            )
        if not has_named_levels(weight, layer.weight_bits, granularity):
            raise BrokenPromiseError(
                f"{layer.name}.weight does not have the levels that {layer.weight_bits} names: "
                f"multiples of {', '.join(map(str, layer.weight_bits.levels or ()))}; refuse "
                f"widths with ± in supports(), or quantize to `layer.weight_bits.levels`"
            )
        if len(weight.unique()) < 2:
            raise BrokenPromiseError(
                f"{layer.name}.weight has one value after hardening, {float(weight.flatten()[0]):g}"
            )
    for scale in (1.0, 30.0):
        for name, (_, after) in through_quantizers(handle, scale * images(2)).items():
            layer = next(layer for layer in handle.layers if layer.name == name)
            if (levels := count_levels(after)) > layer.activation_bits.count:
                raise BrokenPromiseError(
                    f"the input of {name} has {levels} values after hardening, where "
                    f"{layer.activation_bits} bits allow {layer.activation_bits.count}"
                )


def has_named_levels(weight: Tensor, width: BitWidth, granularity: Granularity) -> bool:
    """Return whether the values of each group are one scale times integers that the width names.

    Args:
        weight: A hardened weight, (out, in, …).
        width: Its bit-width.
        granularity: Groups of the weight that have a scale of their own.
    """
    if width.levels is None:
        return True
    wanted = torch.tensor(width.levels, dtype=torch.float64)
    for group in (row for rows in granularity.split(weight.double()) for row in rows):
        largest = group.abs().max()
        codes = (group / largest * m for m in wanted[wanted > 0])
        if largest > 0 and not any(
            all((code - wanted).abs().min() < 1e-3 for code in each.unique()) for each in codes
        ):
            return False
    return True


def hardens_to_what_it_evaluates(case: Case) -> None:
    """Check that hardening keeps what evaluation used, and that nothing softens afterwards."""
    handle = case.attach()
    train(handle)
    model = handle.model.eval()
    with torch.no_grad():
        output = model(images(3))
        weights = [layer_weight(layer).clone() for layer in handle.layers]
    handle.harden()
    for layer, weight in zip(handle.layers, weights, strict=True):
        if not equal(layer_weight(layer), weight):
            raise BrokenPromiseError(
                f"hardening changed the values of {layer.name}.weight: forward is not a function "
                "of its input and the state alone"
            )
    with torch.no_grad():
        if not equal(model(images(3)), output):
            raise BrokenPromiseError("hardening changed what the model computes")
    model.train()
    hard = through_quantizers(handle, images(3))
    through_quantizers(handle, 10 * images(4))
    for layer in handle.layers:
        if layer.name in hard and layer.activation_quantizer is not None:
            before, after = hard[layer.name]
            if not equal(layer.activation_quantizer(before), after):
                raise BrokenPromiseError(
                    f"the input quantizer of {layer.name} still changes after hardening"
                )


def has_gradients_everywhere(case: Case) -> None:
    """Check that gradients are finite, reach every latent weight and pass every quantizer."""
    handle = case.attach()
    handle.model.train()
    if name := untouched(handle, images()):
        raise BrokenPromiseError(
            f"the latent weight of '{name}' gets no gradient: rounding and sign have none, see "
            "qbench.functional.straight_through"
        )
    for name, parameter in handle.model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise BrokenPromiseError(f"the gradient of {name} is not finite")
    for name, (before, _) in through_quantizers(handle, images()).items():
        quantizer = next(m.activation_quantizer for m in handle.layers if m.name == name)
        assert quantizer is not None  # noqa: S101
        passed = []
        for size in (0.1, 1.0, 10.0):  # whatever the quantizer's range, some of it is hit
            x = (size * torch.randn(before.shape)).requires_grad_()
            quantizer(x).sum().backward()
            passed.append(torch.zeros_like(x) if x.grad is None else x.grad)
        if not any(gradient.any() for gradient in passed):
            raise BrokenPromiseError(
                f"the input quantizer of '{name}' passes no gradient: rounding and sign have none, "
                "see qbench.functional.straight_through"
            )
        if not all(gradient.isfinite().all() for gradient in passed):
            raise BrokenPromiseError(f"the gradient of the input of '{name}' is not finite")


def trains(case: Case) -> None:
    """Check that training moves every latent weight and leaves everything finite."""
    handle = case.attach()
    before = [layer.latent_weight.detach().clone() for layer in handle.layers]
    for epoch in range(1, EPOCHS_OF_CHECK + 1):
        handle.on_epoch_start(epoch, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
        train(handle, first=2 * epoch)
    for layer, weight in zip(handle.layers, before, strict=True):
        if equal(layer.latent_weight, weight):
            raise BrokenPromiseError(f"training does not move the latent weight of '{layer.name}'")
    for name, value in state_of(handle.model).items():
        if not value.isfinite().all():
            raise BrokenPromiseError(f"{name} is not finite after training")


def is_deterministic(case: Case) -> None:
    """Check that two runs with the same seed give the same bits."""
    states = []
    for _ in range(2):
        handle = case.attach()
        train(handle)
        states.append(state_of(handle.harden()))
        torch.rand(3)
    if name := difference(*states):
        raise BrokenPromiseError(
            f"two runs with one seed differ in {name}: draw random numbers from torch's "
            "generator, and iterate over nothing unordered"
        )


def survives_a_checkpoint(case: Case) -> None:
    """Check that training that goes on from a state_dict gives the same bits."""
    handle = case.attach()
    handle.on_epoch_start(2, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
    optimizer = train(handle)
    buffer = io.BytesIO()
    torch.save({"model": handle.model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    try:
        saved = torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BrokenPromiseError(
            "its state_dict holds more than tensors and plain values, which a checkpoint may not; "
            "see get_extra_state"
        ) from error
    fresh = case.attach()
    fresh.model.load_state_dict(saved["model"])
    other = optimizer_of(fresh)
    other.load_state_dict(saved["optimizer"])
    for each, its in ((handle, optimizer), (fresh, other)):
        each.on_epoch_start(3, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
        take_steps(each, its, range(2, 4))
    if name := difference(state_of(handle.model), state_of(fresh.model)):
        raise BrokenPromiseError(
            f"training that goes on from a checkpoint differs in {name}: what changes over time "
            "belongs in parameters, buffers or get_extra_state"
        )


def copies(case: Case) -> None:
    """Check that a deep copy is equal and independent, and that the hardened model pickles."""
    handle = case.attach()
    train(handle)
    twin = copy.deepcopy(handle)
    before = state_of(handle.model)
    if name := difference(before, state_of(twin.model)):
        raise BrokenPromiseError(f"a deep copy differs in {name}")
    train(twin, first=5)
    if name := difference(before, state_of(handle.model)):
        raise BrokenPromiseError(f"training a deep copy changes {name} of the original")
    train(handle, first=5)
    if name := difference(state_of(handle.model), state_of(twin.model)):
        raise BrokenPromiseError(f"a deep copy trains differently: {name}")
    model = handle.harden().eval()
    try:
        again = pickle.loads(pickle.dumps(model))  # noqa: S301 - of this process's own making
    except Exception as error:
        raise BrokenPromiseError(
            f"the hardened model cannot be pickled: {error}; define quantizers at the top of the "
            "file, and keep no lambdas in them"
        ) from error
    with torch.no_grad():
        if not equal(again(images(3)), model(images(3))):
            raise BrokenPromiseError("the pickled model computes something else")


def updates_once_a_step(case: Case) -> None:
    """Check that reading a weight changes nothing: state changes once a step."""
    handle, curious = case.attach(), case.attach()
    train(handle)
    optimizer = optimizer_of(curious)
    for step in range(2):
        curious.model.train()
        for layer in curious.layers:
            reads = []
            for _ in range(2):
                torch.manual_seed(step)  # what is drawn may be drawn again
                reads.append(layer_weight(layer).detach().clone())
            if not equal(*reads):
                raise BrokenPromiseError(
                    f"{layer.name}.weight is another each time it is read: forward must change no "
                    "state, see Quantizer.observe"
                )
        take_steps(curious, optimizer, range(step, step + 1))
    if name := difference(state_of(handle.model), state_of(curious.model)):
        raise BrokenPromiseError(
            f"reading weights between steps changes {name}: state that is not learned moves in "
            "Quantizer.observe, which is called once a step"
        )


def evaluates_without_a_trace(case: Case) -> None:
    """Check that evaluation changes no state and gives the same result each time."""
    handle = case.attach()
    train(handle)
    before = state_of(handle.model)
    with torch.no_grad():
        first = handle.model.eval()(images(3))
        handle.model(5 * images(4))
        if not equal(handle.model(images(3)), first):
            raise BrokenPromiseError("evaluating twice gives different results")
    if name := difference(before, state_of(handle.model)):
        raise BrokenPromiseError(f"evaluation changes {name}")


def comes_off(case: Case) -> None:
    """Check that detaching leaves the latent weights and a model that runs."""
    handle = case.attach()
    train(handle)
    latent = {layer.name: layer.latent_weight.detach().clone() for layer in handle.layers}
    model = handle.remove()
    modules = dict(model.named_modules())
    for name, weight in latent.items():
        if not equal(modules[name].get_parameter("weight"), weight):
            raise BrokenPromiseError(f"detaching changes {name}.weight")
    model.train()(images()).sum().backward()
    if handle.quantizers:
        raise BrokenPromiseError("detaching leaves quantizers behind")


def trains_under_autocast(case: Case) -> None:
    """Check that under bfloat16 autocast gradients exist and are finite."""
    handle = case.attach()
    handle.model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        name = untouched(handle, images())
    if name:
        raise BrokenPromiseError(f"under autocast the latent weight of '{name}' gets no gradient")
    for name, parameter in handle.model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise BrokenPromiseError(f"under autocast the gradient of {name} is not finite")


def evaluates_under_autocast(case: Case) -> None:
    """Check that bfloat16 autocast does not change the quantized weights."""
    handle = case.attach()
    handle.model.eval()
    for layer in handle.layers:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            under = layer_weight(layer).clone()
        if not equal(under, layer_weight(layer).detach()):
            raise BrokenPromiseError(
                f"autocast changes the quantized values of {layer.name}.weight: compute them "
                "without matrix products, or outside autocast"
            )


def gives_its_parameters_once(case: Case) -> None:
    """Check that every learned parameter is in exactly one of the optimiser's groups."""
    handle = case.attach()
    groups = handle.parameter_groups(lr=0.1, weight_decay=1e-4)
    given = [parameter for group in groups for parameter in group["params"]]
    wanted = {id(p): n for n, p in handle.model.named_parameters() if p.requires_grad}
    if missing := [name for key, name in wanted.items() if key not in map(id, given)]:
        raise BrokenPromiseError(f"parameter_groups() leaves out {missing[0]}")
    if len(given) != len(set(map(id, given))):
        raise BrokenPromiseError("parameter_groups() gives a parameter twice")


def compiles(case: Case) -> None:
    """Check that ``torch.compile`` can trace the model and that it computes the same."""
    handle, plain = case.attach(), case.attach()
    torch.compiler.reset()
    compiled = torch.compile(handle.model, backend="eager")
    x = images()
    for training in (True, False):
        handle.model.train(training)
        plain.model.train(training)
        found, expected = compiled(x), plain.model(x)
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
            raise BrokenPromiseError("torch.compile changes what it computes")
        if training and handle.method.trains:
            found.square().sum().backward()
            expected.square().sum().backward()
    if not handle.method.trains:
        return
    for mine, its in zip(handle.layers, plain.layers, strict=True):
        left, right = mine.latent_weight.grad, its.latent_weight.grad
        if left is None or right is None or not torch.allclose(left, right, rtol=1e-3, atol=1e-5):
            raise BrokenPromiseError(f"torch.compile changes the gradient of '{mine.name}'")


CHECKS: tuple[Check, ...] = (
    attaches,
    keeps_shape_and_dtype,
    has_the_levels_it_promises,
    hardens_to_what_it_evaluates,
    is_deterministic,
    survives_a_checkpoint,
    copies,
    evaluates_without_a_trace,
    comes_off,
    evaluates_under_autocast,
    gives_its_parameters_once,
)
TRAINING: tuple[Check, ...] = (
    has_gradients_everywhere,
    trains,
    updates_once_a_step,
    trains_under_autocast,
)
COMPILED: tuple[Check, ...] = (compiles,)
