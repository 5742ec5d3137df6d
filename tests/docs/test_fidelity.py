"""Tests of the fidelity page: it is up to date, and its transcriptions are right.

The expected values are computed here in another way: by torch's own kernels, which MQBench
calls, or from the formula in numpy.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import Tensor

from docs.tools.fidelity import bwn, dorefa, every_method, hwgq, libraries, probe, sources
from docs.tools.fidelity.__main__ import main
from qbench import registry
from qbench.quant.options import build_method
from qbench.report.figures.style import STYLE

DOCS = Path(__file__).parents[2] / "docs"
Function = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def weight() -> Tensor:
    """The page's tensor."""
    w: Tensor = probe.SCALE * probe.tensor()
    return w


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the tool writes into."""
    folder = tmp_path_factory.mktemp("docs")
    main(["--output", str(folder)])
    return folder


def quantized(name: str, bits: int, x: Tensor, kind: str = "weight") -> Tensor:
    """A tensor through qbench's method of that name."""
    method, layer = build_method(name, {}), probe.layer_of(bits, kind)
    values: Tensor = probe.built_quantizer(method, layer, x, kind)(x)
    return values.detach()


def slopes(function: Function, x: Tensor) -> Tensor:
    """Its derivative at every element."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


# The page ------------------------------------------------------------------------------------


def test_the_page_is_what_its_script_writes(written: Path) -> None:
    assert (DOCS / "fidelity.md").read_bytes() == (written / "fidelity.md").read_bytes(), (
        "run `python -m docs.tools.fidelity` and commit what it writes"
    )


def test_every_figure_is_there(written: Path) -> None:
    page = (written / "fidelity.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\((\S+)\)", page)
    assert len(shown) == 7
    for folder in (written, DOCS):
        assert {f"fidelity/{path.name}" for path in (folder / "fidelity").iterdir()} == set(shown)
        assert all((folder / path).stat().st_size > 0 for path in shown)


def test_a_figure_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    with mpl.rc_context(STYLE):
        for name in "ab":
            dorefa.activations(tmp_path / name)
    first, second = ((tmp_path / name / "dorefa_inputs.svg").read_bytes() for name in "ab")
    assert first == second
    assert b"<dc:date>" not in first


def test_every_link_leads_to_one_file_at_one_commit(written: Path) -> None:
    page = (written / "fidelity.md").read_text(encoding="utf-8")
    defined = re.findall(r"^\[([^\]]+)\]: (\S+)$", page, flags=re.MULTILINE)
    assert len(dict(defined)) == len(defined) == len(sources.READ)
    assert set(re.findall(r"\]\[([^\]]+)\]", page)) == set(dict(defined))
    for code in sources.READ:
        assert re.fullmatch("[0-9a-f]{40}", code.commit)


def test_tables_are_whole(written: Path) -> None:
    lines = (written / "fidelity.md").read_text(encoding="utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|")


# DoReFa-Net ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3])
def test_dorefa_levels_and_thresholds(weight: Tensor, bits: int) -> None:
    n = 2**bits - 1
    largest = float(weight.abs().max())
    function = libraries.tensorpack_weight(bits, weight)
    thresholds, levels = probe.steps(function, -largest, largest)
    assert levels == pytest.approx([2 * i / n - 1 for i in range(n + 1)], abs=1e-6)
    at = [math.atanh((2 * (i + 0.5) / n - 1) * math.tanh(largest)) for i in range(n)]
    assert thresholds == pytest.approx(at, abs=1e-6)
    if bits == 2:
        assert probe.distinct(function(weight)) == pytest.approx([-1, -1 / 3, 1 / 3, 1])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_dorefa_is_the_official_code_and_three_ports(weight: Tensor, bits: int) -> None:
    ours = quantized("dorefa", bits, weight)
    for name in ("tensorpack", "distiller", "micronet", "kwanghoonan"):
        theirs = getattr(libraries, f"{name}_weight")(bits, weight)(weight)
        torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


def test_kwanghoonan_differs_in_the_gradient_alone(weight: Tensor) -> None:
    inner = weight.flatten()[weight.flatten().abs() < weight.abs().max()]
    paper = (1 - np.tanh(inner.numpy()) ** 2) / np.tanh(float(weight.abs().max()))
    np.testing.assert_allclose(slopes(libraries.tensorpack_weight(2, weight), inner), paper, 1e-5)
    assert (slopes(libraries.kwanghoonan_weight(2, weight), inner) == 1).all()


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("symmetric", [True, False])
def test_mqbench_is_torchs_fake_quantization(weight: Tensor, bits: int, symmetric: bool) -> None:
    unit = weight.tanh() / (weight.tanh().abs().max() + 1e-5)
    if symmetric:
        low, top, zero = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0
        scale = float(unit.abs().max()) * 2 / (top - low)
    else:
        low, top = 0, 2**bits - 1
        scale = float(unit.max() - unit.min()) / top
        zero = round(-float(unit.min()) / scale)
    function = libraries.mqbench_weight(bits, weight, symmetric)
    inner = unit.abs() < 1 - 1e-3  # the largest lies on a threshold
    leaf = unit.clone().requires_grad_()
    theirs = torch.fake_quantize_per_tensor_affine(leaf, scale, zero, low, top)
    torch.testing.assert_close(function(weight)[inner], theirs[inner], atol=1e-5, rtol=0)
    passed = torch.autograd.grad(theirs.sum(), leaf)[0]
    chain = passed * (1 - weight.tanh() ** 2) / (weight.tanh().abs().max() + 1e-5)
    torch.testing.assert_close(slopes(function, weight)[inner], chain[inner], atol=1e-5, rtol=0)


def test_mqbench_has_a_zero_and_almost_no_lowest_level(weight: Tensor) -> None:
    values = libraries.mqbench_weight(2, weight, symmetric=True)(weight)
    assert (values == 0).double().mean() > 0.5
    assert (values < -1).sum() <= 1


def test_micronet_quantizes_a_tenth_of_the_input() -> None:
    x = probe.tensor()
    paper = quantized("dorefa", 2, x, "input")
    torch.testing.assert_close(libraries.tensorpack_input(2)(x), paper)
    torch.testing.assert_close(libraries.micronet_input(2)(10 * x), paper)


# WRPN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "paper", "distiller"), [(2, 3, 5), (3, 7, 9), (4, 15, 17)])
def test_distillers_wrpn_has_two_levels_too_many(bits: int, paper: int, distiller: int) -> None:
    w = torch.linspace(-1.5, 1.5, 10_001)
    ours = probe.distinct(libraries.wrpn_paper(bits)(w))
    theirs = probe.distinct(libraries.wrpn_distiller(bits)(w))
    assert (len(ours), len(theirs)) == (paper, distiller)
    assert max(ours) == 1
    assert max(theirs) == pytest.approx(2**bits / (2**bits - 1))
    if bits == 2:
        assert theirs == pytest.approx([-4 / 3, -2 / 3, 0, 2 / 3, 4 / 3])


@pytest.mark.parametrize("bits", [2, 3])
def test_wrpn_is_the_papers(weight: Tensor, bits: int) -> None:
    wide = 10 * weight
    ours = quantized("wrpn", bits, wide)
    torch.testing.assert_close(libraries.wrpn_paper(bits)(wide), ours)


# LSQ -----------------------------------------------------------------------------------------


def test_lsq_starts_with_the_papers_step(weight: Tensor) -> None:
    for bits in (2, 3):
        top = 2 ** (bits - 1) - 1
        step = 2 * float(weight.abs().mean()) / math.sqrt(top)
        codes = np.clip(np.round(weight.double().numpy() / step), -top - 1, top)
        ours = quantized("lsq", bits, weight)
        np.testing.assert_allclose(ours.numpy(), codes * step, atol=1e-6)


def test_mqbenchs_lsq_is_torchs_learnable_fake_quantization() -> None:
    v = torch.linspace(-3.3, 2.3, 560) + 1e-3
    g = torch.linspace(0.5, 1.5, 560)
    theirs: list[Tensor] = []
    for own in (True, False):
        leaf, step = v.clone().requires_grad_(), torch.tensor([1.0], requires_grad=True)
        if own:
            values = libraries.lsq_mqbench(-2, 1, step)(leaf)
        else:
            zero = torch.zeros(1)
            values = torch._fake_quantize_learnable_per_tensor_affine(leaf, step, zero, -2, 1, 1.0)
        theirs += [values.detach(), *torch.autograd.grad((values * g).sum(), (leaf, step))]
    for transcribed, torchs in zip(theirs[:3], theirs[3:], strict=True):
        torch.testing.assert_close(transcribed, torchs, atol=1e-4, rtol=1e-5)


def test_where_mqbenchs_lsq_gradients_are_not_the_papers() -> None:
    def gradients(rule: Callable[[int, int, Tensor], Function], v: float) -> tuple[float, float]:
        leaf, step = torch.tensor(v, requires_grad=True), torch.tensor(1.0, requires_grad=True)
        to_v, to_s = torch.autograd.grad(rule(-2, 1, step)(leaf), (leaf, step))
        return float(to_v), float(to_s)

    assert gradients(libraries.lsq_clipped, 1.3) == (0, 1)
    assert gradients(libraries.lsq_mqbench, 1.3) == pytest.approx((1, -0.3))
    assert gradients(libraries.lsq_clipped, -2.2) == (0, -2)
    assert gradients(libraries.lsq_mqbench, -2.2) == pytest.approx((1, 0.2))
    for v in (-3.0, -1.8, 0.7, 1.6):
        both = [gradients(rule, v) for rule in (libraries.lsq_clipped, libraries.lsq_mqbench)]
        assert both[0] == pytest.approx(both[1])


# HWGQ ----------------------------------------------------------------------------------------


def test_hwgq_is_the_release_and_not_edmips() -> None:
    x = probe.tensor()
    ours = quantized("hwgq", 2, x, "input")
    release = libraries.hwgq_caffe((0.538, 1.076, 1.614), 1.614)
    torch.testing.assert_close(release(x), ours)
    small = torch.tensor([-1.0, 0.0, 1e-6, 0.26, 0.28])
    assert release(small).tolist() == pytest.approx([0, 0, 0.538, 0.538, 0.538])
    assert libraries.hwgq_edmips(2)(small).tolist() == pytest.approx([0, 0, 0, 0, 0.538])
    window = slopes(release, torch.tensor([-0.1, 0.1, 1.6, 1.7]))
    assert window.tolist() == [0, 1, 1, 0]


def test_hwgqs_steps_suit_the_rule_without_a_dead_zone() -> None:
    for bits, step in libraries.EDMIPS_STEPS.items():
        assert hwgq.best_step(bits, dead_zone=False) == pytest.approx(step, abs=0.003)
        assert hwgq.best_step(bits, dead_zone=True) > step + 0.005


# BWN and TWN ---------------------------------------------------------------------------------


def test_binary_gradients() -> None:
    w = torch.tensor([[0.5, -2.0], [0.25, 0.25]]).view(1, 2, 2, 1)
    g = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 2, 2, 1)
    alpha = 0.75
    inside = np.array([1, 0, 1, 1])
    signs, upstream = np.array([1, -1, 1, 1]), np.array([1, 2, 3, 4])
    lua = (alpha * inside + 1 / 4) * (1 - 1 / 2)
    assert libraries.lua_factor(w, "sgd").flatten().tolist() == pytest.approx(list(4 * lua))
    assert libraries.lua_factor(w, "adam").flatten().tolist() == pytest.approx(list(1e9 * lua))
    exact = alpha * inside * upstream + signs * (signs * upstream).sum() / 4
    assert libraries.exact_gradient(w, g).flatten().tolist() == pytest.approx(list(exact))


def test_bwn_is_the_codes_and_with_options_the_papers(weight: Tensor) -> None:
    g = probe.tensor(seed=1)
    lua, plain, exact = bwn.qbench_versions(weight, g)
    paper = bwn.paper_version(weight, g)
    torch.testing.assert_close(plain.values, paper.values)
    torch.testing.assert_close(plain.gradient, paper.gradient)
    torch.testing.assert_close(exact.gradient, libraries.exact_gradient(weight, g))
    released = bwn.library_versions(weight, g)[1]
    assert "allenai" in released.name
    torch.testing.assert_close(lua.values, released.values)
    torch.testing.assert_close(lua.gradient, released.gradient)


def test_twn_is_the_authors(weight: Tensor) -> None:
    w = weight.double().numpy()
    kept = np.abs(w) > 0.7 * np.abs(w).mean()
    alpha = np.abs(w[kept]).mean()
    layer = libraries.ternary(weight, (0, 1, 2, 3))
    np.testing.assert_allclose(layer.numpy(), np.sign(w) * kept * alpha, atol=1e-6)
    torch.testing.assert_close(layer, quantized("twn", 2, weight))


# All methods ---------------------------------------------------------------------------------


def test_every_method_is_listed_with_what_it_was_checked_against(written: Path) -> None:
    assert set(every_method.CHECKED) == set(registry.names("methods")) - {"fp32"}
    page = (written / "fidelity.md").read_text(encoding="utf-8")
    for name in every_method.CHECKED:
        assert f"\n| `{name}` | " in page


def test_departures_come_from_the_docstrings() -> None:
    assert every_method.departures("adabin").startswith("1e-12 is added to α²")
    assert every_method.departures("torchao").startswith("An input has one static range")
    assert every_method.departures("twn") == "none known"
    for name in every_method.OTHERS:
        assert every_method.departures(name) == every_method.OTHERS[name], "say it in one place"


def test_the_nearest_point_of_admm_is_that_of_all_assignments() -> None:
    w = torch.tensor([0.9, -0.2, 0.45, 1.3])
    codes = (-2, -1, 0, 1, 2)
    errors = []
    for choice in itertools.product(codes, repeat=4):
        q = np.array(choice, float)
        alpha = max((w.numpy() @ q) / max(q @ q, 1), 0)
        errors.append(float(((w.numpy() - alpha * q) ** 2).sum()))
    found = libraries.admm_nearest(w, codes)
    assert float((found - w).square().sum()) == pytest.approx(min(errors), rel=1e-6)
    assert float((libraries.admm_single(w, codes) - w).square().sum()) >= min(errors) - 1e-9


def test_the_gradient_of_quantization_networks_is_that_of_its_values(weight: Tensor) -> None:
    levels, biases, step = (-1, 0, 1), (-0.05, 0.05), 1e-4
    w, t = weight.double(), 5.0
    found = libraries.qn_gradient(w, levels, biases, t, t)
    beta = 1.25 / w.abs().max()

    def value(v: Tensor) -> Tensor:
        return sum((t * (v * beta - b)).sigmoid() for b in biases) / beta

    expected = (value(w + step) - value(w - step)) / (2 * step)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("fan_out", [288, None])
def test_an_update_of_the_released_lq_nets_is_a_step_to_least_squares(fan_out: int | None) -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((1, 400)))
    x = 0.05 * (x - x.mean()) if fan_out else x
    start, moved, corrected = (
        libraries.lq_nets_released(x, 1, fan_out, updates, debias)
        for updates, debias in ((0, False), (1, False), (1, True))
    )
    unit = 0.6745 * ((2 / 288) ** 0.5 if fan_out else 2)
    np.testing.assert_allclose(np.unique(np.abs(start))[-1], unit)
    best = np.abs(x).mean() if fan_out else x[x > unit / 2].mean()
    assert np.abs(corrected).max() == pytest.approx(best, rel=1e-4)
    assert np.abs(moved).max() == pytest.approx(0.9 * unit + 0.1 * best, rel=1e-4)
