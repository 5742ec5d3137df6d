"""Training with Quantization Networks: phases, temperature, sharing, and the released update."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.attachment import Handle, attach
from qbench.bits import Bits
from qbench.errors import QbenchError
from qbench.registry import build_method, method_options

NAME = "quantization_networks"


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
    )


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(8, 1, 8, 8, generator=random)
        yield x, torch.randint(5, (8,), generator=random)


def attached(bits: str = "2/2", model: nn.Module | None = None, **options: Any) -> Handle:
    return attach(
        model or network(),
        NAME,
        bits=bits,
        layers=["2", "5"],
        calibration=[x for x, _ in batches(2)],
        **options,
    )


def train(handle: Handle, steps: int, lr: float = 0.05) -> None:
    optimizer = torch.optim.SGD(handle.parameter_groups(lr=lr, weight_decay=0.0), lr=lr)
    handle.model.train()
    for step, (x, target) in enumerate(batches(steps), 1):
        handle.on_step_start(step, steps)
        optimizer.zero_grad()
        F.cross_entropy(handle.model(x), target).backward()
        handle.before_step()
        optimizer.step()
        handle.after_step()


def temperatures(handle: Handle, kind: str) -> list[float]:
    quantizers = [getattr(layer, f"{kind}_quantizer") for layer in handle.layers]
    return [float(quantizer.temperature) for quantizer in quantizers]


def parameters(handle: Handle, kind: str) -> list[float]:
    quantizers = [getattr(layer, f"{kind}_quantizer") for layer in handle.layers]
    return [float(p) for q in quantizers for p in (q.alpha.detach(), q.beta.detach())]


def inputs_are_float(handle: Handle) -> bool:
    """Whether, in training, inputs pass their quantizers unchanged."""
    x = torch.linspace(0, 1, 50)
    quantizers = [layer.input_quantizer for layer in handle.layers if layer.input_quantizer]
    return all(torch.equal(quantizer.train()(x), x) for quantizer in quantizers)


# Phases and temperature ---------------------------------------------------------------------


def test_weights_are_trained_first_then_activations_then_both() -> None:
    handle = attached("2/2")
    seen = []
    for epoch in range(1, 10):
        handle.on_epoch_start(epoch, 9)
        before = parameters(handle, "weight"), parameters(handle, "input")
        latent = [layer.latent_weight.detach().clone() for layer in handle.layers]
        is_float = inputs_are_float(handle)
        train(handle, 2)
        moved = [
            all(a != b for a, b in zip(old, parameters(handle, kind), strict=True))
            for old, kind in zip(before, ("weight", "input"), strict=True)
        ]
        stayed = [
            all(a == b for a, b in zip(old, parameters(handle, kind), strict=True))
            for old, kind in zip(before, ("weight", "input"), strict=True)
        ]
        seen.append((moved, stayed, is_float))
        assert not any(
            torch.equal(old, layer.latent_weight)
            for old, layer in zip(latent, handle.layers, strict=True)
        )
    weights_only = ([True, False], [False, True], True)
    inputs_only = ([False, True], [True, False], False)
    both = ([True, True], [False, False], False)
    assert seen == [weights_only] * 3 + [inputs_only] * 3 + [both] * 3


def test_an_epoch_raises_the_temperature_of_what_it_trains() -> None:
    handle = attached("2/2", temperature_rate=10)
    weights, inputs = [], []
    for epoch in range(1, 7):
        handle.on_epoch_start(epoch, 6)
        weights.append(temperatures(handle, "weight"))
        inputs.append(temperatures(handle, "input"))
    assert weights == [[t, t] for t in (10, 20, 20, 20, 30, 40)]
    assert inputs[2:] == [[t, t] for t in (10, 20, 30, 40)]


@pytest.mark.parametrize(
    ("phases", "epochs", "first_with_inputs", "both_from"),
    [
        ([0, 0, 1], 5, 1, 1),
        ([1, 0, 1], 4, 3, 3),
        ([0, 1, 1], 4, 1, 3),
        ([1, 1, 2], 8, 3, 5),
        ([1, 1, 1], 1, 1, 1),  # too few for three phases: the last is the one that there is
        ([1, 1, 1], 2, 1, 2),
    ],
)
def test_phases_last_in_proportion(
    phases: list[float], epochs: int, first_with_inputs: int, both_from: int
) -> None:
    handle = attached("2/2", phases=phases)
    with_inputs, both = [], []
    for epoch in range(1, epochs + 1):
        handle.on_epoch_start(epoch, epochs)
        if not inputs_are_float(handle):
            with_inputs.append(epoch)
            if all(q.alpha.requires_grad for q in handle.quantizers):
                both.append(epoch)
    assert with_inputs[0] == first_with_inputs
    assert both[0] == both_from


@pytest.mark.parametrize("bits", ["2/32", "32/2"])
def test_there_are_no_phases_where_only_one_kind_is_quantized(bits: str) -> None:
    handle = attached(bits)
    for epoch in (1, 2, 9):
        handle.on_epoch_start(epoch, 9)
        kind = "weight" if bits == "2/32" else "input"
        assert temperatures(handle, kind) == [5.0 * epoch] * 2
        before = parameters(handle, kind)
        train(handle, 1)
        assert before != parameters(handle, kind)


def test_the_temperature_can_rise_with_every_step() -> None:
    handle = attached("2/32", temperature_rate=10, temperature_by="step")
    found = []
    for epoch in (1, 2):
        handle.on_epoch_start(epoch, 2)
        for step in range(1, 5):
            handle.on_step_start(step, 4)
            found.append(temperatures(handle, "weight")[0])
    assert found == [2.5, 5, 7.5, 10, 12.5, 15, 17.5, 20]


def test_a_fixed_quantizers_temperature_does_not_rise_with_steps() -> None:
    handle = attached("2/2", temperature_by="step")
    handle.on_epoch_start(2, 3)
    handle.on_step_start(1, 2)
    assert temperatures(handle, "weight") == [5.0, 5.0]
    assert temperatures(handle, "input") == [2.5, 2.5]


def test_without_steps_being_told_the_temperature_is_that_of_the_epoch() -> None:
    handle = attached("2/32")
    handle.on_epoch_start(3, 9)
    handle.on_step_start(1, 100)
    assert temperatures(handle, "weight") == [15.0, 15.0]


# One function for all layers ----------------------------------------------------------------


def test_a_shared_function_is_initialised_from_every_layer() -> None:
    handle = attached("3(±4)/2", share="network")
    assert len(handle.quantizers) == 2
    first, second = (layer.weight_quantizer for layer in handle.layers)
    assert first is second
    largest = max(float(layer.latent_weight.detach().abs().max()) for layer in handle.layers)
    alpha, beta = parameters(handle, "weight")[:2]
    assert beta == pytest.approx(5 * 4 / (4 * largest), rel=1e-6)
    assert alpha == pytest.approx(4 * largest / (5 * 4), rel=1e-6)


def test_a_shared_function_gives_every_layer_the_same_levels_after_training() -> None:
    model = network()
    with torch.no_grad():
        model[2].weight.mul_(3)  # type: ignore[operator]
    for share, count in (("network", 3), ("layer", 6)):
        handle = attached("2/32", network(), share=share)
        handle.on_epoch_start(1, 2)
        train(handle, 3)
        handle.harden()
        values = torch.cat([layer.module.weight.flatten() for layer in handle.layers])  # type: ignore[operator]
        assert len(values.unique()) in (count, count - 1)  # layers have the zero in common


# Options ------------------------------------------------------------------------------------


def test_weights_take_any_levels_given() -> None:
    levels = [-7, -3, 0, 1, 9]
    handle = attached("3/32", weight_levels=levels)
    quantizer: Any = handle.layers[0].weight_quantizer
    quantizer.eval()
    x = torch.linspace(-2, 2, 10_001) * quantizer.alpha.item() * 9
    found = quantizer(x).detach().unique() / quantizer.alpha.detach()
    np.testing.assert_allclose(found.numpy(), levels, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "bits", "reason"),
    [
        ({"weight_levels": [-2, -1, 0, 1, 2]}, "2/32", "too many for 2 bits"),
        ({"weight_levels": [-1, 0, 1]}, "3(±4)/32", "leave one out"),
    ],
)
def test_levels_that_do_not_fit_are_refused(
    options: dict[str, Any], bits: str, reason: str
) -> None:
    refusal = build_method(NAME, options).supports(Bits.parse(bits), "classification")
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_levels": [1, 0]}, "ascending"),
        ({"weight_levels": [1]}, "two levels"),
        ({"phases": [1, 1, 0]}, "phases"),
        ({"phases": [-1, 1, 1]}, "phases"),
        ({"temperature_rate": 0}, "temperature_rate"),
        ({"temperature_rate": float("nan")}, "temperature_rate"),
    ],
)
def test_a_senseless_value_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises((QbenchError, ValidationError), match=message):
        method_options(NAME, options)


def test_alpha_and_beta_have_a_learning_rate_of_their_own_and_no_weight_decay() -> None:
    handle = attached("2/2", lr_factor=0.1)
    network_group, own = handle.parameter_groups(lr=0.5, weight_decay=1e-4)
    assert own["lr"] == pytest.approx(0.05)
    assert own["weight_decay"] == 0.0
    assert len(own["params"]) == 8
    assert network_group["weight_decay"] == 1e-4
    latent = {id(layer.latent_weight) for layer in handle.layers}
    assert latent <= {id(p) for p in network_group["params"]}


# The released code, line by line ------------------------------------------------------------
#
# github.com/aliyun/alibabacloud-quantization-networks: anybit.py, models/quantization.py, and the
# loop of quan_all_main.py, in its own order of operations.

VALUES = {"1": [-1, 1], "2": [-1, 0, 1], "3(±4)": [-4, -2, -1, 0, 1, 2, 4]}


def sigmoid_t(x: Tensor, b: float, t: float) -> Tensor:
    temp = torch.clamp(-1 * t * (x - b), min=-10.0, max=10.0)
    return 1.0 / (1.0 + torch.exp(temp))


class ReleasedWeight:
    """anybit.QuaOp, of one layer."""

    def __init__(self, weight: nn.Parameter, values: list[int], biases: list[float]) -> None:
        self.target, self.biases = weight, biases
        self.n = len(values) - 1
        self.scales = [values[i + 1] - values[i] for i in range(self.n)]
        self.offset = sum(self.scales) / 2.0
        self.beta = nn.Parameter(values[-1] * 5 / 4.0 / weight.data.abs().max())
        self.alpha = nn.Parameter(torch.reciprocal(self.beta.data))

    def forward(self, x: Tensor, t: float) -> Tensor:
        y = sigmoid_t(x, b=self.biases[0], t=t) * self.scales[0]
        for j in range(1, self.n):
            y += sigmoid_t(x, b=self.biases[j], t=t) * self.scales[j]
        return y - self.offset

    def backward(self, x: Tensor, t: float) -> Tensor:
        y_1 = sigmoid_t(x, b=self.biases[0], t=t) * self.scales[0]
        y_grad = (y_1.mul(self.scales[0] - y_1)).div(self.scales[0])
        for j in range(1, self.n):
            y_temp = sigmoid_t(x, b=self.biases[j], t=t) * self.scales[j]
            y_grad += (y_temp.mul(self.scales[j] - y_temp)).div(self.scales[j])
        return y_grad

    def quantize(self, t: float) -> None:
        self.saved = self.target.data.clone()
        t = min(t, 2000)
        x = self.target.data.mul(self.beta.data)
        self.target.data = self.forward(x, t).mul(self.alpha.data)

    def update(self, t: float) -> None:
        self.target.data.copy_(self.saved)
        t = min(t, 2000)
        assert self.target.grad is not None
        x = self.target.data.mul(self.beta.data)
        y_grad = self.backward(x, 1).mul(t)
        g = self.target.grad.data
        self.beta.grad = y_grad.mul(self.target.data).mul(self.alpha.data).mul(g).sum()
        self.alpha.grad = self.forward(x, t).mul(g).sum()
        self.target.grad.data = y_grad.mul(self.beta.data).mul(self.alpha.data).mul(g)


class SigmoidT(torch.autograd.Function):
    """models.quantization.SigmoidT."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: list[int], n: int, b: list[float], t: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rest = scales, n, b, t
        output = scales[0] / (1.0 + torch.exp(-torch.clamp(t * (x - b[0]), min=-10.0, max=10.0)))
        for k in range(1, n):
            buf = torch.clamp(t * (x - b[k]), min=-10.0, max=10.0)
            output += scales[k] / (1.0 + torch.exp(-buf))
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        scales, n, b, t = ctx.rest
        temp = torch.zeros_like(x)
        for j in range(n):
            b_buf = torch.clamp(t * (x - b[j]), min=-10.0, max=10.0)
            b_output = scales[j] / (1.0 + torch.exp(-b_buf))
            temp += b_output * (1 - b_output) * t
        return temp * grad_output, None, None, None, None


class ReleasedInput(nn.Module):
    """models.quantization.Quantization, in training."""

    def __init__(self, values: list[int], biases: list[float], beta: float, t: float) -> None:
        super().__init__()
        self.scales = [b - a for a, b in itertools.pairwise(values)]
        self.biases, self.t = biases, t
        self.beta = nn.Parameter(torch.tensor([beta]))
        self.alpha = nn.Parameter(torch.reciprocal(self.beta.data))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul(self.beta)
        y: Tensor = SigmoidT.apply(x, self.scales, len(self.scales), self.biases, self.t)
        return y.mul(self.alpha)


MOMENTUM, DECAY, CLIP = 0.9, 1e-4, 0.5


def released_training(
    bits: Bits, biases: list[Any], betas: list[float], t: float, lr: float
) -> nn.Module:
    """Ten steps of the released loop from `network()`, given the offline biases and betas."""
    model: Any = network()
    weights = VALUES[str(bits.weights)]
    operators = [
        ReleasedWeight(model[index].weight, weights, biases[i]) for i, index in enumerate((2, 5))
    ]
    if not bits.activations.is_float:
        values = list(range(2**bits.activations.bits))
        quantizers = [ReleasedInput(values, biases[2 + i], betas[i], t) for i in range(2)]
        for index, quantizer in zip((2, 5), quantizers, strict=True):
            model[index] = nn.Sequential(quantizer, model[index])
    # The release gives α and β of activations the network's weight decay; here they have none.
    own: list[Any] = [
        p for name, p in model.named_parameters() if "alpha" in name or "beta" in name
    ]
    network_own = [p for p in model.parameters() if all(p is not q for q in own)]
    groups: list[dict[str, Any]] = [
        {"params": network_own, "weight_decay": DECAY},
        {"params": own},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    optimizer_alpha = torch.optim.SGD([op.alpha for op in operators], lr=lr, momentum=MOMENTUM)
    optimizer_beta = torch.optim.SGD([op.beta for op in operators], lr=lr, momentum=MOMENTUM)
    model.train()
    for x, target in batches(10):
        for op in operators:
            op.quantize(t)
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        optimizer_alpha.zero_grad()
        optimizer_beta.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for op in operators:
            op.update(t)
        optimizer.step()
        optimizer_alpha.step()
        optimizer_beta.step()
    return model


@pytest.mark.parametrize("bits", ["1/32", "2/32", "3(±4)/32", "1/1", "3(±4)/2"])
@pytest.mark.parametrize(("rate", "lr"), [(5.0, 0.01), (30.0, 1e-3), (3000.0, 1e-5)])
def test_ten_official_steps_are_those_of_the_released_code(
    bits: str, rate: float, lr: float
) -> None:
    options: dict[str, Any] = {"compat": "official", "temperature_rate": rate, "phases": [0, 0, 1]}
    handle = attached(bits, **options)
    found: list[Any] = [layer.weight_quantizer for layer in handle.layers]
    found += [layer.input_quantizer for layer in handle.layers if layer.input_quantizer]
    biases = [quantizer.biases.tolist() for quantizer in found]
    betas = [float(quantizer.beta) for quantizer in found[2:]]
    expected: Any = released_training(Bits.parse(bits), biases, betas, rate, lr)

    groups = handle.parameter_groups(lr=lr, weight_decay=DECAY)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    handle.model.train()
    handle.on_epoch_start(1, 1)
    for x, target in batches(10):
        optimizer.zero_grad()
        F.cross_entropy(handle.model(x), target).backward()
        every = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(every, CLIP)
        handle.before_step()
        optimizer.step()
        handle.after_step()

    start: Any = network()
    for layer in handle.layers:
        index = int(layer.name)
        module = expected[index]
        weight = module[1].weight if isinstance(module, nn.Sequential) else module.weight
        assert (weight - start[index].weight).abs().max() > 1e-3  # far more than the tolerance
        torch.testing.assert_close(layer.latent_weight, weight, rtol=0, atol=1e-5)
    model: Any = handle.model
    torch.testing.assert_close(model[0].weight, expected[0].weight, rtol=0, atol=1e-5)


def test_in_the_official_mode_a_binary_weight_is_the_papers_function() -> None:
    """The release writes 1 bit as {−1, 0, 1} with two biases of 0: 2σ − 1, as {−1, 1} with one."""
    w = torch.randn(100, generator=torch.Generator().manual_seed(0))
    handle = attached("1/32", compat="official")
    quantizer: Any = handle.layers[0].weight_quantizer
    quantizer.train()
    beta, alpha = float(quantizer.beta), float(quantizer.alpha)
    two = sigmoid_t(beta * w, 0.0, 5.0) + sigmoid_t(beta * w, 0.0, 5.0) - 1
    torch.testing.assert_close(quantizer(w).detach(), alpha * two)


def test_the_official_step_at_zero_is_not_taken() -> None:
    official: Any = attached("1/32", compat="official").layers[0].weight_quantizer
    paper: Any = attached("1/32").layers[0].weight_quantizer
    zero = torch.zeros(3)
    assert (official.eval()(zero) < 0).all()
    assert (paper.eval()(zero) > 0).all()
