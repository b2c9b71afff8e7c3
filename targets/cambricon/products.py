"""Sums of products on the matrix unit: reshape_filter, NRAM2WRAM, matmul. No other chain is known
to be right on a card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstlight.codegen.nests.linear import coefficient, linear
from firstlight.codegen.nests.nodes import Node, walk
from firstlight.codegen.nests.program import Axis
from firstlight.codegen.nests.schedule import Tile
from firstlight.targets.cambricon.scalars import Scalars
from firstlight.targets.cambricon.text import Size, times
from firstlight.targets.cambricon.values import Value, Values

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
            self.loop(part.term, self.tile.outside(part.axes), inner, self.at, total)
        return total

    def values(self, axes: tuple[Axis, ...], at: dict[str, str] | None = None) -> Values:
        return self.body.values(self.tile.nest, axes, self.at if at is None else at)

    def loop(self, term: Node, loops: tuple[Axis, ...], inner: Axis, at: dict[str, str],
             total: Value) -> None:
        """The steps of a part's outer axes."""
        if not loops:
            self.body.extents = {**self.body.extents, **self.body.sizes((inner,), at)}
            self.add(term, inner, at, total)
            return
        axis, *rest = loops
        size = Scalars(self.out, self.body.places, at).text(axis.extent)
        name = self.out.fresh("k")
        with self.out.braces(f"for (int32_t {name} = 0; {name} < {size}; ++{name})"):
            self.loop(term, tuple(rest), inner, {**at, axis.name: name}, total)

    def add(self, term: Node, inner: Axis, at: dict[str, str], total: Value) -> None:
        """One product added to the total."""
        left, right = term.args
        depth = -(-(inner.length or 1) // DEPTH) * DEPTH
        wide = -(-(self.columns.length or 1) // COLUMNS) * COLUMNS
        row = () if self.rows is None else (self.rows,)
        heights: Size = 1 if self.rows is None else self.body.extents[self.rows.name]
        most = 1 if self.rows is None else self.rows.length or 1
        a, own = self.matrix(left, (*row, inner), at), self.values((*row, inner), at)
        a = self.padded(own, a, heights, most, inner, depth)
        b, own = self.right(right, inner, at)
        b = self.padded(own, b, self.body.extents[self.columns.name], wide, inner, depth)
        turned = self.room(wide * depth)
        self.out.call("__bang_reshape_filter", turned.text, b.text, wide, 1, 1, depth)
        own.give(b)
        self.out.wram = max(self.out.wram, wide * depth * 4)
        wram = f"{self.out.where}_wram"
        self.out.call("__memcpy", wram, turned.text, wide * depth * 4, "NRAM2WRAM")
        own.give(turned)
        product = own_product = self.values(tuple(
            x for x in (self.rows, self.columns) if x is not None)).new("float32", total.axes)
        columns = self.body.extents[self.columns.name]
        self.out.call("__bang_matmul", product.text, a.text, wram, heights, depth, columns)
        own.give(a)
        self.out.call("__bang_add", total.text, total.text, product.text, times(heights, columns))
        own.give(own_product)

    def matrix(self, node: Node, axes: tuple[Axis, ...], at: dict[str, str]) -> Value:
        """A factor as a dense tile over all of `axes`."""
        values = self.values(axes, at)
        value = values.root(node)
        full = values.spread(value, tuple(a.name for a in axes))
        values.give(value)
        return full

    def right(self, node: Node, inner: Axis, at: dict[str, str]) -> tuple[Value, Values]:
        """The right factor, a row for each column of the result."""
        columns = self.columns
        flat = [linear(n.args[1], {}) for n in walk(node) if n.op == "load"]
        values = self.values((columns, inner), at)
        if not any(coefficient(index, columns.name) == 1 for index in flat):
            return self.matrix(node, (columns, inner), at), values
        across = self.matrix(node, (inner, columns), at)
        to = values.new("float32", (columns.name, inner.name))
        self.out.call("__bang_transpose", to.text, across.text, self.body.extents[inner.name],
                      self.body.extents[columns.name])
        values.give(across)
        return to, values

    def padded(self, values: Values, x: Value, rows: Size, most: int, inner: Axis,
               depth: int) -> Value:
        """Rows of `depth` floats with zeros at their ends, in storage for `most` rows."""
        have = self.body.extents[inner.name]
        if have == depth and most == rows:
            return x
        to = self.room(most * depth)
        if have == depth:
            self.out.call("__bang_move", to.text, x.text, times(4, depth, rows))
        else:
            self.out.call("__bang_write_value", to.text, most * depth, "0.0f")
            less: Size = rows - 1 if isinstance(rows, int) else f"{rows} - 1"
            self.out.call("__memcpy", to.text, x.text, times(4, have), "NRAM2NRAM", 4 * depth,
                          times(4, have), less)
        values.give(x)
        return to

    def room(self, floats: int) -> Value:
        """A place for so many floats."""
        from firstlight.targets.cambricon.values import Held

        room = self.out.nram.take(floats * 4)
        return Value(self.out.pointer("float32", room), "float32", ("matrix",), Held(room, 1))
