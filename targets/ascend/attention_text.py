"""The text of an attention step.

A round is a token and some of its heads. Keys, which are the values too, come in blocks: rows side
by side of the window or of all visible entries, or single rows at places that were chosen. Largest
score, sum and weighted rows so far go from block to block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from firstlight.codegen.nests.attention import load
from firstlight.codegen.nests.nodes import Node, const, make, var
from firstlight.codegen.nests.program import Axis
from firstlight.targets.ascend.text import Value, tensor

if TYPE_CHECKING:
    from firstlight.targets.ascend.attention import Attention
    from firstlight.targets.ascend.functions import Body

LEAST, UNIT, MOST = 16, 8, 64
"""Narrower heads are not worth a cube core; blocks of keys are multiples of its unit."""


class Blocks:
    """The text of one attention step."""

    def __init__(self, step: Attention, body: Body) -> None:
        self.step, self.body, self.out = step, body, body.out
        budget = body.emitter.budget
        most = max(LEAST, min(MOST, budget // MOST))
        self.height = next(n for n in range(min(most, step.heads), 0, -1) if step.heads % n == 0)
        self.most = max(UNIT, min(MOST, budget * LEAST // step.width // UNIT * UNIT))
        self.h, self.w = Axis("h", const(self.height)), Axis("w", const(step.width))
        start = _add(_mul(var("s"), step.heads), _mul(var("part"), self.height), var("h"))
        self.place = _add(_mul(start, step.width), var("w"))
        self.now = make("add", "int32", self.read("pos", const(0)), var("s"))

    def read(self, what: str, index: Node) -> Node:
        return load(self.step.read[what], index)

    def write(self) -> None:
        step = self.step
        self.body.mixed = True
        parts = Axis("part", const(step.heads // self.height))
        with self.body.rounds_of([Axis("s", step.tokens), parts]) as at:
            values = self.body.values((self.h, self.w), at)
            self.q = values.value(load(step.read["q"], self.place))
            top = values.value(self.read("sink", _add(_mul(var("part"), self.height), var("h"))))
            one = self.out.constant(1.0, "float32")
            zero = self.out.constant(0.0, "float32")
            total = Value(self.out.fill(one, "float32", (self.height,)), "float32", ("h",),
                          (self.height,))
            shape = (self.height, step.width)
            state = [top, total, Value(self.out.fill(zero, "float32", shape), "float32",
                                       ("h", "w"), shape)]
            state = self.window(at, state)
            if "entries" in step.read:
                state = self.some(at, state) if step.chosen else self.all(at, state)
            values.store(values.apply("arith.divf", "float32", state[2], state[1]), self.place,
                         self.body.places[step.buffer.name])

    # -- where keys are -------------------------------------------------------------------------

    def window(self, at: dict[str, str], state: list[Value]) -> list[Value]:
        """Rows s + 1 ... s + rows of the window; a last block that is too long begins earlier."""
        step = self.step
        n = min(self.most, (step.rows + 1) // UNIT * UNIT)
        first = _add(var("s"), const(1), _mul(var("j"), n))
        start = make("min", "int32", first, make("sub", "int32", _add(step.tokens,
                     const(step.rows)), const(n)))
        place = make("add", "int32", start, var("k"))
        # rows from position 0 on, of this block and not of the one before, up to this token
        seen = _all(make("ge", "bool", place, make("sub", "int32", const(step.rows),
                                                   self.read("pos", const(0)))),
                    make("ge", "bool", place, first),
                    make("le", "bool", place, _add(var("s"), const(step.rows))))
        return self.blocks(at, state, const(-(-step.rows // n)), Axis("k", const(n)), "window",
                           start, seen)

    def all(self, at: dict[str, str], state: list[Value]) -> list[Value]:
        """All entries that are complete."""
        step = self.step
        capacity = step.read["entries"].shape[1].number or 0
        n = min(self.most, capacity // UNIT * UNIT)
        visible = make("floordiv", "int32", _add(self.now, const(1)), const(step.ratio))
        first = _mul(var("j"), n)
        start = make("min", "int32", first, const(capacity - n))
        place = make("add", "int32", start, var("k"))
        seen = _all(make("ge", "bool", place, first), make("lt", "bool", place, visible))
        count = make("floordiv", "int32", _add(visible, const(n - 1)), const(n))
        row = _add(_mul(self.read("slot", const(0)), capacity), start)
        return self.blocks(at, state, count, Axis("k", const(n)), "entries", row, seen)

    def some(self, at: dict[str, str], state: list[Value]) -> list[Value]:
        """Entries at places that were chosen, row by row; -1 is none."""
        step = self.step
        capacity = step.read["entries"].shape[1].number or 0
        n = min(self.most, -(-step.chosen // UNIT) * UNIT)
        place = _add(_mul(var("j"), n), var("k"))
        last = make("min", "int32", place, const(step.chosen - 1))
        index = self.read("index", _add(_mul(var("s"), step.chosen), last))
        row = _add(_mul(self.read("slot", const(0)), capacity),
                   make("max", "int32", index, const(0)))
        tile = self.read("index", _add(_mul(var("s"), step.chosen), place))
        seen = _all(make("lt", "bool", place, const(step.chosen)),
                    make("ge", "bool", tile, const(0)))
        left = make("sub", "int32", const(step.chosen), _mul(var("j"), n))
        k = Axis("k", const(n), make("min", "int32", const(n), left) if step.chosen % n else None)
        return self.blocks(at, state, const(-(-step.chosen // n)), k, "entries", row, seen)

    # -- a block of keys ------------------------------------------------------------------------

    def blocks(self, at: dict[str, str], state: list[Value], count: Node, k: Axis, source: str,
               row: Node, seen: Node) -> list[Value]:
        """`state` after all blocks: rows from `row` on, or each at the `row` of its own k."""
        zero, one = self.out.index(0), self.out.index(1)
        most = self.body.values((), at).scalar_index(count)
        number, result = self.out.fresh(), self.out.fresh()
        names = [self.out.fresh() for _ in state]
        begin = ", ".join(f"{a} = {v.name}" for a, v in zip(names, state, strict=True))
        types = ", ".join(v.type for v in state)
        with self.out.region(f"{result}:{len(state)} = scf.for {number} = {zero} to {most} step "
                             f"{one} iter_args({begin}) -> ({types}) {{"):
            running = [replace(v, name=name) for v, name in zip(state, names, strict=True)]
            inside = {**at, "j": number}
            keys = self.keys(inside, k.length or 0, source, row)
            end = self.joined(inside, k, keys, seen, running)
            self.out.line(f"scf.yield {', '.join(v.name for v in end)} : {types}")
        return [replace(v, name=f"{result}#{i}") for i, v in enumerate(state)]

    def keys(self, at: dict[str, str], n: int, source: str, row: Node) -> str:
        """A block of rows, as a tensor."""
        width, place = self.step.width, self.body.places[self.step.read[source].name]
        room = self.out.op(f"memref.alloc() : memref<{n}x{width}xf32>")
        if "k" not in row.vars:
            start = self.body.values((), at).scalar_index(_mul(row, width))
            start = start if place.base is None else self.out.pure(
                f"arith.addi {place.base}, {start} : index")
            view, type_ = self.body.values((), at).view(place, start, (n, width), (width, 1))
            self.out.line(f"memref.copy {view}, {room} : {type_} to memref<{n}x{width}xf32>")
        else:
            zero, one = self.out.index(0), self.out.index(1)
            most, number = self.out.index(n), self.out.fresh()
            with self.out.region(f"scf.for {number} = {zero} to {most} step {one} {{"):
                values = self.body.values((), {**at, "k": number})
                start = values.scalar_index(_mul(row, width))
                view, type_ = values.view(place, start, (1, width), (width, 1))
                own = f"memref<1x{width}xf32, strided<[{width}, 1], offset: ?>>"
                part = self.out.op(f"memref.subview {room}[{number}, 0] [1, {width}] [1, 1] : "
                                   f"memref<{n}x{width}xf32> to {own}")
                self.out.line(f"memref.copy {view}, {part} : {type_} to {own}")
        return self.out.op(f"bufferization.to_tensor {room} restrict writable : "
                           f"memref<{n}x{width}xf32>")

    def joined(self, at: dict[str, str], k: Axis, keys: str, seen: Node,
               state: Sequence[Value]) -> list[Value]:
        """Largest score, sum and weighted rows, with those of one block."""
        (top, total, mixed), n = state, k.length or 0
        values = self.body.values((self.h, k, self.w), at)
        turned = (self.step.width, n)
        empty = self.out.empty(turned, "float32")
        across = self.out.op(f"linalg.transpose ins({keys} : {tensor(turned[::-1], 'float32')}) "
                             f"outs({empty} : {tensor(turned, 'float32')}) permutation = [1, 0]")
        scores = self.product(self.q, across, turned, ("h", "k"))
        scale = Value(self.out.constant(self.step.scale, "float32"), "float32")
        scores = values.apply("arith.mulf", "float32", scores, scale)
        nothing = Value(self.out.constant(float("-inf"), "float32"), "float32")
        scores = values.select(values.value(seen), scores, nothing)
        now = values.apply("arith.maximumf", "float32", top,
                           self.over(scores, "arith.maximumf", float("-inf")))
        fade = values.apply("math.exp", "float32", values.apply("arith.subf", "float32", top, now))
        weights = values.apply("math.exp", "float32",
                               values.apply("arith.subf", "float32", scores, now))
        total = values.apply("arith.addf", "float32",
                             values.apply("arith.mulf", "float32", total, fade),
                             self.over(weights, "arith.addf", 0.0))
        more = self.product(weights, keys, (n, self.step.width), ("h", "w"))
        mixed = values.apply("arith.addf", "float32",
                             values.apply("arith.mulf", "float32", mixed, fade), more)
        return [now, total, mixed]

    def product(self, a: Value, b: str, sizes: tuple[int, int], axes: tuple[str, str]) -> Value:
        shape = (a.sizes[0], sizes[1])
        zero = self.out.fill(self.out.constant(0.0, "float32"), "float32", shape)
        type_ = tensor(shape, "float32")
        name = self.out.op(f"linalg.matmul ins({a.name}, {b} : {a.type}, "
                           f"{tensor(sizes, 'float32')}) outs({zero} : {type_}) -> {type_}")
        return Value(name, "float32", axes, shape)

    def over(self, x: Value, op: str, neutral: float) -> Value:
        """Joined along keys."""
        start = self.out.fill(self.out.constant(neutral, "float32"), "float32", x.sizes[:1])
        type_ = tensor(x.sizes[:1], "float32")
        name = self.out.op(f"linalg.reduce {{{op}}} ins({x.name} : {x.type}) outs({start} : "
                           f"{type_}) dimensions = [1]")
        return Value(name, "float32", x.axes[:1], x.sizes[:1])


def _add(*nodes: Node) -> Node:
    first, *rest = nodes
    for node in rest:
        first = make("add", "int32", first, node)
    return first


def _mul(node: Node, by: int) -> Node:
    return make("mul", "int32", node, const(by))


def _all(*nodes: Node) -> Node:
    first, *rest = nodes
    for node in rest:
        first = make("and", "bool", first, node)
    return first
