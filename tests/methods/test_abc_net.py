"""ABC-Net (Lin, Zhao, Pan, NeurIPS 2017, arXiv:1711.11294).

Weights follow Eq. 2 to 4, activations Eq. 6 to 9.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.quant.attach import attach
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import activation_quantizer, quantized_weight, weight_quantizer
from tests.helpers.references import sign
from tests.helpers.tensors import SHAPE, gaussian_quantiles, normal


@pytest.mark.parametrize("bases", [1, 2, 3, 5])
def test_abc_net_weights_are_the_projection_on_its_bases(bases: int) -> None:
    w = normal(*SHAPE) + 0.1
    found = quantized_weight("abc_net", w, bases)
    v = w.numpy()
    shifts = [0.0] if bases == 1 else [-1 + 2 * i / (bases - 1) for i in range(bases)]
    b = np.stack([sign(v - v.mean() + u * v.std()).ravel() for u in shifts], 1)
    alpha = np.linalg.lstsq(b, v.ravel(), rcond=None)[0]
    np.testing.assert_allclose(found.ravel(), b @ alpha, atol=1e-12)
    np.testing.assert_allclose(b.T @ (v.ravel() - found.ravel()), 0, atol=1e-10)
    assert len(np.unique(found.round(12))) <= bases + 1


def test_one_base_of_abc_net_is_the_sign_about_the_mean() -> None:
    w = normal(*SHAPE) + 0.2
    found = quantized_weight("abc_net", w, 1)
    np.testing.assert_array_equal(np.sign(found), sign(w.numpy() - w.numpy().mean()))


def test_abc_net_weight_gradient_is_the_sum_of_its_scales() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    v = w.numpy()
    b = np.stack([sign(v - v.mean() + u * v.std()).ravel() for u in (-1, 0, 1)], 1)
    alpha = np.linalg.lstsq(b, v.ravel(), rcond=None)[0]
    found = gradient(weight_quantizer("abc_net", w, 3), w, g)
    np.testing.assert_allclose(found, g.numpy() * alpha.sum(), rtol=1e-9)


def test_abc_net_inputs_are_sums_of_shifted_signs_with_the_stated_gradients() -> None:
    quantizer = activation_quantizer("abc_net", normal(100, seed=2), 2)
    with torch.no_grad():
        quantizer.get_parameter("shift").copy_(torch.tensor([0.5, 0.1]))
        quantizer.get_parameter("scale").copy_(torch.tensor([0.75, 0.25]))
    x = torch.tensor([-0.6, -0.3, 0.2, 0.45, 0.8, 2.0], dtype=torch.float64)
    v = x.numpy()
    bases = [np.where(np.clip(v + shift, 0, 1) >= 0.5, 1.0, -1.0) for shift in (0.5, 0.1)]
    np.testing.assert_allclose(quantizer(x).detach().numpy(), 0.75 * bases[0] + 0.25 * bases[1])
    window = [(v + shift >= 0) & (v + shift <= 1) for shift in (0.5, 0.1)]
    g = normal(6, seed=3)
    found = gradient(quantizer, x, g)
    np.testing.assert_allclose(found, g.numpy() * (0.75 * window[0] + 0.25 * window[1]))
    grads = {name: p.grad.numpy() for name, p in quantizer.named_parameters() if p.grad is not None}
    np.testing.assert_allclose(grads["scale"], [(g.numpy() * b).sum() for b in bases])
    expected = [0.75 * (g.numpy() * window[0]).sum(), 0.25 * (g.numpy() * window[1]).sum()]
    np.testing.assert_allclose(grads["shift"], expected)


def test_more_bases_that_contain_the_fewer_leave_less_error() -> None:
    w = normal(40, 40) + 0.1
    error = {m: ((w.numpy() - quantized_weight("abc_net", w, m)) ** 2).mean() for m in (1, 2, 3, 5)}
    assert error[5] < error[3]  # u is −1, −½, 0, ½, 1, of which three are −1, 0, 1
    assert error[3] < min(error[1], error[2])  # of which one is 0 and two are −1, 1


def test_abc_net_thresholds_lie_within_one_deviation_about_the_mean() -> None:
    w = (3 * gaussian_quantiles(4001) + 0.5)[None]
    found = quantized_weight("abc_net", w, 3)[0]
    v = w.numpy()[0]
    steps = v[1:][np.diff(found) != 0]
    np.testing.assert_allclose(steps, [0.5 - 3, 0.5, 0.5 + 3], atol=0.01)


def test_abc_net_binary_activations_are_the_only_nonlinearity() -> None:
    for bits, relu, kind in (
        ("2/2", nn.ReLU, nn.Identity),
        ("2/2", nn.ReLU6, nn.Identity),
        ("2/32", nn.ReLU, nn.ReLU),
    ):
        model = nn.Sequential(nn.Linear(8, 8), relu(), nn.Linear(8, 2))
        handle = attach(model, "abc_net", bits=bits, layers=["2"], calibration=[torch.randn(4, 8)])
        assert type(list(handle.model.children())[1]) is kind
