"""Quant-Noise for integers (Fan, Stock et al., ICLR 2021, arXiv:2004.07320)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.ao.quantization.observer import MinMaxObserver

from qbench.method import Quantizer
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import activation_quantizer, weight_quantizer
from tests.helpers.tensors import SHAPE, Array, normal


def released(w: Array, bits: int, of: Array) -> Array:
    """Return what fairseq's ``emulate_int`` gives over the range of a tensor."""
    observer = MinMaxObserver(quant_min=0, quant_max=2**bits - 1)
    observer(torch.from_numpy(of))
    scale, zero = (float(each) for each in observer.calculate_qparams())
    result: Array = (np.clip(np.round(w / scale + zero), 0, 2**bits - 1) - zero) * scale
    return result


@pytest.mark.parametrize("bits", [4, 8])
def test_quant_noise_quantizes_all_weights_in_evaluation(bits: int) -> None:
    w = normal(*SHAPE)
    found = weight_quantizer("quant_noise", w, bits).eval()(w).detach().numpy()
    np.testing.assert_allclose(found, released(w.numpy(), bits, w.numpy()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_quant_noise_quantizes_a_share_of_the_weights_in_training(p: float) -> None:
    w, g = normal(40, 50), normal(40, 50, seed=1)
    quantizer = weight_quantizer("quant_noise", w, 4, p=p)
    hard = released(w.numpy(), 4, w.numpy())
    shares = []
    for _ in range(3):
        assert isinstance(quantizer, Quantizer)
        quantizer.observe(w)
        found = quantizer(w).detach().numpy()
        noisy = found != w.numpy()
        np.testing.assert_allclose(found, np.where(noisy, hard, w.numpy()), rtol=1e-5, atol=1e-7)
        assert noisy.mean() == pytest.approx(p, abs=0.05)
        np.testing.assert_array_equal(quantizer(w).detach().numpy(), found)  # read again
        shares.append(noisy)
    assert (shares[0] != shares[1]).any()
    np.testing.assert_array_equal(gradient(quantizer, w, g), g.numpy())


def test_quant_noise_quantizes_a_share_of_the_activations_in_training() -> None:
    x, g = normal(40, 50), normal(40, 50, seed=1)
    quantizer = activation_quantizer("quant_noise", x, 4, p=0.3)
    found, hard = quantizer(x).detach().numpy(), released(x.numpy(), 4, x.numpy())
    noisy = found != x.numpy()
    np.testing.assert_allclose(found, np.where(noisy, hard, x.numpy()), rtol=1e-5, atol=1e-6)
    assert noisy.mean() == pytest.approx(0.3, abs=0.05)
    np.testing.assert_array_equal(gradient(quantizer, x, g), g.numpy())


def test_quant_noise_takes_the_range_of_activations_again_after_some_passes() -> None:
    x = normal(5, 3, 4, 4)
    quantizer = activation_quantizer("quant_noise", x, 4, update_steps=2)
    assert isinstance(quantizer, Quantizer)
    for of in (x, 3 * x):
        found = quantizer.eval()(x).detach().numpy()
        expected = released(x.numpy(), 4, of.numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        for _ in range(2):
            quantizer.observe(3 * x)


def test_quant_noise_is_uniform_and_differs_from_pass_to_pass() -> None:
    x = torch.full((400, 50), 0.3, dtype=torch.float64)
    x[0, :2] = torch.tensor([-1.0, 1.0])
    quantizer = activation_quantizer("quant_noise", x, 4)
    assert isinstance(quantizer, Quantizer)
    masks = []
    for _ in range(3):
        masks.append((quantizer(x) != x).numpy()[1:])
        quantizer.observe(x)
    for mask in masks:
        for part in (mask[::2], mask[1::2], mask[:, ::5], mask[:, :7]):
            assert part.mean() == pytest.approx(0.5, abs=0.03)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (masks[one] == masks[other]).mean() == pytest.approx(0.5, abs=0.03)
