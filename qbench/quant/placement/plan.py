"""Decide where activation quantizers sit, from the calls of one forward pass.

Rules of ``after_activation``:

1. Every ReLU call gets a quantizer behind it.
2. If only max-poolings read what a ReLU puts out, the quantizers sit behind those.
3. If only full-precision layers read it, or nothing does, it gets none.
4. Values that are on levels already are not quantized again.
5. What meets in a concatenation shares one quantizer.
6. A quantized layer whose input is on no levels gets a quantizer at its own input.

If a method's quantizers replace activations, the quantizer of a ReLU call is put in its place, and
rule 2 does not apply.

``after_activation_and_add`` adds: both inputs of an addition and its output. An output that only
ReLUs read gets none, because theirs follows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from qbench.errors import QbenchError
from qbench.method import PlaceKind
from qbench.quant.placement.sites import Call, Part, Point, Site
from qbench.spec.bits import BitWidth
from qbench.spec.placement import Placement

_VALUES_PASS = ("keep", "max_pool", "cat")  # calls that put out only values that they read


@dataclass(frozen=True)
class PlannedPlace:
    """One quantizer and the points that it sits at.

    Attributes:
        kind: What is quantized.
        points: Points at which the quantizer sits. Several share it if they meet in a
            concatenation.
        consumers: Names of the quantized layers, the additions and the poolings that receive the
            quantized values.
        bits: Bit-width.
    """

    kind: PlaceKind
    points: tuple[Point, ...]
    consumers: tuple[str, ...]
    bits: BitWidth

    @property
    def name(self) -> str:
        """Name of the place, that of its first point."""
        return self.points[0].name


@dataclass(frozen=True)
class Arrival:
    """Point at which quantized values arrive: an input of an addition or of a pooling.

    Attributes:
        point: The point.
        place: Name of the place that the values come from.
    """

    point: Point
    place: str


@dataclass(frozen=True)
class Plan:
    """Where the activation quantizers of a model sit.

    Attributes:
        places: Places between layers.
        own_inputs: Names of the layers with a quantizer at their own input, those that the pass
            does not call among them.
        arrivals: Additions and poolings at which values of places arrive.
    """

    places: tuple[PlannedPlace, ...]
    own_inputs: tuple[str, ...]
    arrivals: tuple[Arrival, ...]


def plan(
    calls: Sequence[Call],
    placement: Placement,
    widths: Mapping[str, BitWidth],
    bits: BitWidth,
    replaces: bool = False,
) -> Plan:
    """Decide where activation quantizers sit.

    Args:
        calls: Calls of one forward pass, in their order.
        placement: ``after_activation`` or ``after_activation_and_add``.
        widths: Widths of the inputs of the quantized layers, by name. Layers that are not in it
            have a full-precision input.
        bits: Width of places that no quantized layer reads.
        replaces: Whether quantizers replace ReLUs, see `Method.replaces_activations`.

    Returns:
        The plan.

    Raises:
        QbenchError: Two layers read the same values and want them at different widths.

    Example:
        >>> relu = Site("", "relu", 0, "1")
        >>> calls = [Call("layer", (None,), layer="0"), Call("relu", (0,), relu)]
        >>> calls += [Call("layer", (1,), layer="2")]
        >>> two = BitWidth(2)
        >>> [place.name for place in plan(calls, "after_activation", {"2": two}, two).places]
        ['1']
    """
    return _Planner(calls, placement, widths, bits, replaces).plan()


@dataclass(eq=False)
class _Group:
    """Points that share a quantizer."""

    kind: PlaceKind
    points: list[Point]
    consumers: dict[str, None] = field(default_factory=dict)  # in the order of the pass
    merged: _Group | None = None

    def whole(self) -> _Group:
        return self if self.merged is None else self.merged.whole()


class _Planner:
    def __init__(
        self,
        calls: Sequence[Call],
        placement: Placement,
        widths: Mapping[str, BitWidth],
        bits: BitWidth,
        replaces: bool,
    ) -> None:
        self._calls, self._widths, self._bits = calls, widths, bits
        self._part_of_relu: Part = "input" if replaces else "output"
        self._adds = placement == "after_activation_and_add"
        self._readers: list[list[int]] = [[] for _ in calls]
        for number, call in enumerate(calls):
            for made in set(call.inputs):
                if made is not None:
                    self._readers[made].append(number)
        self._of_site: dict[Site, list[int]] = defaultdict(list)
        for number, call in enumerate(calls):
            if call.site is not None:
                self._of_site[call.site].append(number)
        self._groups: dict[Point, _Group] = {}
        self._levels: list[_Group | None] = []  # of each call's output; None if on no levels

    def plan(self) -> Plan:
        own_inputs = dict.fromkeys(self._widths.keys() - {call.layer for call in self._calls})
        arrivals: dict[Point, _Group] = {}
        for call in self._calls:
            self._levels.append(self._output(call))
            for point, group in self._arriving(call):
                group.whole().consumers[point.site.name] = None
                arrivals[point] = group
            if call.layer in self._widths:
                read = self._level_of(call.inputs[0] if call.inputs else None)
                if read is None:
                    own_inputs[call.layer] = None
                else:
                    read.whole().consumers[call.layer] = None
        groups = dict.fromkeys(group.whole() for group in self._groups.values())
        places = [place for place in map(self._place, groups) if not place.bits.is_float]
        names = {place.name for place in places}
        sources = ((point, group.whole().points[0].name) for point, group in arrivals.items())
        return Plan(
            places=tuple(places),
            own_inputs=tuple(name for name in self._widths if name in own_inputs),
            arrivals=tuple(Arrival(point, name) for point, name in sources if name in names),
        )

    def _level_of(self, made: int | None) -> _Group | None:
        return None if made is None else self._levels[made]

    def _output(self, call: Call) -> _Group | None:
        """Decide about a call, and return the group whose levels its output is on."""
        read = [self._level_of(made) for made in call.inputs]
        first = read[0] if read else None
        part = self._part_of_relu if call.kind == "relu" else "output"
        if call.site is not None and (known := self._groups.get(Point(call.site, part))):
            return known  # of an earlier call at the site
        match call.kind:
            case "relu" | "max_pool" if first is None and self._gets_quantizer(call):
                kind: PlaceKind = "activation" if call.kind == "relu" else "pool_output"
                return self._group(call, part, kind)
            case "keep" | "max_pool" | "relu":
                return first
            case "cat":
                return _merge(read)
            case "add" if self._adds:
                return self._addition(call, read)
            case _:
                return None

    def _group(self, call: Call, part: Part, kind: PlaceKind) -> _Group:
        assert call.site is not None  # noqa: S101
        point = Point(call.site, part)
        return self._groups.setdefault(point, _Group(kind, [point])).whole()

    def _gets_quantizer(self, call: Call) -> bool:
        if call.site is None or not call.placeable:
            return False
        if call.kind == "max_pool" and not any(map(self._moves, self._sources(call.site))):
            return False
        return not (call.kind == "relu" and self._moves(call.site)) and self._is_read(call.site)

    def _moves(self, site: Site) -> bool:
        """Return whether the quantizer of a ReLU sits behind the max-poolings that read it."""
        readers = [r for number in self._of_site[site] for r in self._following(number, "keep")]
        pools = [self._calls[r] for r in readers]
        return (
            site.kind == "relu"
            and self._part_of_relu == "output"
            and bool(pools)
            and all(pool.kind == "max_pool" and pool.placeable for pool in pools)
        )

    def _sources(self, pool: Site) -> Iterator[Site]:
        """Yield the sites whose output a pooling reads."""
        for number in self._of_site[pool]:
            made = self._calls[number].inputs[0]
            while made is not None and self._calls[made].kind == "keep":
                made = self._calls[made].inputs[0]
            site = None if made is None else self._calls[made].site
            if site is not None:
                yield site

    def _is_read(self, site: Site) -> bool:
        """Return whether anything but full-precision layers reads the output of a site."""
        return any(
            self._calls[reader].kind != "layer" or self._calls[reader].layer in self._widths
            for number in self._of_site[site]
            for reader in self._following(number, *_VALUES_PASS)
        )

    def _following(self, number: int, *through: str) -> Iterator[int]:
        """Yield the calls that read an output, also what calls of some kinds make of it."""
        for reader in self._readers[number]:
            if self._calls[reader].kind in through:
                yield from self._following(reader, *through)
            else:
                yield reader

    def _addition(self, call: Call, read: Sequence[_Group | None]) -> _Group | None:
        if call.site is None or not call.placeable:
            return None
        parts: tuple[Part, ...] = ("left", "right")
        for part, level in zip(parts, read, strict=False):
            if level is None:
                self._group(call, part, "add_input")
        readers = [r for n in self._of_site[call.site] for r in self._following(n, "keep")]
        only_relus = all(self._calls[r].kind == "relu" for r in readers)
        if only_relus or not self._is_read(call.site):
            return None
        return self._group(call, "output", "add_output")

    def _arriving(self, call: Call) -> Iterator[tuple[Point, _Group]]:
        """Yield the inputs of an addition or a pooling that are on levels."""
        if call.site is None or call.kind not in ("add", "avg_pool", "max_pool"):
            return
        parts: tuple[Part, ...] = ("left", "right") if call.kind == "add" else ("input",)
        for part, made in zip(parts, call.inputs, strict=False):
            point = Point(call.site, part)
            group = self._groups.get(point) or self._level_of(made)
            if group is not None:
                yield point, group

    def _place(self, group: _Group) -> PlannedPlace:
        layers = [name for name in group.consumers if name in self._widths]
        for name in layers[1:]:
            mine, its = self._widths[name], self._widths[layers[0]]
            if mine != its:
                raise QbenchError(
                    f"'{layers[0]}' and '{name}' read the same values, which cannot have {its} and "
                    f"{mine} bits at once; give both the same width, or use "
                    "placement='layer_inputs'"
                )
        width = self._widths[layers[0]] if layers else self._bits
        return PlannedPlace(group.kind, tuple(group.points), tuple(group.consumers), width)


def _merge(read: Sequence[_Group | None]) -> _Group | None:
    """Let everything that meets in a concatenation share a quantizer, if all is on levels."""
    groups = list(dict.fromkeys(group.whole() for group in read if group is not None))
    if not groups or any(group is None for group in read):
        return None
    first, *others = groups
    for other in others:
        first.points += other.points
        first.consumers |= other.consumers
        other.merged = first
    return first
