"""Sums of products on the matrix unit: reshape_filter, NRAM2WRAM, matmul. No other chain is known
to be right on a card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstlight.codegen.nests.linear import coefficient, linear
from firstlight.codegen.nests.nodes import Node, walk
from firstlight.codegen.nests.program import Axis, Nest
from firstlight.codegen.nests.schedule import Tile
from firstlight.targets.cambricon import reductions
from firstlight.targets.cambricon.bf16 import exact, narrowed, parts
from firstlight.targets.cambricon.text import TYPES, WIDTHS, Size, times
from firstlight.targets.cambricon.tiles import Value
from firstlight.targets.cambricon.values import Values

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body

ROW = 64
"""Bytes: the inner side is a multiple of them."""
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
            inner = self.tile.inside(part.axes)
            reductions.added(self.body, self.part(inner, part.term), self.tile.outside(part.axes),
                            inner, self.at, total)
        return total

    def part(self, inner: tuple[Axis, ...], term: Node) -> Part:
        """What a loop over the terms of a part does."""
        return Part(self, inner, term)

    def values(self, axes: tuple[Axis, ...], at: dict[str, str] | None = None) -> Values:
        return self.body.values(self.tile.nest, axes, self.at if at is None else at)

    def sides(self, term: Node, inner: tuple[Axis, ...]) -> list[tuple[Node, tuple[Axis, ...]]]:
        """Both factors, and the axes of their tiles."""
        left, right = term.args
        row = () if self.rows is None else (self.rows,)
        flat = [linear(n.args[1], {}) for n in walk(right) if n.op == "load"]
        across = any(coefficient(index, self.columns.name) == 1 for index in flat)
        return [(left, (*row, *inner)),
                (right, (*inner, self.columns) if across else (self.columns, *inner))]

    def add(self, term: Node, inner: tuple[Axis, ...], at: dict[str, str], total: Value,
            fetched: Sequence[Mapping[Node, Value]]) -> None:
        """One product added to the total; several inner axes are one."""
        (left, own), (right, other) = self.sides(term, inner)
        kind = "bfloat16" if self.body.bf16 and exact(right) else "float32"
        unit = ROW // WIDTHS[kind]
        depth = -(-math.prod(a.length or 1 for a in inner) // unit) * unit
        have = times(*(self.body.extents[a.name] for a in inner))
        heights: Size = 1 if self.rows is None else self.body.extents[self.rows.name]
        columns = self.body.extents[self.columns.name]
        a = self.matrix(left, own, at, fetched[0])
        a = self.padded(a, heights, heights, have, depth)
        b = self.matrix(right, other, at, fetched[1])
        values = self.values((self.columns, *inner), at)
        if other[-1] == self.columns:
            turned = values.new("float32", tuple(x.name for x in (self.columns, *inner)))
            self.out.call("__bang_transpose", turned.text, b.text, have, columns)
            values.give(b)
            b = turned
        wram = self.filter(b, kind, have, depth)
        product = self.values(tuple(x for x in (self.rows, self.columns) if x)).new(
            "float32", total.axes)
        most = (self.rows.length or 1 if self.rows else 1) * depth
        for part in [a] if kind == "float32" else parts(self, a, most, times(heights, depth)):
            self.out.call("__bang_matmul", product.text, part.text, wram, heights, depth, columns)
            self.out.call("__bang_add", total.text, total.text, product.text,
                          times(heights, columns))
        if kind == "float32":
            values.give(a)
        values.give(product)

    def filter(self, b: Value, kind: str, have: Size, depth: int) -> str:
        """The right side [columns, have] in WRAM, by the only way that is known to be right."""
        wide = -(-(self.columns.length or 1) // COLUMNS) * COLUMNS
        give, size = self.values(()).give, wide * depth
        b = self.padded(b, self.body.extents[self.columns.name], wide, have, depth)
        wram = self.out.matrix(size * WIDTHS[kind])
        if kind != "float32":
            b, old = narrowed(self, b, size, size), b
            give(old)
            array, wram = wram, self.out.fresh("w")
            self.out.line(f"{TYPES[kind]} *{wram} = ({TYPES[kind]} *){array};")
        to_wram(self.values(()), b, wram, wide, depth)
        return wram

    def matrix(self, node: Node, axes: tuple[Axis, ...], at: dict[str, str],
               fetched: Mapping[Node, Value]) -> Value:
        """A factor as a dense tile over all of `axes`."""
        values = self.values(axes, at)
        values.fetched = fetched
        value = values.root(node)
        full = values.spread(value, tuple(a.name for a in axes))
        values.give(value)
        return full

    def padded(self, x: Value, rows: Size, storage: Size, have: Size, depth: int) -> Value:
        """Rows of `have` floats with zeros behind, `depth` in all, in storage for so many rows."""
        if have == depth and storage == rows:
            return x
        most = storage if isinstance(storage, int) else self.rows.length or 1 if self.rows else 1
        to = self.values(()).place(most * depth)
        if have == depth:
            self.out.call("__bang_move", to.text, x.text, times(4, depth, rows))
        else:
            self.out.call("__bang_write_value", to.text, most * depth, "0.0f")
            self.values(()).rows(to.text, depth, x.text, have, have, rows)
        self.values(()).give(x)
        return to


def to_wram(values: Values, x: Value, wram: str, rows: int, depth: int) -> None:
    """A matrix [rows, depth] to WRAM, by the only way that is known to be right; x's place is given
    back. `rows` is a multiple of `COLUMNS`, a row of `ROW` bytes."""
    out, count = values.out, rows * depth
    turned = values.place(count, x.dtype)
    out.call("__bang_reshape_filter", turned.text, x.text, rows, 1, 1, depth)
    values.give(x)
    out.line("__sync_compute();")
    out.call("__memcpy_async", wram, turned.text, count * WIDTHS[x.dtype], "NRAM2WRAM")
    out.line("__sync_move();")
    values.give(turned)


@dataclass(frozen=True)
class Part:
    """Terms of a product, as `Body.part` adds them up."""

    product: Product
    inner: tuple[Axis, ...]
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
