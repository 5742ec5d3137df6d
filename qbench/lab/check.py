"""The contract that every method keeps, built in or a plugin: attached, trained, saved, hardened.

Each check takes a `Case`, one method at one width on one small network, and raises
`BrokenPromiseError` with words that the method's author can act on.
"""

from __future__ import annotations

import copy
import io
import itertools
import logging
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F  # noqa: N812

from qbench import registry
from qbench.errors import QbenchError
from qbench.method import Layer, Method, Scope
from qbench.quant.attach import Handle, attach
from qbench.quant.audit import count_levels
from qbench.spec.bits import Bits, Width

WEIGHTS = ("1", "2", "3", "3(±2)", "3(±4)", "4", "8", "32")
ACTIVATIONS = ("32", "1", "2", "4", "8")
WIDTHS = tuple(f"{w}/{a}" for a in ACTIVATIONS for w in WEIGHTS if w != "32" or a != "32")
_EPOCHS = 3
_LOGGER = logging.getLogger(__name__)
_CLASSES = 4


class BrokenPromiseError(Exception):
    """A promise that a method does not keep; the message says which, and what to look at."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        check: the check's name.
        network: what the method was attached to; empty where to nothing.
        bits: the widths.
        message: what is broken.
        traceback: where, if the method's own code raised.
    """

    check: str
    network: str
    bits: str
    message: str
    traceback: str = ""


@dataclass
class Report:
    """What the checks of a method came to.

    Attributes:
        method: its name.
        widths: those that it was checked at: between them every width of weights and every width
            of activations that it accepts.
        refused: those that it refuses, each with its reason.
        doable: those of them that it could do after all, as far as the checks can tell.
        passed: how many checks passed.
        findings: what is broken.
    """

    method: str
    widths: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    doable: list[str] = field(default_factory=list)
    passed: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """One method at one width on one network.

    Attributes:
        method: its name.
        options: its options, where they are not the defaults.
        network: the name of one of `NETWORKS`.
        bits: widths as ``W/A``.
    """

    method: str
    options: Mapping[str, Any]
    network: str
    bits: str

    def model(self) -> nn.Module:
        """The network, always with the same weights: Gaussian, the largest of each layer 1."""
        torch.manual_seed(0)
        model = NETWORKS[self.network]()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight)
                module.weight.data /= module.weight.data.abs().max()
        return model

    def attach(self, dtype: torch.dtype = torch.float32, method: Method | None = None) -> Handle:
        """The method on all layers of the network, ready for its first epoch."""
        built = method or registry.build_method(self.method, self.options)
        model = self.model().to(dtype)
        calibration = [images(seed).to(dtype) for seed in (0, 1)]
        handle = attach(model, built, bits=self.bits, layers="all", calibration=calibration)
        handle.on_epoch_start(1, _EPOCHS)
        return handle


def convolutional() -> nn.Module:
    """Three convolutions with batch normalisation, and a linear layer."""
    return nn.Sequential(
        *_block(3, 8), *_block(8, 8), *_block(8, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, _CLASSES),
    )  # fmt: skip


def depthwise() -> nn.Module:
    """A depthwise convolution between two pointwise ones: filters of nine weights."""
    return nn.Sequential(
        *_block(3, 8, size=1), *_block(8, 8, groups=8), *_block(8, 8, size=1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, _CLASSES),
    )  # fmt: skip


def linear() -> nn.Module:
    """Three linear layers with biases, and no batch normalisation."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(108, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(),
        nn.Linear(16, _CLASSES),
    )  # fmt: skip


def mixed() -> nn.Module:
    """Something of each of the other networks."""
    return nn.Sequential(
        *_block(3, 8), *_block(8, 8, groups=8), *_block(8, 8, size=1), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, _CLASSES),
    )  # fmt: skip


def _block(inputs: int, outputs: int, size: int = 3, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    network.__name__: network for network in (convolutional, depthwise, linear, mixed)
}


FULL = ("convolutional", "depthwise", "linear")
QUICK = ("mixed",)


def images(seed: int = 0) -> Tensor:
    """Eight images of noise, (8, 3, 6, 6)."""
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def check(
    method: str,
    options: Mapping[str, Any] | None = None,
    *,
    networks: Sequence[str] = FULL,
    thorough: bool = True,
) -> Report:
    """Check a method at every width that it accepts.

    Args:
        method: its name.
        options: its options, where they are not the defaults.
        networks: names of `NETWORKS`.
        thorough: also what takes seconds: ``torch.compile``, and training in two processes.

    Returns:
        What was found; a check that failed once is not repeated on other networks and widths.

    Raises:
        QbenchError: no method has the name, or an option is wrong.
    """
    options = dict(options or {})
    report = Report(method)
    built = registry.build_method(method, options)
    accepted = []
    for bits in WIDTHS:
        reason = _refusal(built, bits, report)
        if reason is None:
            accepted.append(bits)
        else:
            report.refused[bits] = reason
    report.widths = _cover(accepted)
    if not accepted and not report.findings:
        reasons = "; ".join(sorted(set(report.refused.values())))
        message = f"supports() refuses every width, so the method can do nothing: {reasons}"
        report.findings.append(Finding("supports", "", "", message))
    broken: set[str] = set()
    for network, bits in itertools.product(networks, report.widths):
        _LOGGER.info("%s %s", network, bits)
        case = Case(method, options, network, bits)
        checks = CHECKS + (TRAINING if built.trains else ())
        if thorough and network == networks[0]:
            checks += COMPILED
        for each in checks:
            if each.__name__ in broken:
                continue
            finding = _run(each, case)
            if finding is None:
                report.passed += 1
            else:
                broken.add(each.__name__)
                report.findings.append(finding)
                if each is CHECKS[0]:
                    return report  # what cannot be attached cannot be checked
    if thorough and not report.findings:
        if built.trains:
            _LOGGER.info("two processes")
            cases = [Case(method, options, "linear", bits) for bits in report.widths]
            _in_two_processes(cases, report)
        for bits in report.refused:
            _LOGGER.info("whether %s is rightly refused", bits)
            if _would_do(Case(method, options, "mixed", bits), built):
                report.doable.append(bits)
    return report


def _cover(accepted: Sequence[str]) -> list[str]:
    """Some of the widths: every width of weights and of activations is among them."""
    chosen: list[str] = []
    covered: set[tuple[str, str]] = set()
    by_news = sorted(accepted, key=lambda bits: "32" in bits.split("/"))  # pairs cover two at once
    for bits in by_news:
        weights, activations = bits.split("/")
        news = {("weights", weights), ("activations", activations)} - covered
        if len(news) == 2 or (news and bits not in chosen and "32" in bits.split("/")):
            chosen.append(bits)
            covered |= news
    for bits in accepted:
        weights, activations = bits.split("/")
        if {("weights", weights), ("activations", activations)} - covered:
            chosen.append(bits)
            covered |= {("weights", weights), ("activations", activations)}
    return sorted(chosen, key=list(accepted).index)


def _refusal(method: Method, bits: str, report: Report) -> str | None:
    try:
        reason = method.supports(Bits.parse(bits), "classification")
    except Exception as error:
        message = f"supports() raised {type(error).__name__}: {error}; return a reason, or None"
        report.findings.append(Finding("supports", "", bits, message, traceback.format_exc()))
        return message
    if reason is None or (isinstance(reason, str) and reason.strip() and "\n" not in reason):
        return reason
    message = f"supports() returned {reason!r}; return one line that says why not, or None"
    report.findings.append(Finding("supports", "", bits, message))
    return message


def _run(each: Callable[[Case], None], case: Case) -> Finding | None:
    name = each.__name__
    try:
        each(case)
    except (BrokenPromiseError, QbenchError) as error:
        return Finding(name, case.network, case.bits, str(error))
    except Exception as error:
        what = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        where, shown = _where(error, case.method)
        return Finding(name, case.network, case.bits, f"raised {what}{where}", shown)
    except SystemExit as error:
        return Finding(name, case.network, case.bits, f"called sys.exit({error.code})")
    return None


def _where(error: Exception, method: str) -> tuple[str, str]:
    """The line of the method's file that an error came from, and the traceback from there on."""
    file = sys.modules[registry.method_class(method).__module__].__file__
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != file:
        trace = trace.tb_next
    if trace is None:
        return "", ""
    lines = [f.lineno for f in traceback.extract_tb(trace) if f.filename == file]
    shown = "".join(traceback.format_exception(type(error), error, trace))
    return f" ({Path(str(file)).name}:{lines[-1]})", shown


# What the checks do ---------------------------------------------------------------------------


def train(handle: Handle, steps: int = 2, first: int = 0) -> torch.optim.Optimizer:
    """Some steps of training as the harness takes them; returns the optimiser."""
    optimizer = _optimizer(handle)
    _steps(handle, optimizer, range(first, first + steps))
    return optimizer


def _optimizer(handle: Handle) -> torch.optim.Optimizer:
    groups = handle.parameter_groups(lr=0.01, weight_decay=1e-4)
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def _steps(
    handle: Handle,
    optimizer: torch.optim.Optimizer,
    steps: range,
    model: nn.Module | None = None,
) -> None:
    if not handle.method.trains:
        return
    model = handle.model if model is None else model
    model.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in steps:
        torch.manual_seed(step)
        handle.on_step_start(step + 1, 100)
        optimizer.zero_grad()
        _backward(handle, images(step), model)
        nn.utils.clip_grad_norm_(parameters, 5.0)
        handle.before_step()
        optimizer.step()
        handle.after_step()


def _untouched(handle: Handle, x: Tensor) -> str | None:
    """The first layer whose latent weight gets no gradient from its own output, or None.

    Its own, for a gradient from further on can end in a ReLU at zero, whatever the method does. A
    layer whose input is quantized to zeros is none of the method's fault either.
    """
    outputs: dict[str, Tensor] = {}
    alive: set[str] = set()

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            outputs[name] = output
            if args[0].any():
                alive.add(name)

        return hook

    hooks = [m.module.register_forward_hook(look(m.name)) for m in handle.layers]
    output = handle.model(x)
    for hook in hooks:
        hook.remove()
    target = torch.arange(len(x)) % _CLASSES
    random = torch.Generator().manual_seed(0)
    loss = F.cross_entropy(output, target) + handle.penalty()
    for each in outputs.values():
        loss = loss + (each * torch.randn(each.shape, generator=random)).mean()
    loss.backward()
    for layer in handle.layers:
        gradient = layer.latent_weight.grad
        if gradient is None or (layer.name in alive and not gradient.any()):
            return layer.name
    return None


def _backward(handle: Handle, x: Tensor, model: nn.Module | None = None) -> None:
    target = torch.arange(len(x)) % _CLASSES
    output = (handle.model if model is None else model)(x)
    (F.cross_entropy(output, target) + handle.penalty()).backward()


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> str | None:
    """The first entry in which two states differ, or None."""
    for name in {**left, **right}:
        if name not in left or name not in right or not _equal(left[name], right[name]):
            return name
    return None


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(
        ((left == right) | (left.isnan() & right.isnan())).all()
    )


def _weight(layer: Layer) -> Tensor:
    weight = layer.module.weight
    assert isinstance(weight, Tensor)  # noqa: S101
    return weight


def _through(handle: Handle, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What goes into every input quantizer, and what comes out, while the model runs."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor], y: Tensor) -> None:
            seen[name] = (args[0].detach(), y.detach())

        return hook

    hooks = [
        layer.input_quantizer.register_forward_hook(keep(layer.name))
        for layer in handle.layers
        if layer.input_quantizer is not None
    ]
    with torch.no_grad():
        handle.model(x)
    for hook in hooks:
        hook.remove()
    return seen


# The checks -----------------------------------------------------------------------------------


def attaches(case: Case) -> None:
    """What the widths name is quantized, and nothing else."""
    attaches_as_told(case.attach(), case.bits)


def attaches_as_told(handle: Handle, widths: str) -> None:
    """Raise BrokenPromiseError where a quantizer is missing, or one too many."""
    bits = Bits.parse(widths)
    for layer in handle.layers:
        pairs = (
            ("weight", layer.weight_quantizer, bits.weights),
            ("input", layer.input_quantizer, bits.activations),
        )
        for kind, quantizer, width in pairs:
            if quantizer is None and not width.is_float:
                raise BrokenPromiseError(
                    f"{kind}_quantizer() returned None for '{layer.name}' at {width} bits: "
                    f"return a module, or refuse {widths} in supports()"
                )
            if quantizer is not None and width.is_float:
                raise BrokenPromiseError(
                    f"the {kind} of '{layer.name}' is quantized, and should stay float"
                )


def keeps_shape_and_dtype(case: Case) -> None:
    """Out as in: shape, dtype and device, in training and in evaluation."""
    for dtype in (torch.float32, torch.float64):
        handle = case.attach(dtype=dtype)
        for training in (True, False):
            handle.model.train(training)
            pairs: dict[str, tuple[Tensor, Tensor]] = {
                f"{m.name}.weight": (m.latent_weight, _weight(m)) for m in handle.layers
            }
            through = _through(handle, images(2).to(dtype))
            pairs |= {f"{name}'s input": pair for name, pair in through.items()}
            for name, (before, after) in pairs.items():
                found = (after.shape, after.dtype, after.device)
                if found != (before.shape, before.dtype, before.device):
                    raise BrokenPromiseError(
                        f"{name} goes in as {tuple(before.shape)} {before.dtype} and comes out as "
                        f"{tuple(after.shape)} {after.dtype}"
                    )


def has_the_levels_it_promises(case: Case) -> None:
    """After hardening no tensor has more values than its bits can tell apart."""
    handle = case.attach()
    train(handle)
    scope = handle.method.weight_scope
    handle.harden().eval()
    for layer in handle.layers:
        if layer.weight_bits.is_float:
            continue
        weight = _weight(layer).detach()
        if not weight.isfinite().all():
            raise BrokenPromiseError(f"{layer.name}.weight is not finite after hardening")
        levels, promised = count_levels(weight, scope), layer.weight_bits.count
        if levels > promised:
            hint = "; or is weight_scope 'filter'?" if scope == "layer" else ""
            raise BrokenPromiseError(
                f"{layer.name}.weight has {levels} values after hardening, where "
                f"{layer.weight_bits} bits allow {promised}: quantize fully where "
                f"`self.training` is False{hint}"
            )
        if not _has_named_levels(weight, layer.weight_bits, scope):
            raise BrokenPromiseError(
                f"{layer.name}.weight does not have the levels that {layer.weight_bits} names: "
                f"multiples of {', '.join(map(str, layer.weight_bits.levels or ()))}; refuse "
                f"widths with ± in supports(), or quantize to `layer.weight_bits.levels`"
            )
        if len(weight.unique()) < 2:
            raise BrokenPromiseError(
                f"{layer.name}.weight has one value after hardening, {float(weight.flatten()[0]):g}"
            )
    for scale in (1.0, 30.0):
        for name, (_, after) in _through(handle, scale * images(2)).items():
            layer = next(layer for layer in handle.layers if layer.name == name)
            if (levels := count_levels(after, "layer")) > layer.input_bits.count:
                raise BrokenPromiseError(
                    f"the input of {name} has {levels} values after hardening, where "
                    f"{layer.input_bits} bits allow {layer.input_bits.count}"
                )


def _has_named_levels(weight: Tensor, width: Width, scope: Scope) -> bool:
    """Whether the values of each group are one scale times integers that the width names."""
    if width.levels is None:
        return True
    wanted = torch.tensor(width.levels, dtype=torch.float64)
    for group in weight.double() if scope == "filter" else weight.double()[None]:
        largest = group.abs().max()
        codes = (group / largest * m for m in wanted[wanted > 0])
        if largest > 0 and not any(
            all((code - wanted).abs().min() < 1e-3 for code in each.unique()) for each in codes
        ):
            return False
    return True


def hardens_to_what_it_evaluates(case: Case) -> None:
    """Hardening stores what evaluation used, and softens nothing afterwards."""
    handle = case.attach()
    train(handle)
    model = handle.model.eval()
    with torch.no_grad():
        output = model(images(3))
        weights = [_weight(layer).clone() for layer in handle.layers]
    handle.harden()
    for layer, weight in zip(handle.layers, weights, strict=True):
        if not _equal(_weight(layer), weight):
            raise BrokenPromiseError(
                f"hardening changed the values of {layer.name}.weight: forward is not a function "
                "of its input and the state alone"
            )
    with torch.no_grad():
        if not _equal(model(images(3)), output):
            raise BrokenPromiseError("hardening changed what the model computes")
    model.train()
    hard = _through(handle, images(3))
    _through(handle, 10 * images(4))
    for layer in handle.layers:
        if layer.name in hard and layer.input_quantizer is not None:
            before, after = hard[layer.name]
            if not _equal(layer.input_quantizer(before), after):
                raise BrokenPromiseError(
                    f"the input quantizer of {layer.name} still changes after hardening"
                )


def has_gradients_everywhere(case: Case) -> None:
    """Gradients are finite, reach every latent weight, and pass every input quantizer."""
    handle = case.attach()
    handle.model.train()
    if name := _untouched(handle, images()):
        raise BrokenPromiseError(
            f"the latent weight of '{name}' gets no gradient: rounding and sign have none, see "
            "qbench.functional.straight_through"
        )
    for name, parameter in handle.model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise BrokenPromiseError(f"the gradient of {name} is not finite")
    for name, (before, _) in _through(handle, images()).items():
        quantizer = next(m.input_quantizer for m in handle.layers if m.name == name)
        assert quantizer is not None  # noqa: S101
        passed = []
        for size in (0.1, 1.0, 10.0):  # whatever the quantizer's range, some of it is hit
            x = (size * torch.randn(before.shape)).requires_grad_()
            quantizer(x).sum().backward()
            passed.append(torch.zeros_like(x) if x.grad is None else x.grad)
        if not any(gradient.any() for gradient in passed):
            raise BrokenPromiseError(
                f"the input quantizer of '{name}' passes no gradient: rounding and sign have none, "
                "see qbench.functional.straight_through"
            )
        if not all(gradient.isfinite().all() for gradient in passed):
            raise BrokenPromiseError(f"the gradient of the input of '{name}' is not finite")


def trains(case: Case) -> None:
    """Steps of training move every latent weight, and leave all finite."""
    handle = case.attach()
    before = [layer.latent_weight.detach().clone() for layer in handle.layers]
    for epoch in range(1, _EPOCHS + 1):
        handle.on_epoch_start(epoch, _EPOCHS)
        train(handle, first=2 * epoch)
    for layer, weight in zip(handle.layers, before, strict=True):
        if _equal(layer.latent_weight, weight):
            raise BrokenPromiseError(f"training does not move the latent weight of '{layer.name}'")
    for name, value in _state(handle.model).items():
        if not value.isfinite().all():
            raise BrokenPromiseError(f"{name} is not finite after training")


def is_deterministic(case: Case) -> None:
    """The same seed gives the same bits."""
    states = []
    for _ in range(2):
        handle = case.attach()
        train(handle)
        states.append(_state(handle.harden()))
        torch.rand(3)
    if name := _difference(*states):
        raise BrokenPromiseError(
            f"two runs with one seed differ in {name}: draw random numbers from torch's "
            "generator, and iterate over nothing unordered"
        )


def survives_a_checkpoint(case: Case) -> None:
    """A state_dict holds all that training needs to go on with the same bits."""
    handle = case.attach()
    handle.on_epoch_start(2, _EPOCHS)
    optimizer = train(handle)
    buffer = io.BytesIO()
    torch.save({"model": handle.model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    try:
        saved = torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BrokenPromiseError(
            "its state_dict holds more than tensors and plain values, which a checkpoint may not; "
            "see get_extra_state"
        ) from error
    fresh = case.attach()
    fresh.on_epoch_start(2, _EPOCHS)
    fresh.model.load_state_dict(saved["model"])
    other = _optimizer(fresh)
    other.load_state_dict(saved["optimizer"])
    for each, its in ((handle, optimizer), (fresh, other)):
        _steps(each, its, range(2, 4))
    if name := _difference(_state(handle.model), _state(fresh.model)):
        raise BrokenPromiseError(
            f"training that goes on from a checkpoint differs in {name}: what changes over time "
            "belongs in parameters, buffers or get_extra_state"
        )


def copies(case: Case) -> None:
    """A deep copy is equal and independent; hardened, the model can be pickled."""
    handle = case.attach()
    train(handle)
    twin = copy.deepcopy(handle)
    before = _state(handle.model)
    if name := _difference(before, _state(twin.model)):
        raise BrokenPromiseError(f"a deep copy differs in {name}")
    train(twin, first=5)
    if name := _difference(before, _state(handle.model)):
        raise BrokenPromiseError(f"training a deep copy changes {name} of the original")
    train(handle, first=5)
    if name := _difference(_state(handle.model), _state(twin.model)):
        raise BrokenPromiseError(f"a deep copy trains differently: {name}")
    model = handle.harden().eval()
    try:
        again = pickle.loads(pickle.dumps(model))  # noqa: S301 - of this process's own making
    except Exception as error:
        raise BrokenPromiseError(
            f"the hardened model cannot be pickled: {error}; define quantizers at the top of the "
            "file, and keep no lambdas in them"
        ) from error
    with torch.no_grad():
        if not _equal(again(images(3)), model(images(3))):
            raise BrokenPromiseError("the pickled model computes something else")


def updates_once_a_step(case: Case) -> None:
    """Reading a weight changes nothing, so a step is a step however often it is read."""
    handle, curious = case.attach(), case.attach()
    train(handle)
    optimizer = _optimizer(curious)
    for step in range(2):
        curious.model.train()
        for layer in curious.layers:
            reads = []
            for _ in range(2):
                torch.manual_seed(step)  # what is drawn may be drawn again
                reads.append(_weight(layer).detach().clone())
            if not _equal(*reads):
                raise BrokenPromiseError(
                    f"{layer.name}.weight is another each time it is read: forward must change no "
                    "state, see Quantizer.update"
                )
        _steps(curious, optimizer, range(step, step + 1))
    if name := _difference(_state(handle.model), _state(curious.model)):
        raise BrokenPromiseError(
            f"reading weights between steps changes {name}: state that is not learned moves in "
            "Quantizer.update, which is called once a step"
        )


def evaluates_without_a_trace(case: Case) -> None:
    """Evaluation changes no state, and gives the same each time."""
    handle = case.attach()
    train(handle)
    before = _state(handle.model)
    with torch.no_grad():
        first = handle.model.eval()(images(3))
        handle.model(5 * images(4))
        if not _equal(handle.model(images(3)), first):
            raise BrokenPromiseError("evaluating twice gives different results")
    if name := _difference(before, _state(handle.model)):
        raise BrokenPromiseError(f"evaluation changes {name}")


def comes_off(case: Case) -> None:
    """Detaching leaves the latent weights, and a model that runs."""
    handle = case.attach()
    train(handle)
    latent = {layer.name: layer.latent_weight.detach().clone() for layer in handle.layers}
    model = handle.detach()
    modules = dict(model.named_modules())
    for name, weight in latent.items():
        if not _equal(modules[name].get_parameter("weight"), weight):
            raise BrokenPromiseError(f"detaching changes {name}.weight")
    model.train()(images()).sum().backward()
    if handle.quantizers:
        raise BrokenPromiseError("detaching leaves quantizers behind")


def trains_under_autocast(case: Case) -> None:
    """In bfloat16 autocast gradients are finite, and there."""
    handle = case.attach()
    handle.model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        name = _untouched(handle, images())
    if name:
        raise BrokenPromiseError(f"under autocast the latent weight of '{name}' gets no gradient")
    for name, parameter in handle.model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise BrokenPromiseError(f"under autocast the gradient of {name} is not finite")


def evaluates_under_autocast(case: Case) -> None:
    """In bfloat16 autocast weights do not get coarser."""
    handle = case.attach()
    handle.model.eval()
    for layer in handle.layers:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            under = _weight(layer).clone()
        if not _equal(under, _weight(layer).detach()):
            raise BrokenPromiseError(
                f"autocast changes the quantized values of {layer.name}.weight: compute them "
                "without matrix products, or outside autocast"
            )


def gives_its_parameters_once(case: Case) -> None:
    """Every learned parameter is in exactly one of the optimiser's groups."""
    handle = case.attach()
    groups = handle.parameter_groups(lr=0.1, weight_decay=1e-4)
    given = [parameter for group in groups for parameter in group["params"]]
    wanted = {id(p): n for n, p in handle.model.named_parameters() if p.requires_grad}
    if missing := [name for key, name in wanted.items() if key not in map(id, given)]:
        raise BrokenPromiseError(f"parameter_groups() leaves out {missing[0]}")
    if len(given) != len(set(map(id, given))):
        raise BrokenPromiseError("parameter_groups() gives a parameter twice")


def compiles(case: Case) -> None:
    """``torch.compile`` traces it, and it computes the same."""
    handle, plain = case.attach(), case.attach()
    torch.compiler.reset()
    compiled = torch.compile(handle.model, backend="eager")
    x = images()
    for training in (True, False):
        handle.model.train(training)
        plain.model.train(training)
        found, expected = compiled(x), plain.model(x)
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
            raise BrokenPromiseError("torch.compile changes what it computes")
        if training and handle.method.trains:
            found.square().sum().backward()
            expected.square().sum().backward()
    if not handle.method.trains:
        return
    for mine, its in zip(handle.layers, plain.layers, strict=True):
        left, right = mine.latent_weight.grad, its.latent_weight.grad
        if left is None or right is None or not torch.allclose(left, right, rtol=1e-3, atol=1e-5):
            raise BrokenPromiseError(f"torch.compile changes the gradient of '{mine.name}'")


CHECKS: tuple[Callable[[Case], None], ...] = (
    attaches,
    keeps_shape_and_dtype,
    has_the_levels_it_promises,
    hardens_to_what_it_evaluates,
    is_deterministic,
    survives_a_checkpoint,
    copies,
    evaluates_without_a_trace,
    comes_off,
    evaluates_under_autocast,
    gives_its_parameters_once,
)
TRAINING: tuple[Callable[[Case], None], ...] = (
    has_gradients_everywhere,
    trains,
    updates_once_a_step,
    trains_under_autocast,
)
COMPILED: tuple[Callable[[Case], None], ...] = (compiles,)


# In two processes -------------------------------------------------------------------------------


def _in_two_processes(cases: Sequence[Case], report: Report) -> None:
    """Two processes with the same batches end where one process does."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of unused parameters
    with tempfile.TemporaryDirectory() as folder:
        try:
            spawn(_one_of_two, (cases, registry.plugins(), folder), nprocs=2, join=True)
        except Exception as error:
            last = str(error).strip().splitlines()[-1]
            message = f"under DistributedDataParallel: {last}"
            finding = Finding("agrees_in_two_processes", "linear", cases[0].bits, message)
            report.findings.append(finding)
            return
        for number, case in enumerate(cases):
            handle = case.attach()
            train(handle)
            alone = _state(handle.model)
            for rank in (0, 1):
                together = torch.load(Path(folder, f"{number}-{rank}.pt"), weights_only=True)
                far = [n for n in alone if not torch.allclose(alone[n], together[n], 1e-4, 1e-6)]
                if far:
                    message = (
                        f"two processes with the same batches end with another {far[0]} than one: "
                        "keep state in parameters and buffers"
                    )
                    finding = Finding("agrees_in_two_processes", "linear", case.bits, message)
                    report.findings.append(finding)
                    return
            report.passed += 1


def _one_of_two(
    rank: int, cases: Sequence[Case], plugins: Sequence[registry.Plugin], folder: str
) -> None:
    """Train every case in one of two processes, and leave its state in a file."""
    torch.set_num_threads(1)
    for plugin in plugins:
        registry.load_plugin(plugin)
    distributed.init_process_group(
        "gloo", init_method=Path(folder, "store").as_uri(), rank=rank, world_size=2
    )
    for number, case in enumerate(cases):
        handle = case.attach()
        model = nn.parallel.DistributedDataParallel(handle.model, find_unused_parameters=True)
        _steps(handle, _optimizer(handle), range(2), model)
        torch.save(_state(handle.model), Path(folder, f"{number}-{rank}.pt"))
    distributed.destroy_process_group()


def _would_do(case: Case, method: Method) -> bool:
    """Whether a method could do a width that it refuses: it trains, and uses all the bits."""
    forced = copy.copy(method)
    forced.supports = lambda bits, task: None  # type: ignore[method-assign]
    try:
        handle = case.attach(method=forced)
        attaches_as_told(handle, case.bits)
        train(handle)
        handle.harden().eval()
        through = _through(handle, images(2))
        weights = [(_weight(m).detach(), m.weight_bits) for m in handle.layers]
        counts = [(count_levels(w, method.weight_scope), width) for w, width in weights]
        counts += [
            (count_levels(through[m.name][1], "layer"), m.input_bits)
            for m in handle.layers
            if m.name in through
        ]
        used = all(
            width.is_float or width.count // 2 < levels <= width.count for levels, width in counts
        )
        named = all(_has_named_levels(w, width, method.weight_scope) for w, width in weights)
        finite = all(v.isfinite().all() for v in _state(handle.model).values())
    except Exception:
        return False
    return used and named and finite
