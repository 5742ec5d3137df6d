"""Section of the GPU report that compares every quantizer and primitive with the CPU.

Each runs forward and backward on the same input on both devices. Differences are relative to the
largest value on the CPU. In float64 none may exceed 1e-9. In float32 a value beside a threshold may
fall to the other side: of outputs and input gradients, one value in a thousand, and two of a small
tensor, may differ by more than 1e-4; gradients of parameters, which are sums over all values, may
differ by 1e-2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from qbench import functional, registry
from qbench.method import Quantizer
from qbench.quant.attach import attach
from tests.benchmarks.gpu_report import Options, Row, told
from tests.benchmarks.gpu_speed import methods
from tests.benchmarks.steps import where
from tests.helpers.quantizers import start_step

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
FLIPPED = 1e-3
SUMS = {torch.float64: 1e-9, torch.float32: 1e-2}
POST_TRAINING = ("ptq_minmax", "ptq_percentile", "ptq_mse")
Found = dict[str, Tensor]


def correctness(options: Options) -> Iterator[Row]:
    """Compare primitives, then the quantizers of each method."""
    device = where()
    torch.manual_seed(0)
    for name, function in primitives().items():
        yield from checked(name, "primitive", function, device, options)
    for method, bits in [*methods(), *((name, "2/2") for name in POST_TRAINING)]:
        try:
            quantizers = quantizers_of(method, bits)
        except Exception as error:
            yield {"what": f"{method} {bits}", "error": told(error)}
            continue
        for part, (quantizer, x) in quantizers.items():
            run = module_run(quantizer)
            yield from checked(f"{method} {bits}", part, run, device, options, x)


def primitives() -> dict[str, Callable[[Tensor], Found]]:
    """Return the primitives of `qbench.functional`, each as a function of a tensor."""

    def staircase(x: Tensor) -> Found:
        alpha, beta = x.new_tensor(0.3).requires_grad_(), x.new_tensor(2.0).requires_grad_()
        biases, scales = torch.arange(-3.0, 4.0).to(x), torch.ones(7).to(x)
        temperature = x.new_tensor(40.0)
        y = functional.staircase(x, alpha, beta, biases, scales, 3.0, temperature)
        return backward(y, x, {"alpha": alpha, "beta": beta})

    def hard_staircase(x: Tensor) -> Found:
        alpha, biases = x.new_tensor(0.3), torch.arange(-3.0, 4.0).to(x)
        y = functional.hard_staircase(x, alpha, alpha + 2, biases, torch.ones(7).to(x), 3.0)
        return backward(y, x, {})

    simple: dict[str, Callable[[Tensor], Tensor]] = {
        "round_ste": lambda x: functional.round_ste(3 * x),
        "sign": functional.sign,
        "straight_through": lambda x: functional.straight_through(x, x.sign()),
        "add_gradient": lambda x: functional.add_gradient(x.round(), 2 * x),
        "scale_gradient": lambda x: functional.scale_gradient(x, 0.25),
        "nearest_level": lambda x: functional.nearest_level(x, torch.linspace(-2, 2, 7).to(x)),
        "clip": lambda x: functional.clip(x, -0.5, 0.7, closed="left"),
        "fake_quantize": lambda x: functional.fake_quantize(x, x.new_tensor(0.3), -4, 3),
        "clip_quantize": lambda x: functional.clip_quantize(x, 0, 0.9, x.new_tensor(0.3)),
        "clip_round": lambda x: functional.clip_round(x, -1, 1, 7),
        "interval_round": lambda x: functional.interval_round(
            x, x.new_tensor(-0.6), x.new_tensor(0.8), 7, signed=True, error_slope=0.01
        ),
        "two_levels": lambda x: functional.two_levels(
            x, x.new_tensor(0.4), centre=x.new_tensor(0.1), slope="tanh", reach=2.0
        ),
        "moments": lambda x: torch.cat(functional.moments(x)),
        "binarize": lambda x: functional.binarize(x, x.new_tensor(0.3), window=1),
        "polynomial_sign": functional.polynomial_sign,
        "to_levels": lambda x: functional.to_levels(
            x, torch.linspace(-1, 1, 6).to(x), torch.linspace(-1.2, 1.2, 7).to(x), high=1
        ),
        "ternarize": lambda x: functional.ternarize(x, x.new_tensor(0.4), window=1),
        "tanh_weight": lambda x: functional.tanh_weight(x, 7),
        "interval_quantize": lambda x: functional.interval_quantize(
            x, x.new_tensor(0.6), x.new_tensor(0.5), 3, gamma=x.new_tensor(1.2)
        ),
        "soft_uniform": lambda x: functional.soft_uniform(
            x, x.new_tensor(-1), x.new_tensor(2), x.new_tensor(1), x.new_tensor(0.2), 3
        ),
        "standardize": functional.standardize,
        "scaled_levels": lambda x: functional.scaled_levels(
            x, x.new_tensor(2.0), x.new_tensor([0, 0.25, 0.5, 1]), signed=True
        ),
        "sign_sum": lambda x: functional.sign_sum(
            x, x.new_tensor([0.5, -0.2]), x.new_tensor([0.7, 0.3])
        ),
        "cell_sums": lambda x: torch.stack(functional.cell_sums(x, x.new_tensor([-0.5, 0, 0.5]))),
        "quantize_unit": lambda x: functional.quantize_unit(x.clamp(0, 1), 3),
        "kmeans_1d": lambda x: functional.kmeans_1d(x, 5, 30),
    }

    def run(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Found]:
        return lambda x: backward(function(x), x, {})

    found = {name: run(function) for name, function in simple.items()}
    return found | {"staircase": staircase, "hard_staircase": hard_staircase}


def quantizers_of(method: str, bits: str) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return the quantizers of a layer of a small network, each with a tensor to quantize."""
    torch.manual_seed(0)
    net = registry.build_model("resnet_tiny", 10, 3)
    samples = torch.randn(8, 3, 32, 32)
    handle = attach(net, method, bits=bits, calibration=[samples])
    handle.on_epoch_start(20, 20, steps=1)
    start_step(handle, 1, 1)
    layer = handle.layers[-1]
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    if layer.weight_quantizer is not None:
        found["weight"] = layer.weight_quantizer, layer.latent_weight.detach()
    if layer.activation_quantizer is not None:
        channels = layer.latent_weight.shape[1]
        found["input"] = layer.activation_quantizer, torch.randn(16, channels, 16, 16)
    return found


def module_run(quantizer: nn.Module) -> Callable[[Tensor], Found]:
    """Return a function that runs a copy of a quantizer on a tensor's device, in its dtype."""

    def run(x: Tensor) -> Found:
        mine = copy.deepcopy(quantizer).to(x.device, x.dtype).train()
        parameters: Found = {n: p for n, p in mine.named_parameters() if p.requires_grad}
        found = backward(mine(x), x, parameters)
        if isinstance(mine, Quantizer):
            with torch.no_grad():
                mine.observe(x.detach())
            found |= {f"state {n}": b for n, b in mine.state_dict().items()}
        with torch.no_grad():
            found["hard output"] = mine.eval()(x.detach())
        return found

    return run


def backward(y: Tensor, x: Tensor, parameters: Found) -> Found:
    """Return an output, and the gradients that a fixed gradient of the output leads to."""
    found = {"output": y.detach()}
    if y.requires_grad:
        g = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).to(y.device, y.dtype)
        gradients = torch.autograd.grad(
            y, [x, *parameters.values()], g.view_as(y), allow_unused=True
        )
        names = ["input gradient", *(f"gradient {name}" for name in parameters)]
        pairs = zip(names, gradients, strict=True)
        found |= {name: gradient for name, gradient in pairs if gradient is not None}
    return found


def checked(
    what: str,
    part: str,
    run: Callable[[Tensor], Found],
    device: torch.device,
    options: Options,
    x: Tensor | None = None,
) -> Iterator[Row]:
    """Compare both devices in both dtypes."""
    if x is None:
        x = torch.randn(4, 16, 16, 16) if options.tiny else torch.randn(16, 64, 32, 32)
    for dtype in TOLERANCE:
        row: Row = {"what": what, "part": part, "dtype": str(dtype).removeprefix("torch.")}
        try:
            here = x.to(dtype)
            expected = run(here.clone().requires_grad_())
            got = run(here.to(device).requires_grad_())
            yield row | compared(expected, got, dtype)
        except Exception as error:
            yield row | {"error": told(error)}


def compared(expected: Found, got: Found, dtype: torch.dtype) -> Row:
    """Return the largest differences, and whether they are within the tolerances."""
    largest = {"output": 0.0, "input gradient": 0.0, "sums": 0.0}
    flipped, good = 0.0, expected.keys() == got.keys()
    for name, reference in expected.items():
        a, b = reference.detach().double(), got[name].detach().cpu().double()
        scale = float(a.abs().max().clamp(min=1e-12)) if a.numel() else 1.0
        difference = (a - b).abs() / scale
        most = float(difference.max()) if a.numel() else 0.0
        good &= bool(b.isfinite().all())
        if name in ("output", "hard output", "input gradient"):
            kind = "input gradient" if name == "input gradient" else "output"
            beyond = int((difference > TOLERANCE[dtype]).sum())
            flipped = max(flipped, beyond / a.numel())
            good &= beyond <= (0 if dtype == torch.float64 else max(2, FLIPPED * a.numel()))
        else:
            kind = "sums"
            good &= most <= SUMS[dtype]
        largest[kind] = max(largest[kind], most)
    return {**largest, "share beyond": flipped, "verdict": "ok" if good else "FAIL"}
