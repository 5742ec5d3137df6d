"""The promises about ``forward``: what it reads, what it returns, and which shapes it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from qbench.lab.check.levels import has_the_levels_it_promises_when_hard
from qbench.lab.check.networks import Case, images, seed_cpu
from qbench.lab.check.promise import BrokenPromiseError
from qbench.lab.check.steps import equal, state_of, through_quantizers, train, trained
from qbench.quant.handle import Handle
from qbench.quant.layers import QUANTIZABLE, layer_weight
from qbench.quant.state import PLACED

_NETWORKS_OWN = ("parametrizations", "input_quantizer", "output_module", PLACED)
_LARGE = 2**24 + 1  # more than torch.quantile takes, and than float32 counts


def _quantizers(handle: Handle, x: Tensor) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield what each quantizer quantizes: a name, the quantizer, and its input."""
    through = through_quantizers(handle, x)
    for layer in handle.layers:
        if layer.weight_quantizer is not None:
            yield f"{layer.name}.weight", layer.weight_quantizer, layer.latent_weight.detach()
    for place in handle.places:
        if place.activation_quantizer is not None:
            given = through[place.name][0]
            yield f"the input of '{place.name}'", place.activation_quantizer, given


@torch.no_grad()
def leaves_its_input_alone(case: Case) -> None:
    """Check that forward changes no input, and returns a new tensor."""
    handle = case.attached()
    for training in (True, False):
        handle.model.train(training)
        for what, quantizer, recorded in _quantizers(handle, images(2)):
            values = recorded - recorded.abs().max() / 2  # what was recorded may be changed already
            x = values.clone()
            y = quantizer(x)
            if not equal(x, values):
                raise BrokenPromiseError(
                    f"forward changes {what} in place: use mul, clamp, … in place of mul_, clamp_"
                )
            if _memory(y) == _memory(x) and not training:
                raise BrokenPromiseError(
                    f"forward returns {what} itself, or a view of it: return a new tensor"
                )
            if _memory(y) in {_memory(each) for each in quantizer.state_dict().values()}:
                raise BrokenPromiseError(
                    f"forward returns a buffer of the quantizer of {what}: return a new tensor"
                )
            kept = y.clone()
            quantizer(2 * x)
            if not equal(y, kept):
                raise BrokenPromiseError(
                    f"the next call of forward changes what the last one returned for {what}: "
                    "return a new tensor"
                )


def _memory(x: object) -> int | None:
    return x.untyped_storage().data_ptr() if isinstance(x, Tensor) else None


@torch.no_grad()
def reads_only_its_own(case: Case) -> None:
    """Check that forward depends on its input and the quantizer's state, and on nothing else."""
    handle = trained(case)
    for training in (True, False):
        handle.model.train(training)
        for what, quantizer, x in list(_quantizers(handle, images(2))):
            read = _reader(quantizer, x)
            expected = read()
            rest = _everything_but(handle, quantizer, x)
            kept = [each.clone() for each in rest]
            for each in rest:
                each.mul_(1.5).add_(0.25)
            found = read()
            for each, value in zip(rest, kept, strict=True):
                each.copy_(value)
            if not equal(found, expected):
                raise BrokenPromiseError(
                    f"the quantized value of {what} changes with other tensors of the model: "
                    "forward may read its input and the quantizer's own parameters and buffers"
                )
            with torch.enable_grad():
                if not equal(read(), expected):
                    raise BrokenPromiseError(f"forward of {what} computes otherwise in no_grad()")


def _reader(quantizer: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def read() -> Tensor:
        seed_cpu(0)  # what is drawn may be drawn again
        y: Tensor = quantizer(x)
        return y.detach().clone()

    return read


def _everything_but(handle: Handle, quantizer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the floating-point tensors of a model, save a quantizer's own and its input ``x``."""
    network = {
        id(value)
        for name, module in handle.model.named_modules(remove_duplicate=False)
        if not set(_NETWORKS_OWN) & set(name.split("."))
        for value in (*module._parameters.values(), *module._buffers.values())
    }
    network |= {id(layer.latent_weight) for layer in handle.layers}
    own = {id(v) for v in (*quantizer.parameters(), *quantizer.buffers())} - network
    every = (*handle.model.parameters(), *handle.model.buffers())
    return [
        value.data
        for value in every
        if id(value) not in own and value.is_floating_point() and _memory(value) != _memory(x)
    ]


@torch.no_grad()
def is_independent_of_other_models(case: Case) -> None:
    """Check that what happens to one model changes no other, and no global setting."""
    handle = case.attach()
    train(handle)
    output = handle.model.eval()(images(3))
    before = state_of(handle.model)
    train(case.attach(seed=1), first=3)
    if not equal(handle.model(images(3)), output) or any(
        not equal(value, before[name]) for name, value in state_of(handle.model).items()
    ):
        raise BrokenPromiseError(
            "a second model with the method changes what the first computes: keep state in the "
            "quantizer, not in a class or a module"
        )
    drawn = []
    for seed in (1, 2):
        seed_cpu(seed)
        handle.model.train()(images(3))
        drawn.append(torch.rand(()))
    if equal(*drawn):
        raise BrokenPromiseError("forward seeds torch's generator: use one of its own")
    if torch.get_default_dtype() != torch.float32:
        torch.set_default_dtype(torch.float32)
        raise BrokenPromiseError("it sets torch's default dtype: pass dtype=x.dtype instead")


@torch.no_grad()
def treats_images_alone(case: Case) -> None:
    """Check that in evaluation what an image becomes does not depend on its batch."""
    handle = trained(case)
    handle.model.eval()
    for place in handle.places:
        quantizer = place.activation_quantizer
        if quantizer is None:
            continue
        x = through_quantizers(handle, images(2))[place.name][0]
        expected = quantizer(x)[:1]
        for batch in (x[:1], torch.cat([x[:1], 10 * x[1:]])):
            if not equal(quantizer(batch)[:1], expected):
                raise BrokenPromiseError(
                    f"the quantized input of '{place.name}' depends on the other images of the "
                    "batch: in evaluation use statistics that observe() has collected"
                )


def takes_any_shape(case: Case) -> None:
    """Check odd shapes: drawn ones, one channel, one weight, other images, channels last."""
    case = case.on("odd")
    handle = _attach_where_it_can(case, seed=sum(map(ord, case.method + case.bits)))
    train(handle)
    for name, value in state_of(handle.model).items():
        if not value.isfinite().all():
            raise BrokenPromiseError(
                f"{name} is not finite after training on a network with layers of one channel and "
                f"of one weight: {_shapes(handle)}"
            )
    others = images(5, height=9, width=7)[:3]
    handle.model.train()(others).sum().backward()
    handle.model.eval()
    with torch.no_grad():
        output = handle.model(others)
        weights = {layer.name: layer_weight(layer).clone() for layer in handle.layers}
        handle.model.to(memory_format=torch.channels_last)
        for layer in handle.layers:
            _check_near(layer_weight(layer), weights[layer.name], f"{layer.name}.weight")
        last = others.to(memory_format=torch.channels_last)
        _check_near(handle.model(last), output, "the output")
    handle.model.train()(last).sum().backward()
    has_the_levels_it_promises_when_hard(handle)


def _attach_where_it_can(case: Case, seed: int) -> Handle:
    """Attach to all layers but those that the method refuses with a ValueError that names them."""
    names = [n for n, m in case.model(seed).named_modules() if isinstance(m, QUANTIZABLE)]
    while True:
        try:
            return case.attach(seed=seed, layers=names)
        except ValueError as error:
            left = [name for name in names if f"'{name}'" not in str(error)]
            if left == names or not left:
                raise
            names = left


def _check_near(found: Tensor, expected: Tensor, what: str) -> None:
    """Check that nearly all values agree; sums in another order may move a few to other levels."""
    if torch.isclose(found, expected, rtol=1e-3, atol=1e-5).float().mean() < 0.9:
        raise BrokenPromiseError(
            f"{what} changes with the memory format: in channels_last, view() and as_strided() see "
            "another order of values; use reshape() and flatten()"
        )


def _shapes(handle: Handle) -> str:
    shapes = [f"{m.name} {tuple(m.latent_weight.shape)}" for m in handle.layers]
    return ", ".join(shapes)


@torch.no_grad()
def takes_large_inputs(case: Case) -> None:
    """Check that activation quantizers take more than 2²⁴ values."""
    handle = case.attached()
    for place in handle.places[:1]:
        if place.activation_quantizer is not None:
            y = place.activation_quantizer.eval()(torch.rand(1, _LARGE))
            if not y.isfinite().all():
                raise BrokenPromiseError(f"{_LARGE} inputs of '{place.name}' give NaN or infinity")
