"""ADMM for extremely low bit networks (Leng et al., AAAI 2018, arXiv:1707.09870).

The tests cover the projection, the penalty of Eq. 5, the update of the dual variable and the
extragradient steps.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qbench import registry
from qbench.quant.attach import attach
from tests.helpers.quantizers import (
    attach_to_linear,
    first_weight_quantizer,
    latent_weight,
    start_step,
    used_weight,
    weight_quantizer,
)
from tests.helpers.references import sign
from tests.helpers.tensors import SHAPE, normal

CODES = {
    "1": [-1, 1],
    "2": [-1, 0, 1],
    "3(±2)": [-2, -1, 0, 1, 2],
    "3(±4)": [-4, -2, -1, 0, 1, 2, 4],
}


@pytest.mark.parametrize("bits", CODES)
def test_admm_projection_is_a_fixed_point_of_its_alternation(bits: str) -> None:
    v = normal(*SHAPE)
    found = weight_quantizer("admm", v, bits).eval()(v).numpy()
    codes = np.array(CODES[bits], dtype=float)
    alpha = np.abs(found)[found != 0].min()
    q = found / alpha
    assert np.isin(q.round(9), codes).all()
    nearest = codes[np.abs(v.numpy()[..., None] / alpha - codes).argmin(-1)]
    np.testing.assert_array_equal(q.round(9), nearest)
    assert alpha == pytest.approx((v.numpy() * q).sum() / (q * q).sum())
    if bits == "1":
        assert alpha == pytest.approx(np.abs(v.numpy()).mean())
    again = weight_quantizer("admm", torch.from_numpy(found), bits).eval()(torch.from_numpy(found))
    np.testing.assert_allclose(again.numpy(), found, rtol=1e-12)


def test_admm_penalty_pulls_weights_to_g_minus_lambda() -> None:
    handle = attach_to_linear("admm", "2/32", rho=0.3)
    split = first_weight_quantizer(handle)
    split.get_buffer("dual").copy_(normal(5, 8, seed=6))
    w, g = latent_weight(handle), split.get_buffer("projected")
    handle.regularization_loss().backward()
    assert w.grad is not None
    expected = 0.3 * (w.detach() - g + split.get_buffer("dual"))
    np.testing.assert_allclose(w.grad.numpy(), expected.numpy(), rtol=1e-12)


def test_admm_dual_moves_by_what_is_left_between_w_and_g() -> None:
    handle = attach_to_linear("admm", "2/32")
    split = first_weight_quantizer(handle)
    before = split.get_buffer("dual").clone()
    handle.on_epoch_start(1, 3, steps=1)
    assert torch.equal(split.get_buffer("dual"), before)
    handle.on_epoch_start(2, 3, steps=1)
    moved = split.get_buffer("dual") - before
    expected = latent_weight(handle).detach() - split.get_buffer("projected")
    np.testing.assert_allclose(moved.numpy(), expected.numpy(), atol=1e-15)


def test_admm_brings_a_quadratic_to_a_quantized_point() -> None:
    handle = attach_to_linear("admm", "2/32", rho=1.0, extragradient=False)
    target = normal(5, 8, seed=7)
    optimizer = torch.optim.SGD([latent_weight(handle)], lr=0.2)
    for epoch in range(1, 60):
        handle.on_epoch_start(epoch, 60, steps=1)
        for _ in range(20):
            optimizer.zero_grad()
            (
                0.5 * (latent_weight(handle) - target).square().sum() + handle.regularization_loss()
            ).backward()
            optimizer.step()
    split = first_weight_quantizer(handle)
    left = latent_weight(handle).detach() - split.get_buffer("projected")
    assert float(left.norm() / target.norm()) < 0.02


def test_admm_correction_starts_where_the_prediction_did() -> None:
    handle = attach_to_linear("admm", "2/32")
    w = latent_weight(handle)
    start = w.detach().clone()
    slopes = normal(2, 5, 8, seed=8)
    optimizer = torch.optim.SGD([w], lr=0.1)
    for slope in slopes:
        w.grad = slope.clone()
        handle._before_optimizer_step()
        optimizer.step()
        handle._after_optimizer_step()
    np.testing.assert_allclose(w.detach().numpy(), (start - 0.1 * slopes[1]).numpy(), rtol=1e-12)


@pytest.mark.parametrize("bits", CODES)
@pytest.mark.parametrize("size", [1_000, 40_000])
def test_hardly_any_scale_brings_admm_codes_closer(bits: str, size: int) -> None:
    v = normal(20, size // 20)
    found = weight_quantizer("admm", v, bits).eval()(v).numpy()
    codes = np.array(CODES[bits], dtype=float)
    scales = np.linspace(0.02, 1, 400) * np.abs(v.numpy()).max()
    errors = []
    for alpha in scales:
        q = codes[np.abs(v.numpy()[..., None] / alpha - codes).argmin(-1)]
        errors.append(((v.numpy() - alpha * q) ** 2).sum())
    assert ((v.numpy() - found) ** 2).sum() <= 1.0005 * min(errors)


def test_admm_penalty_is_half_rho_times_the_squared_distance() -> None:
    handle = attach_to_linear("admm", "3(±4)/32", rho=0.3)
    split = first_weight_quantizer(handle)
    split.get_buffer("dual").copy_(normal(5, 8, seed=6))
    split.get_buffer("projected").copy_(normal(5, 8, seed=7))
    w = latent_weight(handle).detach().numpy()
    distance = w - normal(5, 8, seed=7).numpy() + normal(5, 8, seed=6).numpy()
    assert float(handle.regularization_loss().detach()) == pytest.approx(0.15 * (distance**2).sum())


def test_admm_trains_the_float_weight_and_ends_with_the_projection_of_w_plus_lambda() -> None:
    handle = attach_to_linear("admm", "1/32")
    split = first_weight_quantizer(handle)
    w, dual = latent_weight(handle).detach().clone(), normal(5, 8, seed=6)
    split.get_buffer("dual").copy_(dual)
    handle.model.train()
    assert torch.equal(used_weight(handle), w)
    hardened = handle.harden()
    v = (w + dual).numpy()
    expected = np.abs(v).mean() * sign(v)
    found = next(iter(hardened.parameters())).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("updates", [1, 3])
def test_admm_dual_moves_so_often_in_an_epoch(updates: int) -> None:
    handle = attach_to_linear("admm", "2/32", updates=updates)
    split = first_weight_quantizer(handle)
    moves = 0
    for epoch in (1, 2, 3):
        before = split.get_buffer("dual").clone()
        handle.on_epoch_start(epoch, 3, steps=1)
        for step in range(1, 13):
            moves += not torch.equal(split.get_buffer("dual"), before)
            before = split.get_buffer("dual").clone()
            start_step(handle, step, 12)
        moves += not torch.equal(split.get_buffer("dual"), before)
    assert moves == 3 * updates - 1  # none before the first step of all


def test_admm_predictions_and_corrections_alternate() -> None:
    handle = attach_to_linear("admm", "2/32")
    w = latent_weight(handle)
    start, slopes = w.detach().clone(), normal(5, 5, 8, seed=8)
    optimizer = torch.optim.SGD([w], lr=0.1)
    found = []
    for slope in slopes:
        w.grad = slope.clone()
        handle._before_optimizer_step()
        optimizer.step()
        handle._after_optimizer_step()
        found.append((w.detach() - start).numpy() / -0.1)
    first, second, third, fourth, fifth = slopes.numpy()
    expected = [first, second, second + third, second + fourth, second + fourth + fifth]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_extragradient_makes_admm_contract_where_plain_steps_do_not() -> None:
    # f(a, b) = a·b in a saddle's field (b, −a): plain steps spiral out, extragradient ones in.
    sizes = {}
    for extragradient in (False, True):
        handle = attach_to_linear("admm", "2/32", extragradient=extragradient)
        w = latent_weight(handle)
        optimizer = torch.optim.SGD([w], lr=0.3)
        begin = float(w.detach().norm())
        for _ in range(20):
            w.grad = torch.cat([w.detach()[:, 4:], -w.detach()[:, :4]], 1)
            handle._before_optimizer_step()
            optimizer.step()
        sizes[extragradient] = float(w.detach().norm()) / begin
    assert sizes[False] == pytest.approx((1 + 0.3**2) ** 10)
    # A pair multiplies by 1 − η² − iη.
    assert sizes[True] == pytest.approx(((1 - 0.3**2) ** 2 + 0.3**2) ** 5)


def test_admm_projects_with_codes_on_the_weights_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    def project(v: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        devices.append((v.device.type, codes.device.type))
        return v

    module = registry.method_class("admm").__module__
    monkeypatch.setattr(f"{module}.project", project)
    weight_quantizer("admm", torch.empty(SHAPE, device="meta"), "2")
    assert devices == [("meta", "meta")]


def test_admm_updates_from_w_and_not_from_a_prediction() -> None:
    handle = attach_to_linear("admm", "2/32", updates=1)
    split, w = first_weight_quantizer(handle), latent_weight(handle)
    start, slopes = w.detach().clone().numpy(), normal(3, 5, 8, seed=8)
    optimizer = torch.optim.SGD([w], lr=0.1)
    handle.attach_optimizer(optimizer)
    handle.on_epoch_start(1, 2, steps=3)
    for slope in slopes:
        w.grad = slope.clone()
        optimizer.step()
    # A pair, and the step that is left over: W − η g₂ − η g₃, both from W.
    expected = start - 0.1 * (slopes[1] + slopes[2]).numpy()
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-12)
    dual = split.get_buffer("dual").clone()
    handle.on_epoch_start(2, 2, steps=3)
    moved = (split.get_buffer("dual") - dual).numpy()
    np.testing.assert_allclose(moved, expected - split.get_buffer("projected").numpy(), atol=1e-12)


def test_admm_puts_all_parameters_back_for_the_correction() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3)
    ).double()
    handle = attach(network, "admm", bits="2/32", layers=["0"])
    parameters = dict(handle.model.named_parameters())
    optimizer = torch.optim.SGD(handle.parameter_groups(0.1, 0), lr=0.1)
    handle.attach_optimizer(optimizer)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    handle.on_epoch_start(1, 1, steps=2)
    for step in (1, 2):
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, step)
        optimizer.step()
    assert len(parameters) == 6
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * 2)
