"""Nodes as MLIR: whole tiles where they vary inside one, scalars where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from firstlight.codegen.nests import functions
from firstlight.codegen.nests.linear import ONE, Linear, linear
from firstlight.codegen.nests.nodes import INTEGERS, Node, const, make, var
from firstlight.codegen.nests.program import Axis, Memory
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.ascend.text import TYPES, Value, Writer, shape

FLOAT = {"add": "addf", "sub": "subf", "mul": "mulf", "div": "divf", "max": "maximumf",
         "min": "minimumf"}
WHOLE = {"add": "addi", "sub": "subi", "mul": "muli", "max": "maxsi", "min": "minsi", "and": "andi",
         "or": "ori", "xor": "xori", "shl": "shli", "shr": "shrsi"}
COMPARE = {"lt": ("olt", "slt"), "le": ("ole", "sle"), "gt": ("ogt", "sgt"), "ge": ("oge", "sge"),
           "eq": ("oeq", "eq"), "ne": ("une", "ne")}
MATH = {"exp": "math.exp", "log": "math.log", "sqrt": "math.sqrt", "rsqrt": "math.rsqrt",
        "fabs": "math.absf", "tanh": "math.tanh", "floor": "math.floor"}
WRITTEN = {"cos": functions.cos, "sin": functions.sin, "popcount": functions.popcount,
           "log1p": lambda x: functions.log1p(x, lambda y: make("log", "float32", y))}
"""Functions that the compiler has not, or not well: its log1p is the log of a rounded sum, its sine
is off by 30 units of the last place."""
EXTENDED = {("uint8", "int32"), ("uint8", "uint32"), ("uint16", "uint32"), ("uint16", "int32"),
            ("bool", "int32"), ("bool", "uint8")}
CAST = {("int32", "float32"): "sitofp", ("float32", "int32"): "fptosi",
        ("float16", "float32"): "extf", ("int64", "int32"): "trunci", ("int32", "uint8"): "trunci",
        **dict.fromkeys(EXTENDED, "extui")}
ONLY = "one"
"""An axis of one step, where a tile needs one."""
ROUND = 1.5 * 2.0**23
"""A float32 to which anything small is added exactly as far as its whole part, ties to even."""


@dataclass
class Place:
    """Where a memory is in a function: its argument, and the place of its first element."""

    argument: str
    memory: Memory
    base: str | None = None


@dataclass
class Values:
    """Writes what nodes compute.

    Attributes:
        axes: those of the tile, in order.
        at: scalars of type index by the name of an axis that is a round, and of `S`.
        acc: what the node ``acc`` is, for each total.
        joined: axes over which the tile is reduced.
    """

    out: Writer
    where: str
    places: Mapping[str, Place]
    axes: tuple[Axis, ...]
    at: dict[str, str]
    acc: tuple[Value, ...] = ()
    joined: tuple[Axis, ...] = ()
    done: list[dict[Node, Value]] = field(default_factory=lambda: [{}])

    @property
    def extents(self) -> dict[str, int]:
        """Of the tile's axes: all that an index may be simplified with."""
        return {a.name: a.length for a in self.axes if a.length is not None}

    def value(self, node: Node) -> Value:
        """A node's value, written once in a region."""
        for known in self.done:
            if node in known:
                return known[node]
        value = self.done[-1][node] = self.make(node)
        return value

    def make(self, node: Node) -> Value:
        op, dtype = node.op, node.dtype
        if op == "const":
            return Value(self.out.constant(node.args[0], dtype), dtype)
        if op == "var":
            return self.variable(str(node.args[0]))
        if op == "load":
            return self.load(node)
        if op == "acc":
            return self.acc[node.args[0] if node.args else 0]
        if op in WRITTEN:
            return self.value(WRITTEN[op](node.args[0]))
        if op in ("floordiv", "mod") and dtype != "float32":
            return self.quotient(node)
        if op in ("shl", "shr") and self.value(node.args[1]).axes:
            return self.shifted(node)
        args = [self.value(a) for a in node.args]
        if op == "cast":
            return self.cast(args[0], dtype)
        if op == "nearbyint":
            big = Value(self.out.constant(ROUND, dtype), dtype)
            return self.apply("arith.subf", dtype, self.apply("arith.addf", dtype, args[0], big),
                              big)
        if op == "reinterpret":
            return self.convert("arith.bitcast", dtype, args[0])
        if op == "not":
            true = Value(self.out.constant(True, "bool"), "bool")
            return self.apply("arith.xori", "bool", args[0], true)
        if op == "select":
            return self.select(*args)
        if op in MATH:
            return self.on_tiles(MATH[op], dtype, args[0])
        if op in COMPARE:
            real = args[0].dtype == "float32"
            kind = COMPARE[op][not real]
            return self.apply(f"arith.cmp{'f' if real else 'i'} {kind},", "bool", *args)
        table = FLOAT if dtype == "float32" else WHOLE
        if op not in table:
            raise FirstlightError(
                "F405", f"the emitter cannot handle {op} of {dtype}", where=self.where,
                why="it has no rule for it", try_="add an entry to targets/ascend/values.py")
        name = "shrui" if op == "shr" and dtype == "uint32" else table[op]
        return self.apply(f"arith.{name}", dtype, *args)

    # -- operations -----------------------------------------------------------------------------

    def apply(self, op: str, dtype: str, *args: Value) -> Value:
        """An op of one type on operands that are broadcast to each other."""
        axes, sizes = self.joint(args)
        spread = tuple(self.spread(a, axes, sizes) for a in args)
        type_ = Value("", args[-1].dtype, axes, sizes).type
        name = self.out.pure(f"{op} {', '.join(a.name for a in spread)} : {type_}")
        return Value(name, dtype, axes, sizes, (op, args) if dtype == "bool" else None)

    def convert(self, op: str, dtype: str, x: Value) -> Value:
        """An op from one element type to another."""
        result = Value("", dtype, x.axes, x.sizes)
        name = self.out.pure(f"{op} {x.name} : {x.type} to {result.type}")
        return Value(name, dtype, x.axes, x.sizes)

    def cast(self, x: Value, dtype: str) -> Value:
        if TYPES[x.dtype] == TYPES[dtype]:
            return Value(x.name, dtype, x.axes, x.sizes)
        if x.dtype == "bool" and dtype == "float32":
            one, zero = (Value(self.out.constant(v, dtype), dtype) for v in (1.0, 0.0))
            return self.select(x, one, zero)
        return self.convert(f"arith.{CAST[x.dtype, dtype]}", dtype, x)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        axes, sizes = self.joint((condition, a, b))
        # a condition that does not vary chooses between tiles as they are
        c = self.spread(condition, axes, sizes) if condition.axes else condition
        a, b = self.spread(a, axes, sizes), self.spread(b, axes, sizes)
        types = f"{c.type}, {a.type}" if c.axes else a.type
        name = self.out.pure(f"arith.select {c.name}, {a.name}, {b.name} : {types}")
        return Value(name, a.dtype, axes, sizes)

    def on_tiles(self, op: str, dtype: str, x: Value) -> Value:
        """An op that only the vector unit has: a scalar becomes a tile of one, and back."""
        if x.axes:
            return self.apply(op, dtype, x)
        one = self.out.pure(f"{op} {self.out.fill(x.name, dtype, (1,))} : tensor<1x{TYPES[dtype]}>")
        return Value(self.out.pure(
            f"tensor.extract {one}[{self.out.index(0)}] : tensor<1x{TYPES[dtype]}>"), dtype)

    def quotient(self, node: Node) -> Value:
        """Quotient rounded down, or the rest with the divisor's sign: hardware rounds to zero."""
        a, b = (self.value(x) for x in node.args)
        whole = self.apply("arith.divsi", "int32", a, b)
        rest = self.apply("arith.subi", "int32", a, self.apply("arith.muli", "int32", whole, b))
        zero = Value(self.out.constant(0, "int32"), "int32")
        wrong = self.apply("arith.cmpi slt,", "bool", self.apply("arith.xori", "int32", rest, b),
                           zero)
        there = self.apply("arith.cmpi ne,", "bool", rest, zero)
        wrong = self.apply("arith.andi", "bool", wrong, there)
        if node.op == "mod":
            return self.select(wrong, self.apply("arith.addi", "int32", rest, b), rest)
        one = Value(self.out.constant(1, "int32"), "int32")
        return self.select(wrong, self.apply("arith.subi", "int32", whole, one), whole)

    def shifted(self, node: Node) -> Value:
        """A shift by amounts that vary, bit by bit of the amount: the chip shifts by scalars."""
        value, amount = node.args
        most = _most(amount, self.extents)
        for bit in range(max(most, 1).bit_length()):
            far = make("sub", node.dtype, make(node.op, node.dtype, value, const(1 << bit)), value)
            chosen = make("and", "int32", make("shr", "int32", amount, const(bit)), const(1))
            value = make("add", node.dtype, value, make("mul", node.dtype, chosen, far))
        return self.value(value)

    # -- shapes ---------------------------------------------------------------------------------

    def joint(self, args: Sequence[Value]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Axes that any of the values has, in the tile's order, and their sizes."""
        sizes = {n: s for a in args for n, s in zip(a.axes, a.sizes, strict=True)}
        order = [a.name for a in self.axes if a.name in sizes]
        order = [n for n in sizes if n not in order] + order
        return tuple(order), tuple(sizes[n] for n in order)

    def spread(self, x: Value, axes: tuple[str, ...], sizes: tuple[int, ...]) -> Value:
        """A value repeated along the axes that it lacks."""
        if x.axes == axes:
            return x
        if x.made is not None:      # masks have no memory layout of their own: made anew, in full
            op, args = x.made
            return self.apply(op, "bool", *(self.spread(a, axes, sizes) for a in args))
        if not x.axes:
            return Value(self.out.fill(x.name, x.dtype, sizes), x.dtype, axes, sizes)
        new = [i for i, name in enumerate(axes) if name not in x.axes]
        result = Value("", x.dtype, axes, sizes)
        empty = self.out.empty(sizes, x.dtype)
        name = self.out.pure(f"linalg.broadcast ins({x.name} : {x.type}) outs({empty} : "
                             f"{result.type}) dimensions = {new}")
        return Value(name, x.dtype, axes, sizes)

    # -- memory ---------------------------------------------------------------------------------

    def variable(self, name: str) -> Value:
        if name in self.at:
            return Value(self.out.pure(f"arith.index_cast {self.at[name]} : index to i32"), "int32")
        size = self.extents[name]
        zero, one, empty = self.out.index(0), self.out.index(1), self.out.empty((size,), "int32")
        type_ = f"tensor<{size}xi32>"
        steps = self.out.pure(f"hfusion.arange offset[{zero}] strides[{one}] outs({empty} : "
                              f"{type_}) -> {type_}")
        if any(a.name == name for a in self.joined):
            steps = self.apart(steps, size)
        return Value(steps, "int32", (name,), (size,))

    def apart(self, steps: str, size: int) -> str:
        """Numbers of an axis by way of memory: computed within a reduction, the compiler (1.2.0)
        counts every 64 lanes of the axis from 0 again."""
        if (kept := self.out.known[-1].get(steps)) is None:
            room = self.out.op(f"memref.alloc() : memref<{size}xi32>")
            self.out.line(f"bufferization.materialize_in_destination {steps} in writable {room} : "
                          f"(tensor<{size}xi32>, memref<{size}xi32>) -> ()")
            kept = self.out.known[-1][steps] = self.out.op(
                f"bufferization.to_tensor {room} restrict writable : memref<{size}xi32>")
        return kept

    def scalar_index(self, node: Node) -> str:
        """A whole number that is the same for the whole tile, as an index."""
        if node.number is not None:
            return self.out.index(node.number)
        if node.op == "var":
            return self.at[str(node.args[0])]
        if node.op in ("add", "sub", "mul") and node.dtype in INTEGERS:
            a, b = (self.scalar_index(x) for x in node.args)
            return self.out.pure(f"arith.{WHOLE[node.op]} {a}, {b} : index")
        value = self.value(node)
        return self.out.pure(f"arith.index_cast {value.name} : {value.type} to index")

    def start(self, total: Linear, place: Place) -> tuple[str, dict[str, int]]:
        """(where the tile's first element lies, step by axis of the tile)."""
        steps = {a.name: total[var(a.name)] for a in self.axes if var(a.name) in total}
        start = const(0)
        for atom, c in total.items():
            if atom.op == "var" and atom.args[0] in steps:
                continue
            term = const(c) if atom == ONE else make("mul", "int32", atom, const(c))
            start = make("add", "int32", start, term)
        name = self.scalar_index(start)
        if place.base is not None:
            name = self.out.pure(f"arith.addi {place.base}, {name} : index")
        return name, steps

    def load(self, node: Node) -> Value:
        place = self.places[str(node.args[0])]
        name, steps = self.start(linear(node.args[1], self.extents), place)
        element = TYPES[place.memory.dtype]
        if not steps:
            return Value(self.out.op(f"memref.load {place.argument}[{name}] : memref<?x{element}>"),
                         node.dtype)
        axes = tuple(a for a in self.axes if a.name in steps or a.name == ONLY)
        sizes = tuple(self.extents[a.name] for a in axes)
        view, type_ = self.view(place, name, sizes, [steps.get(a.name, 1) for a in axes])
        room = self.out.op(f"memref.alloc() : memref<{shape(sizes)}x{element}>")
        self.copy(view, type_, room, axes, sizes, element)
        tile = self.out.op(f"bufferization.to_tensor {room} restrict writable : "
                           f"memref<{shape(sizes)}x{element}>")
        return Value(tile, node.dtype, tuple(a.name for a in axes), sizes)

    def copy(self, view: str, type_: str, room: str, axes: Sequence[Axis], sizes: Sequence[int],
             element: str) -> None:
        own = f"memref<{shape(sizes)}x{element}>"
        part, dynamic = self.valid(axes)
        if dynamic is None:
            self.out.line(f"memref.copy {view}, {room} : {type_} to {own}")
            return
        source, source_type = self.subview(view, type_, part, dynamic)
        strides = [1]
        for size in reversed(sizes[1:]):
            strides.insert(0, strides[0] * size)
        target_type = f"memref<{shape(dynamic)}x{element}, strided<{strides}>>"
        target = self.out.op(f"memref.subview {room}[{', '.join('0' * len(sizes))}] [{part}] "
                             f"[{', '.join('1' * len(sizes))}] : {own} to {target_type}")
        self.out.line(f"memref.copy {source}, {target} : {source_type} to {target_type}")

    def valid(self, axes: Sequence[Axis]) -> tuple[str, list[str] | None]:
        """(sizes of the part of a tile that counts, the same in types); None if all of it does."""
        if all(a.valid is None for a in axes):
            return "", None
        names = [str(a.length) if a.valid is None else self.scalar_index(a.valid) for a in axes]
        return ", ".join(names), [str(a.length) if a.valid is None else "?" for a in axes]

    def subview(self, view: str, type_: str, part: str, sizes: Sequence[str]) -> tuple[str, str]:
        layout = type_.partition("x")[0] and type_[type_.index(", strided"):]
        element = type_[:type_.index(", strided")].rpartition("x")[2]
        result = f"memref<{shape(sizes)}x{element}{layout}"
        zeros, ones = (", ".join(c * len(sizes)) for c in "01")
        return self.out.op(f"memref.subview {view}[{zeros}] [{part}] [{ones}] : {type_} to "
                           f"{result}"), result

    def view(self, place: Place, start: str, sizes: Sequence[int],
             strides: Sequence[int]) -> tuple[str, str]:
        """A tile's elements in global memory."""
        element = TYPES[place.memory.dtype]
        type_ = f"memref<{shape(sizes)}x{element}, strided<{list(strides)}, offset: ?>>"
        return self.out.op(
            f"memref.reinterpret_cast {place.argument} to offset: [{start}], sizes: {list(sizes)}, "
            f"strides: {list(strides)} : memref<?x{element}> to {type_}"), type_

    def store(self, value: Value, index: Node, place: Place) -> None:
        """Write a tile's values, or one, to global memory."""
        start, steps = self.start(linear(index, self.extents), place)
        axes = tuple(a for a in self.axes if a.name in steps)
        if not axes or ONLY in value.axes:
            axes = (Axis(ONLY, const(1)), *axes)
        sizes = tuple(a.length or 0 for a in axes)
        value = self.spread(value, tuple(a.name for a in axes), sizes)
        view, type_ = self.view(place, start, sizes, [steps.get(a.name, 1) for a in axes])
        part, dynamic = self.valid(axes)
        name, own = value.name, value.type
        if dynamic is not None:
            zeros, ones = (", ".join(c * len(sizes)) for c in "01")
            own = f"tensor<{shape(dynamic)}x{TYPES[value.dtype]}>"
            name = self.out.op(f"tensor.extract_slice {value.name}[{zeros}] [{part}] [{ones}] : "
                               f"{value.type} to {own}")
            view, type_ = self.subview(view, type_, part, dynamic)
        self.out.line(f"bufferization.materialize_in_destination {name} in writable {view} : "
                      f"({own}, {type_}) -> ()")


def _most(amount: Node, extents: Mapping[str, int]) -> int:
    """The most that a shift's amount can be."""
    op = amount.op
    if amount.number is not None:
        return amount.number
    if op == "var":
        return extents.get(str(amount.args[0]), 32) - 1
    if op in ("add", "sub", "mul", "max", "min", "and"):
        a, b = (_most(x, extents) for x in amount.args)
        found = {"add": a + b, "sub": a, "mul": a * b, "max": max(a, b)}
        return max(min(found.get(op, min(a, b)), 31), 0)
    return 31
