"""Methods on the models of the literature.

Each trial attaches a method, trains for two steps, hardens the model and counts its levels. The
full product of methods, models and bit-widths is marked slow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.quant.audit import audit
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths

SIZES = {
    "alexnet_bn": 64,
    "resnet18": 64,
    "resnet50": 64,
    "preact_resnet18": 64,
    "resnet20": 32,
    "vgg_small": 16,
    "resnet_tiny": 16,
}
WIDTHS = ["1/32", "2/32", "3(±4)/32", "1/1", "1/2", "2/2", "32/2"]
METHODS = sorted(set(registry.names("methods")) - {"fp32", "torchao", "parq", "brevitas"})
OPTIONS: dict[str, dict[str, Any]] = {
    "adaround": {"iterations": 2},
    "brecq": {"iterations": 2, "step_iterations": 2},
    "qdrop": {"iterations": 2},
    "obq": {"greedy_columns": 144},
}
FEW = [("quantization_networks", "2/2"), ("dorefa", "1/2"), ("xnor", "1/1")]
HEAVY = {("quantization_networks", model) for model in ("alexnet_bn", "resnet18", "resnet50")}
HEAVY |= {("xnor", model) for model in ("alexnet_bn", "resnet50")}
HEAVY |= {(name, "vgg_small") for name in ("gptq", "obq", "qdrop")}


def supported_widths(name: str) -> Iterator[str]:
    """Yield the bit-widths of the papers' tables that a method supports."""
    method = build_method(name, {})
    for bits in WIDTHS:
        if method.supports(BitWidths.parse(bits), "classification") is None:
            yield bits


def train(handle: Handle, batches: list[Tensor], loss_of: Callable[[Tensor], Tensor]) -> None:
    """Take a step on each batch, if the method trains."""
    if not handle.method.trains:
        return
    groups = handle.parameter_groups(lr=0.01, weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    handle.attach_optimizer(optimizer)
    handle.on_epoch_start(1, 1, len(batches))
    handle.model.train()
    for x in batches:
        loss = loss_of(handle.model(x)) + handle.regularization_loss()
        optimizer.zero_grad()
        loss.backward()
        parameters = [p for group in groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, 5.0)
        assert math.isfinite(float(loss.detach()))
        assert 0 < float(norm) < math.inf
        optimizer.step()


def try_on(
    model_name: str,
    name: str,
    bits: str,
    memory: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """Attach a method, train for two steps, harden and audit the model; return its state."""
    torch.manual_seed(0)
    size = SIZES[model_name]
    batches = [torch.randn(4, 3, size, size).to(dtype, memory_format=memory) for _ in range(2)]
    model = registry.build_model(model_name, 10, 3).to(dtype)
    model.to(memory_format=memory)
    method = build_method(name, OPTIONS.get(name, {}))
    handle = attach(model, method, bits=bits, calibration=batches[:1])
    model = handle.model
    train(handle, batches, lambda y: nn.functional.cross_entropy(y, torch.arange(4)))
    layers = list(handle.layers)
    handle.harden().eval()
    with torch.no_grad():
        assert model(batches[0]).isfinite().all()
    assert not handle.coverage(batches[0][:2]).partly
    counts = audit(layers, model.state_dict(), model, batches[0])
    sides = [
        not width.is_float
        for width in (BitWidths.parse(bits).weights, BitWidths.parse(bits).activations)
    ]
    assert len(counts) == len(layers) * sum(sides) > 0
    assert not [count for count in counts if count.levels > count.promised]
    return dict(model.state_dict())


@pytest.mark.parametrize(
    ("model", "name", "bits"),
    [
        (model, name, bits)
        for model in SIZES
        for name, bits in FEW
        if (name, model) not in HEAVY  # left to the slow test
    ],
)
def test_every_model_can_be_quantized(model: str, name: str, bits: str) -> None:
    try_on(model, name, bits)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model, name)
        for model in ("resnet20", "vgg_small")
        for name in METHODS
        if (name, model) not in HEAVY
    ],
)
def test_every_method_takes_a_residual_and_a_plain_network(model: str, name: str) -> None:
    try_on(model, name, [bits for bits in supported_widths(name) if bits != "3(±4)/32"][-1])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_attention_or_names_what_it_refuses(name: str) -> None:
    for bits in supported_widths(name):
        torch.manual_seed(0)
        x = torch.randn(4, 5, 16)
        encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        model = nn.Sequential(nn.Linear(16, 16), encoder, nn.Linear(16, 3))
        method = build_method(name, OPTIONS.get(name, {}))
        refused = ""
        try:
            handle = attach(model, method, bits=bits, calibration=[x])
        except QbenchError as error:
            refused = str(error)
        if refused:
            assert re.search(r"'1.self_attn.\w+' has \d+ % negative values", refused)
            assert not bits.endswith("/32")
            continue
        train(handle, [x, x], lambda y: y.square().mean())
        assert handle.harden().eval()(x).isfinite().all()
        assert not handle.coverage(x).partly


@pytest.mark.parametrize("name", METHODS)
def test_the_memory_format_changes_nothing(name: str) -> None:
    """Compare in float64, where the order of a sum moves no weight over a threshold.

    Only weights are compared: activations at the end of a range may move, because calibration takes
    the range from the same images.
    """
    formats = (torch.contiguous_format, torch.channels_last)
    for bits in supported_widths(name):
        plain, other = (try_on("resnet_tiny", name, bits, f, torch.float64) for f in formats)
        for layer, values in plain.items() if bits.endswith("/32") else ():
            assert torch.allclose(other[layer], values), f"{bits}: {layer}"


@pytest.mark.slow
@pytest.mark.parametrize("model", SIZES)
@pytest.mark.parametrize(
    ("name", "bits"), [(name, bits) for name in METHODS for bits in supported_widths(name)]
)
def test_every_method_takes_every_model_at_every_width(model: str, name: str, bits: str) -> None:
    try_on(model, name, bits)
