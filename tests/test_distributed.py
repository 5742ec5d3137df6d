"""Processes that train a trial together end where one does alone."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from qbench import distributed as parallel
from qbench.data.digits import Digits
from qbench.quant.options import build_method, method_options
from qbench.spec.placement import LAYER_INPUTS, Placement
from qbench.spec.recipe import Recipe
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.train.checkpoint import load_weights
from qbench.train.trial import Training

RECIPE = Recipe(
    epochs=2, batch_size=256, optimizer="sgd", lr=0.02, gradient_clip=5.0, calibration_images=512
)


def trial(method: str, bits: str, model: str, placement: Placement = LAYER_INPUTS) -> Trial:
    return Trial(
        method=method,
        options=method_options(build_method(method, OPTIONS.get(method, {}))),
        model=model,
        dataset="digits",
        task="classification",
        bits=bits,
        recipe=RECIPE,
        seed=0,
        placement=placement,
    )


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "to_input", Digits.to_input)  # so that it is put back
        double()
        yield
    torch.set_default_dtype(torch.float32)


def double() -> None:
    """Train in float64: a rounding is not continuous, and float32 sums differ by their order."""
    torch.set_default_dtype(torch.float64)
    Digits.to_input = lambda self, images: images.double()  # type: ignore[method-assign]


def train(what: Trial) -> tuple[Result, dict[str, torch.Tensor]]:
    training = Training(what)
    for _ in training.epochs():
        pass
    assert training.result.status == "done", training.result.traceback
    assert training.weights is not None
    return training.result, load_weights(training.weights)


# Two epochs to the default's final temperature are steps so steep that rounding decides.
OPTIONS = {"quantization_networks": {"temperature_rate": 5.0}}


# A value next to a threshold falls to either side by the last bit of a sum. So the widths are ones
# at which none does within these steps; a fault in what is shared is far larger than a threshold.
CASES: list[tuple[str, str, str] | tuple[str, str, str, Placement]] = [
    ("fp32", "32/32", "resnet_tiny"),
    ("ste", "4/4", "resnet_tiny"),
    ("jacob", "32/8", "convnet_tiny"),
    ("lq_nets", "32/3", "convnet_tiny"),
    ("quantization_networks", "3(±4)/2", "convnet_tiny"),
    ("lsq", "4/32", "convnet_tiny"),
    ("lsq", "32/4", "convnet_tiny"),
    ("pact", "32/4", "convnet_tiny"),
    ("jacob", "32/8", "resnet_tiny", "after_activation_and_add"),
    ("quantization_networks", "3(±4)/2", "resnet_tiny", "after_activation"),
    ("friesen_domingos", "32/2", "resnet_tiny", "after_activation"),
]


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    double()
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # DDP warns of unused parameters
    store = Path(folder, "store").as_uri()
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for number, case in enumerate(CASES):
        result, weights = train(trial(*case))
        content = {"weights": weights, "history": result.history, "metrics": result.metrics}
        torch.save(content, Path(folder, f"{number}-{rank}.pt"))
    parallel.end_process()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case, trained by two processes."""
    folder = tmp_path_factory.mktemp("together")
    spawn(one_of_two, (str(folder),), nprocs=2, join=True)
    return folder


@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(case) for case in CASES])
def test_two_processes_end_where_one_does(together: Path, number: int) -> None:
    result, weights = train(trial(*CASES[number]))
    first, second = (
        torch.load(together / f"{number}-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    for name, alone in weights.items():
        torch.testing.assert_close(first["weights"][name], alone, rtol=1e-4, atol=1e-4)
        assert torch.equal(first["weights"][name], second["weights"][name])
    for ours, theirs in zip(result.history, first["history"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-4)
    assert first["metrics"] == second["metrics"] == pytest.approx(result.metrics, abs=1e-4)


def each_gathers(rank: int, folder: str) -> None:
    store = Path(folder, "store").as_uri()
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    found = parallel.gather(torch.full((rank + 1, 3), float(rank)))
    torch.save(found, Path(folder, f"gathered-{rank}.pt"))
    norm: Any = parallel.synchronise_batch_norm(nn.BatchNorm1d(2).double(), torch.device("cpu"))
    x = torch.arange(20.0, dtype=torch.float64).view(10, 2).square()
    share = x[rank::2].clone().requires_grad_()
    norm(share)[:, 0].pow(3).sum().backward()
    torch.save({"grad": share.grad, **norm.state_dict()}, Path(folder, f"norm-{rank}.pt"))
    parallel.end_process()


def test_tensors_of_unequal_length_are_gathered_and_statistics_are_the_whole_batchs(
    tmp_path: Path,
) -> None:
    spawn(each_gathers, (str(tmp_path),), nprocs=2, join=True)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"gathered-{rank}.pt", weights_only=True)
        assert found[:, 0].tolist() == [0.0, 1.0, 1.0]
    norm = nn.BatchNorm1d(2).double()
    x = torch.arange(20.0, dtype=torch.float64).view(10, 2).square().requires_grad_()
    norm(x)[:, 0].pow(3).sum().backward()
    assert x.grad is not None
    for rank in (0, 1):
        found = torch.load(tmp_path / f"norm-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["grad"], x.grad[rank::2], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found["running_mean"], norm.running_mean)
        torch.testing.assert_close(found["running_var"], norm.running_var)


def test_alone_nothing_is_exchanged() -> None:
    x = torch.ones(2)
    assert parallel.gather(x) is x
    assert parallel.total(x) is x
    assert (parallel.rank(), parallel.world()) == (0, 1)


def each_ends(rank: int, folder: str) -> None:
    store = Path(folder, "store").as_uri()
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    atexit.register(Path(folder, "shut down").touch)
    sys.stdout = Path(folder, f"printed-{rank}").open("w", encoding="utf-8")  # noqa: SIM115
    print("the last line")
    parallel.end_process()


def test_a_process_ends_with_its_output_and_without_a_shutdown_of_its_interpreter(
    tmp_path: Path,
) -> None:
    spawn(each_ends, (str(tmp_path),), nprocs=2, join=True)
    for rank in (0, 1):
        assert (tmp_path / f"printed-{rank}").read_text() == "the last line\n"
    assert not (tmp_path / "shut down").exists()
