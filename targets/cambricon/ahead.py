"""Double buffering: what a loop's next step reads is fetched while this step computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstlight.codegen.nests.nodes import Node
from firstlight.codegen.nests.program import Axis, Nest
from firstlight.targets.cambricon.text import TYPES, WIDTHS, Room, Size, Writer, atom, times
from firstlight.targets.cambricon.tiles import Value
from firstlight.targets.cambricon.values import Values

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body

Site = tuple[Node, tuple[Axis, ...]]
"""What is computed as one tile, and over which axes."""


@dataclass(frozen=True)
class Deal:
    """The steps of several axes as rounds that tasks share."""

    out: Writer
    axes: tuple[Axis, ...]
    sizes: tuple[Size, ...]

    @property
    def total(self) -> Size:
        """How many rounds there are."""
        return times(*self.sizes)

    def at(self, number: str) -> dict[str, str]:
        """The names of S and of each axis in a round."""
        found, left = {"S": "S"}, number
        pairs = list(zip(self.axes, self.sizes, strict=True))
        for axis, size in reversed(pairs[1:]):
            found[axis.name] = self.out.scalar("int32", f"{atom(left)} % {atom(size)}")
            left = f"{atom(left)} / {atom(size)}"
        if pairs:
            found[pairs[0][0].name] = self.out.scalar("int32", left) if left != number else number
        return found


@dataclass(frozen=True)
class Bank:
    """A load's two places, one behind the other."""

    load: Node
    element: str
    axes: tuple[str, ...]
    room: Room
    nbytes: int

    def place(self, where: str, bank: str) -> str:
        """The place of one of them."""
        at = str(self.room.offset) + f" + {bank} * {self.nbytes}" * (bank != "0")
        return f"({TYPES[self.element]} *)({where}_nram + {at})"


class Ahead:
    """The loads of some sites, each with two places in NRAM as long as this is entered.

    None, where a site reads what the nest writes: then the next step may depend on this one.
    """

    def __init__(self, body: Body, nest: Nest, sites: Sequence[Site]) -> None:
        self.body, self.nest, self.sites = body, nest, sites
        self.tiles: list[list[Bank]] = []

    def __enter__(self) -> Ahead:
        found = []
        for node, axes in self.sites:
            values = self.body.values(self.nest, axes, {})
            root = values.legal.node(node)
            loads = [n for n in values.tiles(root) if n.op == "load"]
            found.append((values, loads))
        loads = [n for _, some in found for n in some]
        if loads and all(n.args[0] != self.nest.buffer.name for n in loads):
            self.tiles = [[self._bank(values, n) for n in some] for values, some in found]
        return self

    def __exit__(self, *_: object) -> None:
        for some in self.tiles:
            for bank in some:
                self.body.out.nram.give(bank.room)

    def _bank(self, values: Values, load: Node) -> Bank:
        element, axes = values.layout(load)
        nbytes = -(-values.most(axes) * WIDTHS[element] // 64) * 64
        return Bank(load, element, axes, self.body.out.nram.take(2 * nbytes), nbytes)

    def fetch(self, at: dict[str, str], inside: tuple[Axis, ...], bank: str) -> None:
        """Start all copies for a step. `inside` are the axes whose sizes depend on the step."""
        before = self.body.extents
        self.body.extents = {**before, **self.body.sizes(inside, at)}
        for (_, axes), some in zip(self.sites, self.tiles, strict=True):
            values = self.body.values(self.nest, axes, at)
            for one in some:
                values.fetch(one.load, one.place(self.body.out.where, bank), "__memcpy_async")
        self.body.extents = before

    def tiles_in(self, bank: str) -> list[Mapping[Node, Value]]:
        """For each site, what was fetched."""
        out = self.body.out
        found: list[Mapping[Node, Value]] = []
        for some in self.tiles:
            here: dict[Node, Value] = {}
            for one in some:
                name = out.fresh("t")
                out.line(f"{TYPES[one.element]} *{name} = {one.place(out.where, bank)};")
                here[one.load] = Value(name, one.load.dtype, one.axes)
            found.append(here)
        return found
