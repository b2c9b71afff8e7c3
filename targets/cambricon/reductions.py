"""Sums and largest values: terms in tiles, fetched one step ahead, joined to a total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from firstlight.codegen.nests.linear import coefficient, linear
from firstlight.codegen.nests.nodes import Node, walk
from firstlight.codegen.nests.program import Axis, Nest
from firstlight.codegen.nests.schedule import Tile
from firstlight.targets.cambricon.ahead import Ahead
from firstlight.targets.cambricon.scalars import Scalars
from firstlight.targets.cambricon.text import Size, Writer, atom, times
from firstlight.targets.cambricon.tiles import Value

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body

NEUTRAL = {("sum", "float32"): "0.0f", ("sum", "int32"): "0",
           ("max", "float32"): "fl_as_float32(0xff800000u)", ("max", "int32"): "(-2147483647 - 1)"}
JOIN = {"sum": "__bang_add", "max": "__bang_maxequal"}


class Joins(Protocol):
    """What a loop over terms does in each step."""

    @property
    def nest(self) -> Nest:
        """The nest that the terms are of."""

    def sites(self) -> list[tuple[Node, tuple[Axis, ...]]]:
        """What is computed in tiles, and over which axes."""

    def add(self, at: dict[str, str], total: Value,
            fetched: Sequence[Mapping[Node, Value]]) -> None:
        """One step's terms joined to the total."""


@dataclass(frozen=True)
class Terms:
    """Terms of a sum or of a largest value."""

    body: Body
    tile: Tile
    inside: tuple[Axis, ...]
    term: Node

    @property
    def nest(self) -> Nest:
        """The nest that the terms are of."""
        return self.tile.nest

    def sites(self) -> list[tuple[Node, tuple[Axis, ...]]]:
        """The term, over all axes of the tile: kept ones last where memory has them side by side.
        """
        kept = self.tile.inside(self.nest.axes)
        rows = self.inside and kept and not across(self.term, kept, self.inside)
        return [(self.term, (*kept, *self.inside) if rows else (*self.inside, *kept))]

    def add(self, at: dict[str, str], total: Value,
            fetched: Sequence[Mapping[Node, Value]]) -> None:
        """One tile of terms joined to the total."""
        ((term, order),) = self.sites()
        joined(self.body, self.tile, term, order, at, total, fetched[0])


def reduced(body: Body, tile: Tile, axes: tuple[Axis, ...], at: dict[str, str]) -> Value:
    """All parts' terms joined: a value for each place of the tile."""
    nest = tile.nest
    dtype = nest.parts[0].term.dtype
    values = body.values(nest, axes, at)
    names = tuple(a.name for a in axes)
    total = values.new(dtype, names)
    body.out.call("__bang_write_value", total.text, values.count(names),
                  NEUTRAL[nest.join, dtype])
    for part in nest.parts:
        inside = tile.inside(part.axes)
        terms = Terms(body, tile, inside, part.term)
        added(body, terms, tile.outside(part.axes), inside, at, total)
    if names:
        return total
    text = body.out.scalar(dtype, f"{total.text}[0]")
    values.give(total)
    return Value(text, dtype)


def added(body: Body, terms: Joins, loops: tuple[Axis, ...], inside: tuple[Axis, ...],
         at: dict[str, str], total: Value) -> None:
    """The terms of a part joined to `total`, loop by loop; tiles of the innermost loop are
    fetched one step ahead."""
    if not loops:
        body.extents = {**body.extents, **body.sizes(inside, at)}
        terms.add(at, total, [{} for _ in terms.sites()])
        return
    axis, *rest = loops
    size = Scalars(body.out, body.places, at).text(axis.extent)
    name = body.out.fresh("k")
    head = f"for (int32_t {name} = 0; {name} < {size}; ++{name})"
    with Ahead(body, terms.nest, terms.sites() if not rest else []) as ahead:
        if not ahead.tiles:
            with body.out.braces(head):
                added(body, terms, tuple(rest), inside, {**at, axis.name: name}, total)
            return
        bank = body.out.fresh("bank")
        body.out.line(f"int32_t {bank} = 0;")
        with ExitStack() as stack:
            if axis.extent.number is None:
                stack.enter_context(body.out.braces(f"if ({size} > 0)"))
            ahead.fetch({**at, axis.name: "0"}, inside, "0")
        with body.out.braces(head):
            body.out.line("__sync_io();")
            with body.out.braces(f"if ({name} + 1 < {size})"):
                ahead.fetch({**at, axis.name: f"{name} + 1"}, inside, f"(1 - {bank})")
            here = {**at, axis.name: name}
            body.extents = {**body.extents, **body.sizes(inside, here)}
            terms.add(here, total, ahead.tiles_in(bank))
            body.out.line("__sync_compute();")
            body.out.line(f"{bank} = 1 - {bank};")


def joined(body: Body, tile: Tile, term: Node, order: tuple[Axis, ...], at: dict[str, str],
           total: Value, fetched: Mapping[Node, Value]) -> None:
    """One tile of terms joined to the total."""
    nest, kept = tile.nest, tile.inside(tile.nest.axes)
    gone = tuple(a for a in order if a not in kept)
    values = body.values(nest, order, at)
    values.fetched = fetched
    value = values.root(term)
    full = (values.spread(value, tuple(a.name for a in order)) if order
            else values.spread_one(value))
    values.give(value)
    rows, row = (values.count(tuple(a.name for a in some)) for some in (gone, kept))
    if gone and kept and order[0] in kept:
        turned = values.new(total.dtype, full.axes)
        body.out.call("__bang_transpose", turned.text, full.text, row, rows)
        values.give(full)
        full = turned
    elif rows != 1 and full.held is None:      # folding writes, and this is still fetched
        own = values.new(total.dtype, full.axes)
        body.out.call("__bang_move", own.text, full.text, times(4, rows, row))
        full = own
    folded(body.out, nest.join, full.text, rows, row)
    body.out.call(JOIN[nest.join], total.text, total.text, full.text, row)
    values.give(full)


def folded(out: Writer, join: str, tile: str, rows: Size, row: Size) -> None:
    """Rows joined into the first one, the upper half to the lower one each time."""
    if rows == 1:
        return
    left, half = out.fresh("g"), out.fresh("h")
    with out.braces(f"for (int32_t {left} = {rows}; {left} > 1;)"):
        out.line(f"const int32_t {half} = {left} / 2;")
        out.line(f"{left} -= {half};")
        width = "" if row == 1 else f" * {atom(row)}"
        out.call(JOIN[join], tile, tile, f"{tile} + {left}{width}", f"{half}{width}")


def across(term: Node, kept: tuple[Axis, ...], gone: tuple[Axis, ...]) -> bool:
    """Whether what a term reads lies side by side along the last kept axis."""
    votes = 0
    for node in walk(term):
        if node.op == "load":
            index = linear(node.args[1], {})
            votes += coefficient(index, kept[-1].name) == 1
            votes -= coefficient(index, gone[-1].name) == 1
    return votes > 0
