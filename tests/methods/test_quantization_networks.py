"""Quantization Networks (Yang et al., CVPR 2019, arXiv:1911.09464).

In training a quantizer is the sum of sigmoids of Eq. 7 with its exact gradient, in evaluation the
staircase of Eq. 5. Further tests cover the training phases, the temperature, sharing and options.
``compat: official`` is compared with the released code in
``tests/helpers/released_quantization_networks.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from qbench.registry import method_class
from qbench.spec.bits import BitWidths
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_everywhere,
    first_weight_quantizer,
    start_step,
    weight_quantizer,
)
from tests.helpers.released_quantization_networks import (
    CLIP,
    DECAY,
    MOMENTUM,
    released_training,
    sigmoid_t,
)
from tests.helpers.tensors import Array, normal

NAME = "quantization_networks"

LEVELS = {
    "1": [-1, 1],
    "2": [-1, 0, 1],
    "3(±2)": [-2, -1, 0, 1, 2],
    "3(±4)": [-4, -2, -1, 0, 1, 2, 4],
    "5": list(range(-15, 16)),
}
MORE_THAN_THREE_LEVELS = [bits for bits in LEVELS if len(LEVELS[bits]) > 3]


def parameter_of(quantizer: nn.Module, name: str) -> Array:
    return quantizer.get_parameter(name).detach().clone().numpy()


def least_inertia_centres(values: Array, clusters: int) -> Array:
    """Return the centres of the clusters of least inertia, by dynamic programming."""
    x = np.sort(values)
    end = np.arange(len(x) + 1)
    count = np.maximum(end - end[:, None], 1)
    mean, square = (
        (sums - sums[:, None]) / count for sums in (np.r_[0, x.cumsum()], np.r_[0, (x**2).cumsum()])
    )
    inertia = np.where(end > end[:, None], count * (square - mean**2), np.inf)
    least, starts = inertia[0], []
    for _ in range(clusters - 1):
        total = least[:, None] + inertia
        starts.append(total.argmin(0))
        least = total.min(0)
    ends = [len(x)]
    for start in reversed(starts):
        ends.insert(0, int(start[ends[0]]))
    parts = itertools.pairwise([0, *ends])
    centres: Array = np.array([x[i:j].mean() for i, j in parts])
    return centres


@pytest.mark.parametrize("bits", LEVELS)
def test_quantization_networks_weights_take_the_papers_levels(bits: str) -> None:
    w = normal(8, 500)
    quantizer = weight_quantizer(NAME, w, bits).eval()
    grid = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    found = quantizer(grid).detach().unique().numpy() / parameter_of(quantizer, "alpha")
    np.testing.assert_allclose(found, LEVELS[bits], atol=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_quantization_networks_inputs_take_levels_from_zero(bits: int) -> None:
    x = torch.linspace(0, 3, 20_001, dtype=torch.float64)
    quantizer = activation_quantizer(NAME, x, bits).eval()
    found = quantizer(x).detach().unique().numpy() / parameter_of(quantizer, "alpha")
    np.testing.assert_allclose(found, np.arange(2**bits), atol=1e-9)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_inputs_with_negative_values_take_the_levels_of_weights(bits: int) -> None:
    x = torch.linspace(-3, 3, 20_001, dtype=torch.float64)
    quantizer = activation_quantizer(NAME, x, bits).eval()
    found = quantizer(x).detach().unique().numpy() / parameter_of(quantizer, "alpha")
    top = 2 ** (bits - 1) - 1
    np.testing.assert_allclose(found, np.arange(-top, top + 1), atol=1e-9)


def test_binary_inputs_are_zero_or_one_whatever_their_sign() -> None:
    x = normal(1000)
    quantizer = activation_quantizer(NAME, x, 1).eval()
    found = quantizer(x).detach().unique().numpy() / parameter_of(quantizer, "alpha")
    np.testing.assert_allclose(found, [0, 1])


@pytest.mark.parametrize("bits", [2, 3])
def test_no_bias_of_an_input_with_negative_values_is_fixed(bits: int) -> None:
    x = normal(2000)
    quantizer = activation_quantizer(NAME, x, bits)
    beta = parameter_of(quantizer, "beta")
    centres = least_inertia_centres(x.numpy() * beta, 2**bits - 1)
    expected = (centres[1:] + centres[:-1]) / 2
    np.testing.assert_allclose(parameter_of(quantizer, "biases"), expected, atol=1e-5)


@pytest.mark.parametrize("bits", LEVELS)
def test_beta_is_five_quarters_of_the_largest_level_over_the_largest_weight(bits: str) -> None:
    w = normal(8, 100, scale=0.03)
    quantizer = weight_quantizer(NAME, w, bits, alpha="reciprocal")
    beta = 5 * max(LEVELS[bits]) / (4 * np.abs(w.numpy()).max())
    assert parameter_of(quantizer, "beta") == pytest.approx(beta, rel=1e-6)
    assert parameter_of(quantizer, "alpha") == pytest.approx(1 / beta, rel=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_beta_of_an_input_comes_from_the_sample(bits: int) -> None:
    x = normal(1000).clamp(min=0)
    quantizer = activation_quantizer(NAME, x, bits, alpha="reciprocal")
    beta = 5 * (2**bits - 1) / (4 * x.max().item())
    assert parameter_of(quantizer, "beta") == pytest.approx(beta, rel=1e-6)
    assert parameter_of(quantizer, "alpha") == pytest.approx(1 / beta, rel=1e-6)


@pytest.mark.parametrize("bits", LEVELS)
def test_alpha_of_a_weight_has_the_least_squared_error(bits: str) -> None:
    w = normal(8, 100, scale=0.03)
    quantizer = weight_quantizer(NAME, w, bits)
    beta, biases = parameter_of(quantizer, "beta"), parameter_of(quantizer, "biases")
    x = w.numpy().ravel().astype(np.float64)
    codes = np.array(LEVELS[bits])[(x[:, None] * beta >= biases).sum(1)]
    (alpha,), *_ = np.linalg.lstsq(codes[:, None], x, rcond=None)
    assert parameter_of(quantizer, "alpha") == pytest.approx(alpha, rel=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_alpha_of_an_input_has_the_least_squared_error(bits: int) -> None:
    x = normal(1000).clamp(min=0)
    quantizer = activation_quantizer(NAME, x, bits)
    beta, biases = parameter_of(quantizer, "beta"), parameter_of(quantizer, "biases")
    codes = (x.numpy()[:, None] * beta >= biases).sum(1).astype(np.float64)
    (alpha,), *_ = np.linalg.lstsq(codes[:, None], x.numpy(), rcond=None)
    assert parameter_of(quantizer, "alpha") == pytest.approx(alpha, rel=1e-5)


def test_alpha_is_positive_where_every_value_is_zero() -> None:
    assert parameter_of(activation_quantizer(NAME, torch.zeros(100), 2), "alpha") > 0


def test_the_single_bias_of_binary_weights_is_zero() -> None:
    w = normal(4, 100) + 0.3
    assert parameter_of(weight_quantizer(NAME, w, 1), "biases").tolist() == [0]


def test_the_biases_of_ternary_weights_are_minus_and_plus_a_twentieth() -> None:
    found = parameter_of(weight_quantizer(NAME, normal(4, 100), 2), "biases")
    np.testing.assert_allclose(found, [-0.05, 0.05], rtol=1e-6)


@pytest.mark.parametrize("bits", MORE_THAN_THREE_LEVELS)
def test_a_weights_biases_are_midpoints_of_k_means_centres_but_around_zero(bits: str) -> None:
    w = normal(4, 300)
    levels = LEVELS[bits]
    beta = 5 * max(levels) / (4 * np.abs(w.numpy()).max())
    centres = least_inertia_centres(beta * w.numpy().ravel(), len(levels))
    expected = (centres[1:] + centres[:-1]) / 2
    middle = levels.index(0)
    expected[middle - 1 : middle + 1] = [-0.05, 0.05]
    found = parameter_of(weight_quantizer(NAME, w, bits), "biases")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_an_inputs_biases_are_midpoints_of_the_means_of_what_they_divide(bits: int) -> None:
    x = normal(2000).abs()
    quantizer = activation_quantizer(NAME, x, bits)
    biases = parameter_of(quantizer, "biases")
    scaled = x.numpy() * parameter_of(quantizer, "beta")
    part = np.searchsorted(biases, scaled)
    means = np.array([scaled[part == i].mean() for i in range(2**bits)])
    np.testing.assert_allclose(biases, (means[1:] + means[:-1]) / 2, atol=1e-5)


def test_uniform_biases_are_evenly_spaced() -> None:
    found = activation_quantizer(NAME, normal(100).abs(), 3, biases="uniform")
    np.testing.assert_allclose(parameter_of(found, "biases"), np.arange(7) + 0.5)
    found = weight_quantizer(NAME, normal(4, 100), "3(±4)", biases="uniform")
    expected = [-3, -1.5, -0.5, 0.5, 1.5, 3]
    np.testing.assert_allclose(parameter_of(found, "biases"), expected, rtol=1e-6)
    found = weight_quantizer(NAME, normal(4, 100), 2, biases="uniform")
    np.testing.assert_allclose(parameter_of(found, "biases"), [-0.5, 0.5])


@pytest.mark.parametrize("bits", LEVELS)
def test_weights_step_where_beta_w_crosses_a_bias(bits: str) -> None:
    w = normal(4, 300)
    quantizer = weight_quantizer(NAME, w, bits).eval()
    thresholds = parameter_of(quantizer, "biases") / parameter_of(quantizer, "beta")
    levels = np.array(LEVELS[bits]) * parameter_of(quantizer, "alpha")
    below = quantizer(torch.from_numpy(thresholds - 1e-9)).detach().numpy()
    above = quantizer(torch.from_numpy(thresholds + 1e-9)).detach().numpy()
    np.testing.assert_allclose(below, levels[:-1], atol=1e-12)
    np.testing.assert_allclose(above, levels[1:], atol=1e-12)


def sigmoid(z: Array) -> Array:
    value: Array = 0.5 * (1 + np.tanh(z / 2))
    return value


@pytest.mark.parametrize("bits", LEVELS)
@pytest.mark.parametrize("epoch", [1, 4])
def test_in_training_a_weight_is_equation_7_with_its_exact_gradients(bits: str, epoch: int) -> None:
    w, g = normal(3, 40), normal(3, 40, seed=1)
    linear = nn.Linear(40, 3).double()
    linear.weight.data = w.clone()
    model = nn.Sequential(linear)
    handle = attach_everywhere(model, NAME, f"{bits}/32", temperature_rate=2.0)
    model.double().train()
    handle.on_epoch_start(epoch, 10, steps=1)
    quantizer = first_weight_quantizer(handle)
    linear.weight.backward(g)

    alpha, beta = parameter_of(quantizer, "alpha"), parameter_of(quantizer, "beta")
    biases, temperature = parameter_of(quantizer, "biases"), 2.0 * epoch
    scales = np.diff(LEVELS[bits])
    h = sigmoid(temperature * (beta * w.numpy()[..., None] - biases))
    y = alpha * ((scales * h).sum(-1) - scales.sum() / 2)
    slope = (scales * h * (1 - h)).sum(-1)
    np.testing.assert_allclose(linear.weight.detach().numpy(), y, rtol=1e-9, atol=1e-12)
    for leaf, expected in (
        (handle.layers[0].latent_weight, g.numpy() * alpha * beta * temperature * slope),
        (quantizer.get_parameter("alpha"), (g.numpy() * y / alpha).sum()),
        (
            quantizer.get_parameter("beta"),
            (g.numpy() * alpha * temperature * w.numpy() * slope).sum(),
        ),
    ):
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-8, atol=1e-12)


def test_the_function_is_soft_in_training_and_hard_in_evaluation() -> None:
    w = normal(4, 100)
    quantizer = weight_quantizer(NAME, w, "3(±4)")
    assert len(quantizer(w).unique()) > 300
    assert len(quantizer.eval()(w).unique()) <= 7


@pytest.mark.parametrize("rate", [5.0, 10.0])
def test_the_temperature_is_the_rate_times_the_epoch_if_a_rate_is_given(rate: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    handle = attach_everywhere(
        model,
        NAME,
        "2/2",
        calibration=[torch.randn(8, 3)],
        temperature_rate=rate,
        phases=[0, 0, 1],
    )
    for epoch in (1, 2, 30):
        handle.on_epoch_start(epoch, 30, steps=1)
        found = [float(b) for name, b in model.named_buffers() if name.endswith("temperature")]
        assert found == [rate * epoch] * 4


@pytest.mark.parametrize("learn_biases", [False, True])
def test_biases_are_frozen_unless_they_are_to_be_learned(learn_biases: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    handle = attach_everywhere(model, NAME, "3(±2)/32", learn_biases=learn_biases)
    quantizer = first_weight_quantizer(handle)
    groups = handle.parameter_groups(lr=0.1, weight_decay=0.0)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    before = parameter_of(quantizer, "biases"), parameter_of(quantizer, "alpha")
    model(torch.ones(3, 6)).square().sum().backward()
    optimizer.step()
    assert np.array_equal(parameter_of(quantizer, "biases"), before[0]) is not learn_biases
    assert not np.array_equal(parameter_of(quantizer, "alpha"), before[1])


def test_learned_biases_get_the_exact_gradient() -> None:
    w, g = normal(3, 40), normal(3, 40, seed=1)
    quantizer = weight_quantizer(NAME, w, "3(±4)", learn_biases=True)
    quantizer(w).backward(g)
    alpha, beta, b = (parameter_of(quantizer, name) for name in ("alpha", "beta", "biases"))
    h = sigmoid(5.0 * (beta * w.numpy()[..., None] - b))
    scales = np.diff(LEVELS["3(±4)"])
    expected = (g.numpy()[..., None] * -alpha * 5.0 * scales * h * (1 - h)).sum((0, 1))
    found = quantizer.get_parameter("biases").grad
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)


def test_what_quantizers_learn_has_no_weight_decay() -> None:
    handle = attach_everywhere(nn.Sequential(nn.Linear(6, 5)), NAME, "2/32")
    network, own = handle.parameter_groups(lr=0.1, weight_decay=1e-4)
    assert network["weight_decay"] == 1e-4
    assert own["weight_decay"] == 0
    assert len(own["params"]) == 2


# Training: phases and temperature ---------------------------------------------------------------


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
        placement="layer_inputs",
        layers=["2", "5"],
        calibration=[x for x, _ in batches(2)],
        **options,
    )


def train(handle: Handle, steps: int, lr: float = 0.05) -> None:
    optimizer = torch.optim.SGD(handle.parameter_groups(lr=lr, weight_decay=0.0), lr=lr)
    handle.model.train()
    for step, (x, target) in enumerate(batches(steps), 1):
        start_step(handle, step, steps)
        optimizer.zero_grad()
        nn.functional.cross_entropy(handle.model(x), target).backward()
        handle._before_optimizer_step()
        optimizer.step()
        handle._after_optimizer_step()


def temperatures(handle: Handle, kind: str) -> list[float]:
    quantizers = [getattr(layer, f"{kind}_quantizer") for layer in handle.layers]
    return [float(quantizer.temperature) for quantizer in quantizers]


def parameters(handle: Handle, kind: str) -> list[float]:
    quantizers = [getattr(layer, f"{kind}_quantizer") for layer in handle.layers]
    return [float(p) for q in quantizers for p in (q.alpha.detach(), q.beta.detach())]


def activations_are_float(handle: Handle) -> bool:
    """Return whether, in training, activations pass their quantizers unchanged."""
    x = torch.linspace(0, 1, 50)
    quantizers = [
        place.activation_quantizer for place in handle.places if place.activation_quantizer
    ]
    return all(torch.equal(quantizer.train()(x), x) for quantizer in quantizers)


def test_weights_are_trained_first_then_activations_then_both() -> None:
    handle = attached("2/2", temperature_rate=5, lr_factor=1)
    seen = []
    for epoch in range(1, 10):
        handle.on_epoch_start(epoch, 9, steps=1)
        before = parameters(handle, "weight"), parameters(handle, "activation")
        latent = [layer.latent_weight.detach().clone() for layer in handle.layers]
        is_float = activations_are_float(handle)
        train(handle, 2)
        moved = [
            all(a != b for a, b in zip(old, parameters(handle, kind), strict=True))
            for old, kind in zip(before, ("weight", "activation"), strict=True)
        ]
        stayed = [
            all(a == b for a, b in zip(old, parameters(handle, kind), strict=True))
            for old, kind in zip(before, ("weight", "activation"), strict=True)
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


@pytest.mark.parametrize("epochs", [6, 21, 55])
def test_temperatures_end_at_the_same_values_in_any_number_of_epochs(epochs: int) -> None:
    handle = attached("2/2", final_temperature=300, final_activation_temperature=40)
    for epoch in range(1, epochs + 1):
        handle.on_epoch_start(epoch, epochs, steps=1)
    assert temperatures(handle, "weight") == pytest.approx([300, 300])
    assert temperatures(handle, "activation") == pytest.approx([40, 40])


def test_by_default_weights_end_at_the_papers_temperature_and_activations_below_it() -> None:
    handle = attached("2/2")
    handle.on_epoch_start(12, 12, steps=1)
    assert temperatures(handle, "weight") == pytest.approx([55 * 5.0] * 2)
    assert temperatures(handle, "activation") == pytest.approx([100.0] * 2)


def test_a_temperature_rises_evenly_over_the_epochs_that_train_its_function() -> None:
    handle = attached("2/2", final_temperature=40, final_activation_temperature=20)
    weights, activations = [], []
    for epoch in range(1, 7):
        handle.on_epoch_start(epoch, 6, steps=1)
        weights.append(temperatures(handle, "weight")[0])
        activations.append(temperatures(handle, "activation")[0])
    assert weights == pytest.approx([10, 20, 20, 20, 30, 40])
    assert activations[2:] == pytest.approx([5, 10, 15, 20])


def test_the_papers_recipe_raises_the_temperature_by_the_papers_rate() -> None:
    options = method_class(NAME).paper_options
    handle = attached("2/2", phases=[0, 0, 1], **options)
    for epoch in (1, 55):
        handle.on_epoch_start(epoch, 55, steps=1)
        assert temperatures(handle, "weight") == [5.0 * epoch] * 2
        assert temperatures(handle, "activation") == [5.0 * epoch] * 2


def test_in_the_papers_epochs_the_default_of_weights_is_the_papers_rate() -> None:
    handle = attached("2/32")
    for epoch in (1, 20, 55):
        handle.on_epoch_start(epoch, 55, steps=1)
        assert temperatures(handle, "weight") == pytest.approx([5.0 * epoch] * 2)


def test_an_epoch_raises_the_temperature_of_what_it_trains() -> None:
    handle = attached("2/2", temperature_rate=10)
    weights, inputs = [], []
    for epoch in range(1, 7):
        handle.on_epoch_start(epoch, 6, steps=1)
        weights.append(temperatures(handle, "weight"))
        inputs.append(temperatures(handle, "activation"))
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
        handle.on_epoch_start(epoch, epochs, steps=1)
        if not activations_are_float(handle):
            with_inputs.append(epoch)
            if all(q.alpha.requires_grad for q in handle.quantizers):
                both.append(epoch)
    assert with_inputs[0] == first_with_inputs
    assert both[0] == both_from


@pytest.mark.parametrize("bits", ["2/32", "32/2"])
def test_there_are_no_phases_where_only_one_kind_is_quantized(bits: str) -> None:
    handle = attached(bits, temperature_rate=5)
    for epoch in (1, 2, 9):
        handle.on_epoch_start(epoch, 9, steps=1)
        kind = "weight" if bits == "2/32" else "activation"
        assert temperatures(handle, kind) == [5.0 * epoch] * 2
        before = parameters(handle, kind)
        train(handle, 1)
        assert before != parameters(handle, kind)


def test_the_temperature_can_rise_with_every_step() -> None:
    handle = attached("2/32", temperature_rate=10, temperature_by="step")
    found = []
    for epoch in (1, 2):
        handle.on_epoch_start(epoch, 2, steps=1)
        for step in range(1, 5):
            start_step(handle, step, 4)
            found.append(temperatures(handle, "weight")[0])
    assert found == [2.5, 5, 7.5, 10, 12.5, 15, 17.5, 20]


def test_a_fixed_quantizers_temperature_does_not_rise_with_steps() -> None:
    handle = attached("2/2", temperature_rate=5, temperature_by="step")
    handle.on_epoch_start(2, 3, steps=1)
    start_step(handle, 1, 2)
    assert temperatures(handle, "weight") == [5.0, 5.0]
    assert temperatures(handle, "activation") == [2.5, 2.5]


def test_without_steps_being_told_the_temperature_is_that_of_the_epoch() -> None:
    handle = attached("2/32", temperature_rate=5)
    handle.on_epoch_start(3, 9, steps=1)
    start_step(handle, 1, 100)
    assert temperatures(handle, "weight") == [15.0, 15.0]


# One function for all layers --------------------------------------------------------------------


def test_a_shared_function_is_initialised_from_every_layer() -> None:
    handle = attached("3(±4)/2", share="network", alpha="reciprocal")
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
        handle.on_epoch_start(1, 2, steps=1)
        train(handle, 3)
        handle.harden()
        values = torch.cat([layer.module.weight.flatten() for layer in handle.layers])  # type: ignore[operator]
        assert len(values.unique()) in (count, count - 1)  # layers have the zero in common


def test_weights_and_activations_share_no_function_even_at_the_same_levels() -> None:
    handle = attached("2/2", share="network", weight_levels=[0, 1, 2, 3])
    first = handle.layers[0]
    assert first.weight_quantizer is not first.activation_quantizer


# Options ----------------------------------------------------------------------------------------


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
        ({"weight_levels": [-2, -1, 0, 1, 2]}, "2/32", "5 given levels, not the levels of 2"),
        ({"weight_levels": [-1, 0, 1]}, "3(±4)/32", "3 given levels, not the levels of 3(±4)"),
    ],
)
def test_levels_that_do_not_fit_are_refused(
    options: dict[str, Any], bits: str, reason: str
) -> None:
    refusal = build_method(NAME, options).supports(BitWidths.parse(bits), "classification")
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_levels": [1, 0]}, "ascending"),
        ({"weight_levels": [1]}, "two levels"),
        ({"weight_levels": list(range(257))}, "to 256"),
        ({"phases": [1, 1, 0]}, "phases"),
        ({"phases": [-1, 1, 1]}, "phases"),
        ({"temperature_rate": 0}, "temperature_rate"),
        ({"temperature_rate": float("nan")}, "temperature_rate"),
        ({"final_temperature": 0}, "final_temperature"),
        ({"final_activation_temperature": -1}, "final_activation_temperature"),
    ],
)
def test_a_senseless_value_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(QbenchError, match=message):
        build_method(NAME, options)


def test_alpha_and_beta_have_a_learning_rate_of_their_own_and_no_weight_decay() -> None:
    handle = attached("2/2", lr_factor=0.1)
    network_group, own = handle.parameter_groups(lr=0.5, weight_decay=1e-4)
    assert own["lr"] == pytest.approx(0.05)
    assert own["weight_decay"] == 0.0
    assert len(own["params"]) == 8
    assert network_group["weight_decay"] == 1e-4
    latent = {id(layer.latent_weight) for layer in handle.layers}
    assert latent <= {id(p) for p in network_group["params"]}


# The released code ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "lr", "bits"),
    [
        *((5.0, 0.01, bits) for bits in ("1/32", "2/32", "3(±4)/32", "1/1", "3(±4)/2")),
        *((30.0, 1e-3, bits) for bits in ("1/32", "2/32", "3(±4)/32", "1/1", "3(±4)/2")),
        # Where T is at most 2000, hardly a weight has a gradient, unless its slope is of T = 1.
        *[(3000.0, 1e-5, "1/32"), (3000.0, 0.01, "2/32"), (3000.0, 0.01, "3(±4)/32")],
    ],
)
def test_ten_official_steps_are_those_of_the_released_code(
    bits: str, rate: float, lr: float
) -> None:
    options: dict[str, Any] = {
        "compat": "official", "alpha": "reciprocal", "lr_factor": 1, "temperature_rate": rate,
        "phases": [0, 0, 1],
    }  # fmt: skip
    handle = attached(bits, **options)
    found: list[Any] = [layer.weight_quantizer for layer in handle.layers]
    found += [place.activation_quantizer for place in handle.places if place.activation_quantizer]
    biases = [quantizer.biases.tolist() for quantizer in found]
    betas = [float(quantizer.beta.detach()) for quantizer in found[2:]]
    expected: Any = released_training(
        network(), batches(10), BitWidths.parse(bits), biases, betas, rate, lr
    )

    groups = handle.parameter_groups(lr=lr, weight_decay=DECAY)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    handle.model.train()
    handle.on_epoch_start(1, 1, steps=1)
    for x, target in batches(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(handle.model(x), target).backward()
        every = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(every, CLIP)
        handle._before_optimizer_step()
        optimizer.step()
        handle._after_optimizer_step()

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


def test_in_the_official_mode_binary_activations_step_at_a_twentieth() -> None:
    x = normal(1000).abs()
    official = activation_quantizer(NAME, x, 1, compat="official")
    assert parameter_of(official, "biases") == pytest.approx([0.05])
    assert parameter_of(activation_quantizer(NAME, x, 1), "biases")[0] > 0.1
    uniform = activation_quantizer(NAME, x, 1, compat="official", biases="uniform")
    assert parameter_of(uniform, "biases") == pytest.approx([0.5])


@pytest.mark.parametrize("bits", ["1/1", "3(±4)/2"])
@pytest.mark.parametrize("compat", ["paper", "official"])
def test_a_float64_network_is_trained(bits: str, compat: str) -> None:
    handle = attach(
        network().double(),
        NAME,
        bits=bits,
        placement="layer_inputs",
        layers=["2", "5"],
        calibration=[x.double() for x, _ in batches(2)],
        compat=compat,
        lr_factor=1,
    )
    before = parameters(handle, "weight")
    optimizer = torch.optim.SGD(handle.parameter_groups(lr=0.1, weight_decay=0.0), lr=0.1)
    handle.on_epoch_start(1, 1, steps=1)
    for x, target in batches(1):
        nn.functional.cross_entropy(handle.model(x.double()), target).backward()
        handle._before_optimizer_step()
        optimizer.step()
        handle._after_optimizer_step()
    assert all(old != new for old, new in zip(before, parameters(handle, "weight"), strict=True))


def test_the_official_step_at_zero_is_not_taken() -> None:
    official: Any = attached("1/32", compat="official").layers[0].weight_quantizer
    paper: Any = attached("1/32").layers[0].weight_quantizer
    zero = torch.zeros(3)
    assert (official.eval()(zero) < 0).all()
    assert (paper.eval()(zero) > 0).all()
