"""Where quantizers sit follows from the calls of a forward pass alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from qbench.errors import QbenchError
from qbench.quant.placement.plan import Plan, plan
from qbench.quant.placement.sites import Call, Kind, Site
from qbench.spec.bits import BitWidth
from qbench.spec.placement import Placement

TWO, FOUR = BitWidth(2), BitWidth(4)


class Pass:
    """The calls of a forward pass, written one after the other."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def layer(self, name: str, read: int | None = None) -> int:
        return self._add(Call("layer", (read,), layer=name))

    def site(self, kind: Kind, name: str, *read: int | None) -> int:
        return self._add(Call(kind, read, Site("", kind, 0, name)))

    def other(self, *read: int | None) -> int:
        return self._add(Call("other", read))

    def keep(self, read: int | None) -> int:
        return self._add(Call("keep", (read,)))

    def cat(self, *read: int | None) -> int:
        return self._add(Call("cat", read))

    def _add(self, call: Call) -> int:
        self.calls.append(call)
        return len(self.calls) - 1

    def plan(
        self,
        quantized: Sequence[str],
        placement: Placement = "after_activation",
        bits: BitWidth = TWO,
        replaces: bool = False,
        **widths: BitWidth,
    ) -> Plan:
        return plan(self.calls, placement, dict.fromkeys(quantized, TWO) | widths, bits, replaces)


def places(planned: Plan) -> dict[str, tuple[str, ...]]:
    return {place.name: place.consumers for place in planned.places}


def arrivals(planned: Plan) -> dict[str, str]:
    return {each.point.name: each.place for each in planned.arrivals}


def residual_block(p: Pass, x: int, name: str = "") -> int:
    """Write a block: layer, ReLU, layer, normalization, addition of x, ReLU."""
    y = p.site("relu", f"{name}inner", p.other(p.layer(f"{name}first", x)))
    y = p.other(p.layer(f"{name}second", y))
    return p.site("relu", f"{name}outer", p.site("add", f"{name}sum", y, x))


def test_a_relu_gets_one_quantizer_for_all_that_read_it() -> None:
    p = Pass()
    x = p.site("relu", "relu", p.layer("stem"))
    p.layer("left", x)
    p.layer("right", p.keep(x))
    planned = p.plan(["left", "right"])
    assert places(planned) == {"relu": ("left", "right")}
    assert planned.own_inputs == ()


def test_the_quantizer_sits_behind_the_max_pooling_that_alone_reads_the_relu() -> None:
    p = Pass()
    x = p.site("max_pool", "pool", p.keep(p.site("relu", "relu", p.layer("stem"))))
    p.layer("next", x)
    planned = p.plan(["next"])
    assert places(planned) == {"pool": ("next",)}
    assert planned.places[0].kind == "pool_output"
    assert arrivals(planned) == {}  # the pooling reads unquantized values


def test_a_quantizer_that_replaces_the_relu_sits_before_the_pooling() -> None:
    p = Pass()
    x = p.site("max_pool", "pool", p.site("relu", "relu", p.layer("stem")))
    p.layer("next", x)
    assert places(p.plan(["next"], replaces=True)) == {"relu.input": ("pool", "next")}


def test_the_quantizer_sits_behind_the_relu_that_others_read_too() -> None:
    p = Pass()
    x = p.site("relu", "relu", p.layer("stem"))
    p.layer("next", p.site("max_pool", "pool", x))
    p.layer("other", x)
    planned = p.plan(["next", "other"])
    assert places(planned) == {"relu": ("pool", "next", "other")}
    assert arrivals(planned) == {"pool.input": "relu"}


def test_what_only_full_precision_layers_read_is_not_quantized() -> None:
    p = Pass()
    p.layer("classifier", p.keep(p.site("relu", "relu", p.layer("last"))))
    assert places(p.plan([])) == {}


def test_what_nothing_reads_is_not_quantized() -> None:
    p = Pass()
    p.site("relu", "relu", p.layer("last"))
    assert places(p.plan([])) == {}


def test_what_an_average_pooling_reads_is_quantized_at_the_nominal_width() -> None:
    p = Pass()
    p.layer("classifier", p.site("avg_pool", "mean", p.site("relu", "relu", p.layer("last"))))
    planned = p.plan([], bits=FOUR)
    assert places(planned) == {"relu": ("mean",)}
    assert planned.places[0].bits == FOUR
    assert arrivals(planned) == {"mean.input": "relu"}


def test_a_full_precision_nominal_width_leaves_it_alone() -> None:
    p = Pass()
    p.layer("classifier", p.site("avg_pool", "mean", p.site("relu", "relu", p.layer("last"))))
    planned = p.plan([], bits=BitWidth(32))
    assert not planned.places
    assert not planned.arrivals


def test_a_layer_whose_input_is_on_no_levels_has_a_quantizer_at_its_own_input() -> None:
    p = Pass()
    p.layer("after_gelu", p.other(p.layer("stem")))
    p.layer("after_image")
    planned = p.plan(["after_image", "after_gelu"])
    assert planned.places == ()
    assert planned.own_inputs == ("after_image", "after_gelu")


def test_a_layer_that_is_never_called_counts_as_one_with_a_quantizer_of_its_own() -> None:
    p = Pass()
    p.layer("stem")
    assert p.plan(["auxiliary"]).own_inputs == ("auxiliary",)


def test_a_classifier_reads_means_of_levels_which_are_no_levels() -> None:
    p = Pass()
    mean = p.site("avg_pool", "mean", p.site("relu", "relu", p.layer("last")))
    p.layer("classifier", p.keep(mean))
    assert p.plan(["classifier"]).own_inputs == ("classifier",)


def test_a_relu_of_values_on_levels_is_not_quantized_again() -> None:
    p = Pass()
    x = p.site("relu", "first", p.layer("stem"))
    p.layer("next", p.site("relu", "second", x))
    p.layer("other", x)
    assert places(p.plan(["next", "other"])) == {"first": ("next", "other")}


def test_branches_that_meet_share_a_quantizer() -> None:
    p = Pass()
    left = p.site("relu", "left", p.layer("a"))
    right = p.site("relu", "right", p.layer("b"))
    p.layer("next", p.cat(left, p.site("max_pool", "pool", right)))
    p.layer("other", right)
    planned = p.plan(["next", "other"])
    (place,) = planned.places
    assert [point.name for point in place.points] == ["left", "right"]
    assert {"next", "other"} <= set(place.consumers)
    assert planned.own_inputs == ()


def test_branches_that_meet_across_several_concatenations_share_one() -> None:
    p = Pass()
    a, b, c = (p.site("relu", name, p.layer(f"layer_{name}")) for name in "abc")
    first = p.cat(a, b)
    p.layer("next", p.cat(first, c))
    assert [len(place.points) for place in p.plan(["next"]).places] == [3]


def test_a_concatenation_with_an_unquantized_branch_is_on_no_levels() -> None:
    p = Pass()
    left = p.site("relu", "left", p.layer("a"))
    p.layer("next", p.cat(left, p.other(p.layer("b"))))
    planned = p.plan(["next"])
    assert planned.own_inputs == ("next",)


def test_readers_with_different_widths_are_refused_by_name() -> None:
    p = Pass()
    x = p.site("relu", "relu", p.layer("stem"))
    p.layer("left", x)
    p.layer("right", x)
    with pytest.raises(QbenchError, match=r"'left' and 'right' read the same values.*2 and 4 bits"):
        p.plan(["left"], right=FOUR)


def test_the_width_is_that_of_the_layers_that_read() -> None:
    p = Pass()
    p.layer("last", p.site("relu", "relu", p.layer("first")))
    (place,) = p.plan([], last=FOUR).places
    assert place.bits == FOUR


def test_a_residual_block_adds_quantized_values_to_unquantized_ones() -> None:
    p = Pass()
    x = p.site("relu", "stem_relu", p.layer("stem"))
    p.site("avg_pool", "mean", residual_block(p, x))
    planned = p.plan(["first", "second"])
    assert places(planned) == {
        "stem_relu": ("first", "sum"), "inner": ("second",), "outer": ("mean",),
    }  # fmt: skip
    assert arrivals(planned) == {"sum.right": "stem_relu", "mean.input": "outer"}


def test_additions_get_quantizers_for_what_is_on_no_levels_yet() -> None:
    p = Pass()
    x = p.site("relu", "stem_relu", p.layer("stem"))
    p.site("avg_pool", "mean", residual_block(p, x))
    planned = p.plan(["first", "second"], "after_activation_and_add")
    found = {place.name: place.kind for place in planned.places}
    assert found == {
        "stem_relu": "activation", "inner": "activation", "sum.left": "add_input",
        "outer": "activation",
    }  # fmt: skip
    assert set(arrivals(planned)) == {"sum.left", "sum.right", "mean.input"}


def test_an_addition_that_a_layer_reads_gets_a_quantizer_behind_it() -> None:
    p = Pass()
    x = p.layer("stem")
    total = p.site("add", "sum", p.other(p.layer("bottleneck", x)), x)
    p.layer("next", total)
    planned = p.plan(["next"], "after_activation_and_add")
    found = {place.name: place.kind for place in planned.places}
    assert found == {"sum.left": "add_input", "sum.right": "add_input", "sum": "add_output"}
    assert planned.own_inputs == ()
    assert p.plan(["next"]).own_inputs == ("next",)


def test_a_module_that_is_called_five_times_has_one_quantizer_for_each_site() -> None:
    p = Pass()
    for _ in range(5):
        p.layer("head", p.site("relu", "relu", p.layer("tower", p.other())))
    planned = p.plan(["tower", "head"])
    assert places(planned) == {"relu": ("head",)}
    assert planned.own_inputs == ("tower",)


def test_a_site_where_nothing_can_be_inserted_leaves_its_readers_to_themselves() -> None:
    p = Pass()
    p.calls = [
        Call("layer", (None,), layer="stem"),
        Call("relu", (0,), Site("", "relu", 0), placeable=False),
        Call("layer", (1,), layer="next"),
    ]
    assert p.plan(["next"]).own_inputs == ("next",)
