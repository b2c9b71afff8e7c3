"""Sums of products on the matrix unit: reshape_filter, NRAM2WRAM, matmul. No other chain is known
to be right on a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstlight.codegen.nests.linear import coefficient, linear
from firstlight.codegen.nests.nodes import Node, walk
from firstlight.codegen.nests.program import Axis, Nest
from firstlight.codegen.nests.schedule import Tile
from firstlight.targets.cambricon import reductions
from firstlight.targets.cambricon.text import Size, times
from firstlight.targets.cambricon.tiles import Held, Value
from firstlight.targets.cambricon.values import Values

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body

DEPTH = 16
"""The inner side is a multiple of it: 64 bytes of floats."""
COLUMNS = 64
"""Storage of the right operand has a multiple of so many columns."""


class Product:
    """One tile [rows, columns] of a nest whose terms are products."""

    def __init__(self, body: Body, tile: Tile, at: dict[str, str]) -> None:
        self.body, self.tile, self.at, self.out = body, tile, at, body.out
        axes = {a.name: a for a in tile.nest.axes}
        self.rows, self.columns = axes.get(tile.rows), axes[tile.columns]

    def total(self) -> Value:
        """All parts' products added up."""
        axes = tuple(a for a in (self.rows, self.columns) if a is not None)
        values = self.values(axes)
        names = tuple(a.name for a in axes)
        total = values.new("float32", names)
        self.out.call("__bang_write_value", total.text, values.count(names), "0.0f")
        for part in self.tile.nest.parts:
            (inner,) = self.tile.inside(part.axes)
            reductions.added(self.body, Part(self, inner, part.term), self.tile.outside(part.axes),
                            (inner,), self.at, total)
        return total

    def values(self, axes: tuple[Axis, ...], at: dict[str, str] | None = None) -> Values:
        return self.body.values(self.tile.nest, axes, self.at if at is None else at)

    def sides(self, term: Node, inner: Axis) -> list[tuple[Node, tuple[Axis, ...]]]:
        """Both factors, and the axes of their tiles."""
        left, right = term.args
        row = () if self.rows is None else (self.rows,)
        flat = [linear(n.args[1], {}) for n in walk(right) if n.op == "load"]
        across = any(coefficient(index, self.columns.name) == 1 for index in flat)
        return [(left, (*row, inner)),
                (right, (inner, self.columns) if across else (self.columns, inner))]

    def add(self, term: Node, inner: Axis, at: dict[str, str], total: Value,
            fetched: Sequence[Mapping[Node, Value]]) -> None:
        """One product added to the total."""
        depth = -(-(inner.length or 1) // DEPTH) * DEPTH
        wide = -(-(self.columns.length or 1) // COLUMNS) * COLUMNS
        heights: Size = 1 if self.rows is None else self.body.extents[self.rows.name]
        (left, own), (right, other) = self.sides(term, inner)
        a = self.matrix(left, own, at, fetched[0])
        a = self.padded(a, heights, heights, inner, depth)
        b = self.matrix(right, other, at, fetched[1])
        values = self.values((self.columns, inner), at)
        if other[0] == inner:
            turned = values.new("float32", (self.columns.name, inner.name))
            self.out.call("__bang_transpose", turned.text, b.text, self.body.extents[inner.name],
                          self.body.extents[self.columns.name])
            values.give(b)
            b = turned
        b = self.padded(b, self.body.extents[self.columns.name], wide, inner, depth)
        turned = self.room(wide * depth)
        self.out.call("__bang_reshape_filter", turned.text, b.text, wide, 1, 1, depth)
        values.give(b)
        self.out.wram = max(self.out.wram, wide * depth * 4)
        wram = f"{self.out.where}_wram"
        self.out.line("__sync_compute();")
        self.out.call("__memcpy_async", wram, turned.text, wide * depth * 4, "NRAM2WRAM")
        self.out.line("__sync_move();")
        values.give(turned)
        product = self.values(tuple(x for x in (self.rows, self.columns) if x)).new(
            "float32", total.axes)
        columns = self.body.extents[self.columns.name]
        self.out.call("__bang_matmul", product.text, a.text, wram, heights, depth, columns)
        values.give(a)
        self.out.call("__bang_add", total.text, total.text, product.text, times(heights, columns))
        values.give(product)

    def matrix(self, node: Node, axes: tuple[Axis, ...], at: dict[str, str],
               fetched: Mapping[Node, Value]) -> Value:
        """A factor as a dense tile over all of `axes`."""
        values = self.values(axes, at)
        values.fetched = fetched
        value = values.root(node)
        full = values.spread(value, tuple(a.name for a in axes))
        values.give(value)
        return full

    def padded(self, x: Value, rows: Size, storage: Size, inner: Axis, depth: int) -> Value:
        """Rows of `depth` floats with zeros at their ends, in storage for so many rows."""
        have = self.body.extents[inner.name]
        if have == depth and storage == rows:
            return x
        most = storage if isinstance(storage, int) else self.rows.length or 1 if self.rows else 1
        to = self.room(most * depth)
        if have == depth:
            self.out.call("__bang_move", to.text, x.text, times(4, depth, rows))
        else:
            self.out.call("__bang_write_value", to.text, most * depth, "0.0f")
            self.values(()).rows(to.text, depth, x.text, have, have, rows)
        self.values(()).give(x)
        return to

    def room(self, floats: int) -> Value:
        """A place for so many floats."""
        room = self.out.nram.take(floats * 4)
        return Value(self.out.pointer("float32", room), "float32", ("matrix",), Held(room, 1))


@dataclass(frozen=True)
class Part:
    """Terms of a product, as `Body.part` adds them up."""

    product: Product
    inner: Axis
    term: Node

    @property
    def nest(self) -> Nest:
        """The nest that the terms are of."""
        return self.product.tile.nest

    def sites(self) -> list[tuple[Node, tuple[Axis, ...]]]:
        """What is computed in tiles, and over which axes."""
        return self.product.sides(self.term, self.inner)

    def add(self, at: dict[str, str], total: Value,
            fetched: Sequence[Mapping[Node, Value]]) -> None:
        """One step's terms joined to the total."""
        self.product.add(self.term, self.inner, at, total, fetched)
