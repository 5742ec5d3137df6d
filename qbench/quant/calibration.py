"""Run a model on calibration data: sample the inputs of layers, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qbench.errors import QbenchError
from qbench.method import Layer, Method
from qbench.quant.exchange.modules import is_attention
from qbench.quant.hooks import batch_statistics, observed_inputs
from qbench.quant.layers import quantizable_layers
from qbench.quant.placement.sites import Point, observed_points
from qbench.spec.words import counted

_LEAST_SHARE = 0.01  # of clipped negative inputs that is worth a footnote
_MAX_VALUES = 2**22  # of one layer's inputs


def sample_inputs(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Iterable[Any],
    points: Sequence[Point] = (),
) -> dict[str, Tensor]:
    """Record what activation quantizers are to quantize, on the full-precision model.

    Args:
        model: Model without quantizers.
        layers: Its layers with a quantizer at their own input.
        batches: Inputs of the model.
        points: Points between layers that get a quantizer.

    Returns:
        Inputs of each layer and tensors at each point, (images, …), by the name of the layer or
        the point: at most 2²² values, but at least one image. See `join_samples`.

    Raises:
        QbenchError: A layer saw no data, the model cannot take the batches, or they lead to values
            that are not finite.
    """
    wanted = [layer for layer in layers if not layer.activation_bits.is_float]
    if not wanted and not points:
        return {}
    names = [layer.name for layer in wanted] + [point.name for point in points]
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str, x: Tensor) -> None:
        room = _MAX_VALUES - sum(t.numel() for t in seen[name])
        if not x.isfinite().all():
            raise QbenchError(
                f"calibration: the input of '{name}' has values that are not finite: check the "
                "batches, and how the model was trained"
            )
        images = min(len(x), max(0, room) // x[0].numel())
        if images or not seen[name]:
            seen[name].append(x[: max(1, images)].detach().clone())

    given = False
    with ExitStack() as stack:
        stack.enter_context(observed_inputs(wanted, keep))
        if points:
            modules = quantizable_layers(model).values()
            keep_point = lambda point, x: keep(point.name, x)  # noqa: E731
            stack.enter_context(observed_points(model, modules, points, keep_point))
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_mode(model))
        for batch in batches:
            with explained(model, batch):
                model(batch)
            given = True
    if not given:
        raise no_calibration(names[0])
    if unseen := [name for name, inputs in seen.items() if not inputs]:
        shown, patterns = ", ".join(f"'{name}'" for name in unseen), [f"!{n}" for n in unseen]
        raise QbenchError(
            f"{shown}: never called in evaluation mode, so there is no input to quantize "
            "(auxiliary heads are not called); leave "
            f"{'it' if len(unseen) == 1 else 'them'} out with layers={['*', *patterns]}"
        )
    return {name: join_samples(inputs) for name, inputs in seen.items()}


def join_samples(samples: Sequence[Tensor]) -> Tensor:
    """Join tensors that one quantizer quantizes.

    Args:
        samples: Tensors, (images, …).

    Returns:
        All images, (images, …), if they have the same shape. Otherwise the values of each image,
        (images, values), for as many images as each of the tensors has.
    """
    if len({x.shape[1:] for x in samples}) == 1:
        return torch.cat(list(samples))
    images = min(len(x) for x in samples)
    return torch.cat([x[:images].flatten(1) for x in samples], 1)


def no_calibration(name: str) -> QbenchError:
    """Return the error that quantizers of activations need calibration data.

    Args:
        name: Name of a layer or a place.
    """
    return QbenchError(
        f"'{name}' saw no calibration data, and quantizing its input needs some: "
        "pass calibration=batches of training images"
    )


@contextmanager
def explained(model: nn.Module, batch: object) -> Iterator[None]:
    """Context manager that explains an exception of a model as one of a calibration batch.

    Args:
        model: Model that is run.
        batch: The batch.

    Raises:
        QbenchError: The model cannot take the batch.
    """
    try:
        yield
    except QbenchError:
        raise
    except Exception as error:
        raise QbenchError(f"calibration: {_misfit(model, batch)}: {error}") from error


def _misfit(model: nn.Module, batch: object) -> str:
    """Say which batch a model cannot take, and what it expects if that can be told."""
    if not isinstance(batch, Tensor):
        return f"the model cannot take a batch that is a {type(batch).__name__}, not a tensor"
    found = f"the model cannot take a batch of shape {tuple(batch.shape)}, {batch.dtype}"
    layer = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if isinstance(layer, nn.Conv2d) and batch.dim() == 4 and batch.shape[1] != layer.in_channels:
        found += f"; its first layer takes {counted(layer.in_channels, 'channel')}"
    return found


@torch.no_grad()
def clipped_share(quantizer: nn.Module, sample: Tensor) -> float:
    """Return the share of an input's values that are negative and whose sign a quantizer loses.

    It clips them to what zero becomes, or shifts them to levels of which none is negative.

    Args:
        quantizer: Quantizer of the input.
        sample: Inputs on training data, (images, …).

    Returns:
        The share of negative values, or 0 if some of them keep their sign.
    """
    negative = sample < 0
    if not negative.any():
        return 0.0
    with evaluation_mode(quantizer):
        quantized = quantizer(sample)
        lost = bool((quantized[negative] >= 0).all())
        lost = lost or torch.equal(quantized, quantizer(sample.relu()))
    return float(negative.double().mean()) if lost else 0.0


def check_signed(model: nn.Module, method: Method) -> None:
    """Check that no quantizer inside attention loses the sign of negative values.

    Queries, keys, values and the inputs of projections have as many negative values as positive
    ones. Levels that start at zero lose half of them.

    Args:
        model: Model whose activation quantizers are attached.
        method: Its method.

    Raises:
        QbenchError: A quantizer does. The message names its place.
    """
    places = {place.module: place for place in method.places}
    for name, module in model.named_modules():
        for place in (places[m] for m in module.modules() if m in places):
            if is_attention(module) and place.clipped_share >= _LEAST_SHARE:
                share, others = f"{100 * place.clipped_share:.0f}", ["*", f"!{name}.*"]
                raise QbenchError(
                    f"'{place.name}' has {share} % negative values, and the levels of activations "
                    f"of {method.name} start at zero: quantize weights only, or leave the "
                    f"attention out with layers={others}"
                )


def clipped_text(places: Sequence[Layer]) -> str:
    """Describe how many inputs lose negative values, or return an empty string.

    Args:
        places: All that has an activation quantizer.
    """
    shares = [100 * place.clipped_share for place in places if place.clipped_share >= _LEAST_SHARE]
    if not shares:
        return ""
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    percent = high if low == high else f"{low} to {high}"
    return (
        f"{len(shares)} of {len(places)} quantized inputs lose the sign of their negative values, "
        f"{percent} % of them"
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context manager that puts a model into evaluation mode and restores each submodule's mode.

    Batch normalization that has not seen any data yet, as in a network to be trained from scratch,
    uses the statistics of each batch, as it does in training. With its initial running statistics,
    0 and 1, activations would grow or shrink from layer to layer.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with batch_statistics(_without_statistics(model)):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _without_statistics(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch normalizations whose running statistics have their initial values."""

    def starts(mean: Tensor | None, variance: Tensor | None) -> bool:
        if mean is None or variance is None:
            return False
        return torch.equal(mean, torch.zeros_like(mean)) and torch.equal(
            variance, torch.ones_like(variance)
        )

    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [norm for norm in norms if starts(norm.running_mean, norm.running_var)]
