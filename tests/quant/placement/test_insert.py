"""Quantizers at call sites: the model computes what it did, and each sees its own tensor once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from qbench.quant.placement.sites import observed_points
from qbench.spec.placement import Placement
from tests.helpers.placed import (
    Block,
    Unchanged,
    find,
    gradients,
    insert_unchanged,
    residual_network,
)


class Functional(nn.Module):
    """Calls functions where others call modules, and a child that does so too."""

    def __init__(self, child: nn.Module | None = None) -> None:
        super().__init__()
        self.child = child or nn.Identity()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(x.shape[1], 1, 1, device=x.device)  # a call that reads no tensor
        x = F.max_pool2d(F.relu(self.conv1(self.child(x * ones))), 1)
        return torch.relu(self.conv2(x) + x)


class Reused(nn.Module):
    """Passes one activation to several blocks."""

    def __init__(self) -> None:
        super().__init__()
        activation = nn.ReLU()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 1), activation, nn.Conv2d(4, 4, 1)) for _ in range(1)
        )
        self.activation = activation
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.activation(block(x))
        return self.last(x)


class Towers(nn.Module):
    """Calls one head for several feature maps of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(F.avg_pool2d(x, n)).mean((2, 3)) for n in (1, 2, 4)])


def nested() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), Functional(Functional()), nn.Conv2d(4, 2, 1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "modules": residual_network,
    "functions": nested,
    "reused": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Reused(), nn.Conv2d(4, 2, 1)),
    "relu6": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1), nn.ReLU6(), nn.Conv2d(4, 2, 1)
    ),
    "towers": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), Towers()),
}


def images(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("placement", ["after_activation", "after_activation_and_add"])
@pytest.mark.parametrize("network", NETWORKS)
def test_identity_leaves_outputs_and_gradients_bitwise_equal(
    network: str, placement: Placement
) -> None:
    torch.manual_seed(0)
    plain = NETWORKS[network]()
    model = copy.deepcopy(plain)
    found = find(model, images(), placement)
    assert found.places
    insert_unchanged(model, found)
    for training in (False, True):
        pairs = zip(
            gradients(plain.train(training), images(1)),
            gradients(model.train(training), images(1)),
            strict=True,
        )
        for expected, actual in pairs:
            if expected is None or actual is None:  # a parameter that the output does not use
                assert expected is actual
            else:
                assert torch.equal(expected, actual)


@pytest.mark.parametrize("placement", ["after_activation", "after_activation_and_add"])
@pytest.mark.parametrize("network", NETWORKS)
def test_each_quantizer_sees_what_was_sampled_for_it(network: str, placement: Placement) -> None:
    torch.manual_seed(0)
    model = NETWORKS[network]().eval()
    found = find(model, images(), placement)
    sampled: dict[str, list[Tensor]] = {point.name: [] for point in found.points}
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with observed_points(
        model, layers, found.points, lambda point, x: sampled[point.name].append(x.clone())
    ):
        model(images(1))
    _, quantizers = insert_unchanged(model, found)
    model(images(1))
    for quantizer, points in zip(quantizers, found.points_of, strict=True):
        expected = [x for point in points for x in sampled[point.name]]
        assert len(quantizer.seen) == len(expected)
        assert all(map(torch.equal, quantizer.seen, expected))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_quantizer_in_place_of_a_relu_receives_what_the_relu_would(network: str) -> None:
    class Relu(Unchanged):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    torch.manual_seed(0)
    plain = NETWORKS[network]()
    model = copy.deepcopy(plain)
    insertion, quantizers = insert_unchanged(model, find(model, images(), replaces=True))
    for quantizer in quantizers:
        quantizer.__class__ = Relu
    for expected, actual in zip(
        gradients(plain, images(1)), gradients(model, images(1)), strict=True
    ):
        if expected is None or actual is None:  # a parameter that the output does not use
            assert expected is actual
        else:
            assert torch.equal(expected, actual)
    assert all(x.min() < 0 for quantizer in quantizers for x in quantizer.seen)
    insertion.remove()
    for each, other in zip(model.modules(), plain.modules(), strict=True):
        assert vars(each).get("inplace") == vars(other).get("inplace")


def test_one_relu_that_is_called_twice_has_two_quantizers() -> None:
    model = residual_network(blocks=1)
    found = find(model, images())
    assert [place.name for place in found.places] == ["3", "4.relu", "4.relu:1"]
    insert_unchanged(model, found)
    assert [name for name, m in model.named_modules() if isinstance(m, Unchanged)] == [
        "3.activation_quantizers.0",
        "4.relu.activation_quantizers.0",
        "4.relu.activation_quantizers.1",
    ]


def test_parameters_keep_their_names_and_modules_their_classes() -> None:
    model = nested()
    names, kinds = list(model.state_dict()), [type(m).__name__ for m in model.modules()]
    insertion, _ = insert_unchanged(model, find(model, images(), "after_activation_and_add"))
    assert list(model.state_dict()) == names
    assert isinstance(model[1], Functional)
    assert repr(type(model[1])).endswith("Functional'>")
    insertion.remove()
    assert [type(m).__name__ for m in model.modules()] == kinds
    fresh = nested().modules()
    assert all(
        vars(m).keys() == vars(n).keys() for m, n in zip(model.modules(), fresh, strict=True)
    )
    assert type(model[1]) is Functional


@pytest.mark.parametrize("network", NETWORKS)
def test_copies_and_pickles_have_quantizers_of_their_own(network: str) -> None:
    model = NETWORKS[network]().eval()
    insert_unchanged(model, find(model, images()))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images()), model(images()))
        mine, its = (
            [m for m in each.modules() if isinstance(m, Unchanged)] for each in (model, other)
        )
        assert not set(mine) & set(its)
        assert all(torch.equal(a.seen[-1], b.seen[-1]) for a, b in zip(mine, its, strict=True))


def test_checkpointed_blocks_count_their_calls_again() -> None:
    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 4, 1), nn.Sequential(Block(), Functional())
            self.last = nn.Conv2d(4, 2, 1)
            self.again = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = checkpoint(self.block, x, use_reentrant=False) if self.again else self.block(x)
            return self.last(x)

    torch.manual_seed(0)
    model = Stages().eval()
    _, quantizers = insert_unchanged(model, find(model, images(), "after_activation_and_add"))
    expected = gradients(model, images())
    once = [each.seen[-1] for each in quantizers]
    model.again = True
    for a, b in zip(expected, gradients(model, images()), strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)
    for each, first in zip(quantizers, once, strict=True):
        assert all(torch.equal(x, first) for x in each.seen)


def test_a_failed_forward_pass_does_not_confuse_the_next() -> None:
    class Fails(nn.Module):
        fail = False

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise ValueError("on purpose")
            return x

    child = Fails()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Functional(child), nn.Conv2d(4, 2, 1)).eval()
    _, quantizers = insert_unchanged(model, find(model, images()))
    expected = model(images())
    child.fail = True
    with pytest.raises(ValueError, match="on purpose"):
        model(images())
    child.fail = False
    assert torch.equal(model(images()), expected)
    assert [len(each.seen) for each in quantizers] == [2]


@pytest.mark.parametrize("network", ["modules", "functions"])
def test_torch_compile_traces_the_whole_model(network: str) -> None:
    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0.5

    torch.manual_seed(0)
    model = NETWORKS[network]().eval()
    insertion, _ = insert_unchanged(model, find(model, images(), "after_activation_and_add"))
    for module, name in insertion.seats.values():
        setattr(module, name, Scale())
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for x in map(images, range(2)):
        assert torch.allclose(compiled(x), model(x))
