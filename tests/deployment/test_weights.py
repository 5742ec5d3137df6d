"""Hardened weights as codes and numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qbench.deployment.weights import group_numbers, pack_weight, packed_bytes
from qbench.errors import QbenchError
from qbench.spec.bits import BitWidth
from qbench.spec.granularity import Granularity, PerChannel, PerGroup, PerTensor
from qbench.spec.levels import (
    Binary,
    BinaryBases,
    Fixed,
    Integers,
    Learned,
    Levels,
    Named,
    PowersOfTwo,
    Ternary,
    Uniform,
)

GRANULARITIES: list[Granularity] = [PerTensor(), PerChannel(), PerChannel(1), PerGroup(5)]


def drawn(
    levels: Tensor, granularity: Granularity, shape: tuple[int, ...] = (4, 3, 3, 2)
) -> Tensor:
    """Draw a weight from the levels of its groups, (groups, levels)."""
    torch.manual_seed(0)
    groups = group_numbers(torch.empty(shape), granularity)
    return levels[groups, torch.randint(levels.shape[1], shape)]


def scales(granularity: Granularity, shape: tuple[int, ...] = (4, 3, 3, 2)) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(granularity.groups(shape), 1) + 0.01


def uniform(bits: int) -> Tensor:
    """The levels of DoReFa's weights, which no scale gives."""
    n = 2**bits - 1
    return (2 * (torch.arange(n + 1.0) / n) - 1)[None]


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize(
    ("bits", "levels"),
    [
        ("1", Binary()), ("2", Ternary()), ("4", Integers()), ("8", Integers(symmetric=True)),
        ("3(±4)", Named()), ("4", PowersOfTwo()), ("2", Uniform(scales=1)),
        ("2", Fixed(values=(0.0, 1.0, 3.0))),
    ],
)  # fmt: skip
def test_codes_and_one_scale_a_group_give_the_weight(
    bits: str, levels: Levels, granularity: Granularity
) -> None:
    width = BitWidth.parse(bits)
    codes = levels.codes(width)
    assert codes is not None
    weight = drawn(torch.tensor(codes) * scales(granularity), granularity)
    packed = pack_weight(weight, width, levels, granularity)
    assert packed.form == "scale"
    assert torch.equal(packed.weight(), weight)
    groups = granularity.groups(weight.shape)
    assert packed.size == packed_bytes(weight.numel(), groups, width, levels)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_constants_take_no_numbers(bits: int) -> None:
    weight = drawn(uniform(bits), PerTensor(), (40, 30))
    packed = pack_weight(weight, BitWidth(bits), Uniform(scales=0))
    assert (packed.form, packed.numbers.shape) == ("constants", (1, 0))
    assert torch.equal(packed.weight(), weight)
    assert packed.size == 40 * 30 * bits // 8


def test_constants_that_are_declared_need_not_all_occur() -> None:
    packed = pack_weight(torch.ones(2, 3), BitWidth(1), Binary(scales=0))
    assert packed.grid == (-1.0, 1.0)
    assert packed.codes.tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_zero_point_shifts_codes(bits: int, granularity: Granularity) -> None:
    levels = Integers(symmetric=True, scales=2, offset=True)
    codes = torch.arange(2.0**bits - 1) - 1  # from −1
    weight = drawn(codes * scales(granularity), granularity)
    packed = pack_weight(weight, BitWidth(bits), levels, granularity)
    assert packed.form == "zero_point"
    assert torch.equal(packed.numbers[:, 1], packed.numbers[:, 1].round())
    assert torch.equal(packed.weight(), weight)
    assert packed.size == packed_bytes(
        weight.numel(), granularity.groups(weight.shape), BitWidth(bits), levels
    )


@pytest.mark.parametrize("unused", [0, 3])
@pytest.mark.parametrize("bits", [3, 8])
def test_an_offset_shifts_levels(bits: int, unused: int) -> None:
    levels = torch.tensor(-0.7311) + torch.tensor(0.01734) * torch.arange(2.0**bits)
    weight = drawn(levels[None, unused:], PerTensor(), (30, 30))
    packed = pack_weight(weight, BitWidth(bits), Uniform(offset=True))
    assert packed.form == "offset"
    assert torch.equal(packed.weight(), weight)


def test_two_scales_are_the_levels_beside_zero() -> None:
    weight = drawn(torch.tensor([[-0.3, 0.0, 0.8]]), PerTensor())
    packed = pack_weight(weight, BitWidth(2), Ternary(scales=2))
    assert (packed.form, packed.numbers.shape) == ("signs", (1, 2))
    assert torch.equal(packed.weight(), weight)


@pytest.mark.parametrize(
    ("bits", "levels", "count"),
    [(2, Learned(), 4), (3, Learned(basis=True), 8), (2, BinaryBases(), 3)],
)
def test_learned_levels_are_a_table(bits: int, levels: Levels, count: int) -> None:
    granularity = PerChannel()
    torch.manual_seed(2)
    weight = drawn(torch.randn(4, count), granularity)
    packed = pack_weight(weight, BitWidth(bits), levels, granularity)
    assert (packed.form, packed.numbers.shape) == ("table", (4, count))
    assert torch.equal(packed.weight(), weight)
    assert packed.size == packed_bytes(weight.numel(), 4, BitWidth(bits), levels)


@pytest.mark.parametrize("levels", [Binary(), Learned(basis=True), BinaryBases()])
def test_one_bit_has_two_codes(levels: Levels) -> None:
    weight = drawn(torch.tensor([[-0.3, 0.8]]), PerTensor())
    packed = pack_weight(weight, BitWidth(1), levels)
    assert int(packed.codes.max()) == 1
    assert torch.equal(packed.weight(), weight)


def test_levels_that_are_not_the_declared_ones_are_a_table_that_takes_more() -> None:
    weight = drawn(torch.tensor([[0.1, 0.17, 0.5, 0.9]]), PerTensor())
    packed = pack_weight(weight, BitWidth(2), Integers())
    assert packed.form == "table"
    assert packed.size > packed_bytes(weight.numel(), 1, BitWidth(2), Integers())
    assert torch.equal(packed.weight(), weight)


def test_an_off_by_one_scale_is_not_accepted() -> None:
    scale = torch.tensor([[0.1234567]])
    weight = drawn(scale * torch.arange(-4.0, 4.0), PerTensor())
    packed = pack_weight(weight, BitWidth(3), Integers())
    wrong = torch.nextafter(packed.numbers, torch.tensor(1.0))
    object.__setattr__(packed, "numbers", wrong)
    assert not torch.equal(packed.weight(), weight)


def test_minus_zero_counts_as_zero() -> None:
    packed = pack_weight(torch.tensor([[-0.0, 0.0, 0.5]]), BitWidth(2), Integers())
    assert packed.codes[0, 0] == packed.codes[0, 1]
    assert not packed.weight().signbit().any()


def test_a_weight_of_zeros_is_packed() -> None:
    packed = pack_weight(torch.zeros(2, 3), BitWidth(4), Integers(), PerChannel())
    assert torch.equal(packed.weight(), torch.zeros(2, 3))


def test_more_levels_than_codes_are_refused() -> None:
    with pytest.raises(QbenchError, match="it has 6 levels, and its codes stand for 4"):
        pack_weight(torch.arange(6.0)[None], BitWidth(2), Integers())
