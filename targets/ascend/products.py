"""Sums of products as tiles on the cube core; what decodes or masks a tile runs on vector cores.

The compiler divides such a function: vector cores write tiles to the cube core's memory, and the
flags between them are its business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from firstlight.codegen.nests.linear import coefficient, linear
from firstlight.codegen.nests.nodes import Node, const, walk
from firstlight.codegen.nests.program import Axis
from firstlight.codegen.nests.schedule import Tile
from firstlight.targets.ascend.text import Value, tensor
from firstlight.targets.ascend.values import ONLY, Values

if TYPE_CHECKING:
    from firstlight.targets.ascend.functions import Body


def masked(values: Values, value: Value, axis: Axis, neutral: float) -> Value:
    """A term with the neutral one where the axis has no more steps."""
    assert axis.valid is not None
    inside = values.apply("arith.cmpi slt,", "bool", values.variable(axis.name),
                          values.value(axis.valid))
    return values.select(inside, value, Value(values.out.constant(neutral, value.dtype),
                                              value.dtype))


class Product:
    """One tile [rows, columns] of a nest whose terms are products."""

    def __init__(self, body: Body, tile: Tile, at: dict[str, str]) -> None:
        self.body, self.tile, self.at, self.out = body, tile, at, body.out
        axes = {a.name: a for a in tile.nest.axes}
        self.rows, self.columns = axes.get(tile.rows), axes[tile.columns]

    def total(self, number: int) -> Value:
        """All products of a total added up."""
        height = 1 if self.rows is None else self.rows.length or 0
        names = (ONLY if self.rows is None else self.rows.name, self.columns.name)
        sizes = (height, self.columns.length or 0)
        zero = self.out.constant(0.0, "float32")
        total = Value(self.out.fill(zero, "float32", sizes), "float32", names, sizes)
        for part in (p for p in self.tile.nest.parts if p.total == number):
            join = self.join(self.tile.inside(part.axes))
            name = self.body.part(part.term, self.tile.outside(part.axes), self.at, total, join)
            total = Value(name, "float32", names, sizes)
        return total

    def join(self, inner: tuple[Axis, ...]) -> Callable[[Node, dict[str, str], Value], str]:
        """What adds one step along the parts' loops."""
        def join(term: Node, at: dict[str, str], total: Value) -> str:
            left, right = term.args
            # columns side by side in memory are the last axis of their tile, else they are rows
            flat = [linear(n.args[1], {}) for n in walk(right) if n.op == "load"]
            across = any(coefficient(index, self.columns.name) == 1 for index in flat)
            width, sides = math.prod(a.length or 0 for a in inner), self.columns
            ordered = sorted(inner, key=lambda a: -max(
                (coefficient(index, a.name) or 0 for index in flat), default=0) or -math.inf)
            row = self.rows or Axis(ONLY, const(1))
            a = self.operand(left, (row, *ordered), at, (total.sizes[0], width))
            if across:
                b = self.operand(right, (*ordered, sides), at, (width, total.sizes[1]))
            else:
                b = self.operand(right, (sides, *ordered), at, (total.sizes[1], width))
                turned = tensor((width, total.sizes[1]), "float32")
                empty = self.out.empty((width, total.sizes[1]), "float32")
                b = self.out.op(f"linalg.transpose ins({b} : "
                                f"{tensor((total.sizes[1], width), 'float32')}) outs({empty} : "
                                f"{turned}) permutation = [1, 0]")
            types = f"{tensor((total.sizes[0], width), 'float32')}, " \
                    f"{tensor((width, total.sizes[1]), 'float32')}"
            return self.out.op(f"linalg.matmul ins({a}, {b} : {types}) outs({total.name} : "
                               f"{total.type}) -> {total.type}")

        return join

    def operand(self, node: Node, axes: tuple[Axis, ...], at: dict[str, str],
                sizes: tuple[int, int]) -> str:
        """A factor as a matrix; where an inner axis ends early, zeros."""
        values = self.body.values(axes, at)
        value = values.value(node)
        for axis in axes:
            if axis.valid is not None and axis not in (self.rows, self.columns):
                value = masked(values, value, axis, 0.0)
        names = tuple(a.name for a in axes)
        full = tuple(a.length or 0 for a in axes)
        value = values.spread(value, names, full)
        if len(full) == 2:
            return value.name
        first = 1 if math.prod(full[:1]) == sizes[0] else len(full) - 1
        groups = [list(range(first)), list(range(first, len(full)))]
        return self.out.op(f"tensor.collapse_shape {value.name} {groups} : {value.type} into "
                           f"{tensor(sizes, 'float32')}")
