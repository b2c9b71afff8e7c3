"""Nodes as vector instructions on dense tiles in NRAM; scalars where nothing varies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from firstlight.codegen.nests.linear import Linear, linear
from firstlight.codegen.nests.nodes import Node, var
from firstlight.codegen.nests.program import Axis
from firstlight.targets.cambricon.legal import Legal
from firstlight.targets.cambricon.scalars import Place, Scalars
from firstlight.targets.cambricon.text import TYPES, WIDTHS, Room, Size, Writer, atom, times

ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "max": "maxequal", "min": "minequal",
              "div": "div"}
BITS = {"and": "band", "or": "bor", "xor": "bxor"}
WITH_SCALAR = {"add": "add_scalar", "sub": "sub_scalar", "mul": "mul_scalar",
               "max": "maxeq_scalar", "min": "mineq_scalar", "and": "band_scalar",
               "or": "bor_scalar", "xor": "bxor_scalar"}
CYCLED = {"add": "cycle_add", "sub": "cycle_sub", "mul": "cycle_mul", "max": "cycle_maxequal",
          "min": "cycle_minequal", "and": "cycle_band", "or": "cycle_bor", "xor": "cycle_bxor"}
SWAPS = ("add", "mul", "max", "min", "and", "or", "xor")
COMPARE = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
"""Comparisons, and what each is with its operands swapped."""
FUNCTIONS = {"sqrt": "sqrt", "recip": "recip", "pow2": "pow2", "log2": "log2", "fabs": "abs",
             "floor": "floor"}
ONE_BITS = 0x3F800000
"""1.0f as an integer: a mask and it are the float of a truth value."""


@dataclass
class Held:
    """A place in NRAM and how many values live there."""

    room: Room
    users: int = 0


@dataclass(frozen=True)
class Value:
    """A scalar (C text, no axes) or a dense tile (a pointer's name), row by row in its axes."""

    text: str
    dtype: str
    axes: tuple[str, ...] = ()
    held: Held | None = field(default=None, compare=False)


def stored(dtype: str) -> str:
    """How elements of a type are held in a tile: small integers and masks as int32."""
    return "float32" if dtype == "float32" else "int32"


@dataclass
class Values:
    """Writes what one root node computes, in one block of C.

    Attributes:
        axes: of the tile, in the order of its rows.
        sizes: how many steps of each axis there are, by name.
        acc: what the node ``acc`` is.
        fetched: loads that are in NRAM already, as they lie in memory.
    """

    out: Writer
    places: Mapping[str, Place]
    axes: tuple[Axis, ...]
    sizes: Mapping[str, Size]
    scalars: Scalars
    legal: Legal
    acc: Value | None = None
    fetched: Mapping[Node, Value] = field(default_factory=dict)
    done: dict[Node, Value] = field(default_factory=dict)
    left: dict[Node, int] = field(default_factory=dict)

    @property
    def extents(self) -> dict[str, int]:
        """Of the tile's axes, for resolving quotients in indices."""
        return {a.name: a.length for a in self.axes if a.length is not None}

    def root(self, node: Node) -> Value:
        """The value of a node and of all it is made of; its place is the caller's to give back."""
        node = self.legal.node(node)
        self.left[node] = self.left.get(node, 0) + 1
        for here in self.tiles(node):
            for part in here.parts() if here.op != "load" else ():
                self.left[part] = self.left.get(part, 0) + 1
        return self.value(node)

    def tiles(self, node: Node) -> list[Node]:
        """All nodes that a legal one is made of and that vary; what loads index with is not."""
        stack, seen = [node], {node}
        found = []
        while stack:
            here = stack.pop()
            if not self.legal.varies(here):
                continue
            found.append(here)
            for part in here.parts() if here.op != "load" else ():
                if part not in seen:
                    seen.add(part)
                    stack.append(part)
        return found

    def value(self, node: Node) -> Value:
        """A node's value, written once."""
        if node not in self.done:
            self.done[node] = self.make(node)
        return self.done[node]

    def make(self, node: Node) -> Value:
        if not self.legal.varies(node):
            return Value(self.scalars.text(node), node.dtype)
        if node.op == "load":
            return self.widened(self.raw(node))
        if node.op == "var":
            return self.steps(str(node.args[0]))
        if node.op == "acc":
            assert self.acc is not None
            return self.acc
        if node.op == "bf16":
            return self.convert("bfloat162float", "float32", self.raw(node.args[0]), "bfloat16_t")
        args = [self.value(a) for a in node.args]
        result = self.apply(node, args)
        for part in node.args:
            self.left[part] -= 1
            if not self.left[part]:
                self.give(self.done[part])
        return result

    # -- places ---------------------------------------------------------------------------------

    def count(self, axes: tuple[str, ...]) -> Size:
        """Elements of a tile."""
        return times(*(self.sizes[a] for a in axes))

    def most(self, axes: tuple[str, ...]) -> int:
        """The most elements that a tile can have."""
        lengths, count = {a.name: a.length or 1 for a in self.axes}, 1
        for axis in axes:
            count *= lengths[axis]
        return count

    def new(self, dtype: str, axes: tuple[str, ...], raw: bool = False) -> Value:
        """A tile without contents."""
        element = dtype if raw else stored(dtype)
        room = self.out.nram.take(self.most(axes) * WIDTHS[element])
        return Value(self.out.pointer(element, room), dtype, axes, Held(room, 1))

    def give(self, value: Value) -> None:
        """One value less lives at a place."""
        if value.held is not None:
            value.held.users -= 1
            if not value.held.users:
                self.out.nram.give(value.held.room)

    def alias(self, value: Value, dtype: str) -> Value:
        """The same bits as another type."""
        if value.held is not None:
            value.held.users += 1
        text = value.text
        if stored(dtype) != stored(value.dtype):
            kind = TYPES[stored(dtype)]
            text = self.out.fresh("t")
            self.out.line(f"{kind} *{text} = ({kind} *){value.text};")
        return Value(text, dtype, value.axes, value.held)

    def do(self, word: str, dtype: str, axes: tuple[str, ...], *args: Size) -> Value:
        """A new tile, written by an instruction whose last argument is the count."""
        to = self.new(dtype, axes)
        self.out.call(f"__bang_{word}", to.text, *args, self.count(axes))
        return to

    # -- operations -----------------------------------------------------------------------------

    def apply(self, node: Node, args: list[Value]) -> Value:
        op, dtype = node.op, node.dtype
        if op == "cast":
            return self.cast(args[0], dtype)
        if op == "reinterpret":
            return self.alias(args[0], dtype)
        if op in ("select", "if_then_else"):
            return self.select(*args)
        if op == "not":
            to = self.new("bool", args[0].axes)
            self.bits("bnot", to, args[0])
            return to
        if op in COMPARE:
            return self.compare(op, *args)
        if op in FUNCTIONS:
            return self.do(FUNCTIONS[op], dtype, args[0].axes, args[0].text)
        if op in ("shl", "shr"):
            return self.shift(op, dtype, *args)
        if op in ARITHMETIC or op in BITS:
            return self.binary(op, dtype, *args)
        raise self.out.refuse(f"{op} of {dtype} in a tile")

    def binary(self, op: str, dtype: str, a: Value, b: Value) -> Value:
        if not a.axes and op in SWAPS:
            a, b = b, a
        if not b.axes and op in WITH_SCALAR:
            return self.do(WITH_SCALAR[op], dtype, a.axes, a.text, self.literal(b))
        if not a.axes and op == "sub":      # a - b = -b + a
            turned = self.do("mul_scalar", dtype, b.axes, b.text,
                             "-1.0f" if dtype == "float32" else "-1")
            self.out.call("__bang_add_scalar", turned.text, turned.text, a.text,
                          self.count(b.axes))
            return turned
        axes = self.joint(a, b)
        if a.axes != axes and b.axes == axes and op in SWAPS:
            a, b = b, a
        if (op in CYCLED and a.axes == axes and b.axes and b.axes != axes
                and axes[-len(b.axes):] == b.axes):
            to = self.new(dtype, axes)
            if op in BITS:
                self.bits(CYCLED[op], to, a, b, times(4, self.count(b.axes)))
            else:
                self.out.call(f"__bang_{CYCLED[op]}", to.text, a.text, b.text, self.count(axes),
                              self.count(b.axes))
            return to
        with_ = [self.spread(x, axes) for x in (a, b)]
        if op in BITS:
            result = self.new(dtype, axes)
            self.bits(BITS[op], result, *with_)
        else:
            result = self.do(ARITHMETIC[op], dtype, axes, *(x.text for x in with_))
        for x in with_:
            self.give(x)
        return result

    def bits(self, word: str, to: Value, *args: Value | Size) -> None:
        """Bit by bit: these instructions know bytes only."""
        parts = [f"(char *){a.text}" if isinstance(a, Value) else a for a in args]
        values = [p for p, a in zip(parts, args, strict=True) if isinstance(a, Value)]
        rest = parts[len(values):]
        self.out.call(f"__bang_{word}", f"(char *){to.text}", *values,
                      times(4, self.count(to.axes)), *rest)

    def literal(self, value: Value) -> str:
        """A scalar as an instruction wants it."""
        return f"{atom(value.text)} ? -1 : 0" if value.dtype == "bool" else value.text

    def compare(self, op: str, a: Value, b: Value) -> Value:
        """A mask: -1 where it holds."""
        if not a.axes:
            a, b, op = b, a, COMPARE[op]
        if not b.axes:
            mask = self.do(f"{op}_scalar", a.dtype, a.axes, a.text, b.text)
        else:
            axes = self.joint(a, b)
            with_ = [self.spread(x, axes) for x in (a, b)]
            mask = self.do(op, a.dtype, axes, *(x.text for x in with_))
            for x in with_:
                self.give(x)
        count, old = self.count(mask.axes), mask
        mask = self.alias(old, "bool")
        if stored(a.dtype) == "float32":
            self.out.call("__bang_float2int32_tz", mask.text, old.text, count, 0)
        self.out.call("__bang_mul_scalar", mask.text, mask.text, -1, count)
        self.give(old)
        return mask

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """Bits of a where the mask is set, of b elsewhere: no arithmetic, so infinities stay."""
        dtype, axes = a.dtype, self.joint(condition, a, b)
        mask = self.spread(condition, axes)
        parts = []
        for x in (a, b):
            part = self.spread(x, axes)
            as_bits = self.alias(part, "int32")
            self.give(part)
            parts.append(as_bits)
        to, other = (self.new("int32", axes) for _ in range(2))
        self.bits("band", to, parts[0], mask)
        self.bits("bnot", other, mask)
        self.bits("band", other, other, parts[1])      # the first operand alone may be the result
        self.bits("bor", to, to, other)
        for x in (mask, *parts, other):
            self.give(x)
        result = self.alias(to, dtype)
        self.give(to)
        return result

    def shift(self, op: str, dtype: str, a: Value, by: Value) -> Value:
        """A shift by the same number of bits everywhere."""
        to = self.new(dtype, a.axes)
        if op == "shr" and dtype.startswith("u"):
            self.out.call("__bang_srl", f"(uint32_t *){to.text}", f"(uint32_t *){a.text}", by.text,
                          self.count(a.axes))
        else:
            word = "sll" if op == "shl" else "sra"
            self.out.call(f"__bang_{word}", to.text, a.text, by.text, self.count(a.axes))
        return to

    def cast(self, x: Value, dtype: str) -> Value:
        if x.dtype == "float16":
            return self.convert("half2float", "float32", x, "half")
        if x.dtype == "bool" and dtype != "bool":
            one = ONE_BITS if dtype == "float32" else 1
            bits = self.do("band_scalar", "int32", x.axes, x.text, one)
            result = self.alias(bits, dtype)
            self.give(bits)
            return result
        if dtype == "bool":
            return self.compare("ne", x, Value("0.0f" if x.dtype == "float32" else "0", x.dtype))
        if stored(dtype) == stored(x.dtype):
            return self.alias(x, dtype)
        word = "int322float_rn" if dtype == "float32" else "float2int32_tz"
        to = self.new(dtype, x.axes)
        self.out.call(f"__bang_{word}", to.text, x.text, self.count(x.axes), 0)
        return to

    # -- shapes ---------------------------------------------------------------------------------

    def joint(self, *args: Value) -> tuple[str, ...]:
        """Axes that any of the values has, in the tile's order."""
        has = {name for a in args for name in a.axes}
        return tuple(a.name for a in self.axes if a.name in has)

    def spread(self, x: Value, axes: tuple[str, ...]) -> Value:
        """A value repeated along the axes that it lacks; another user of its place."""
        if x.axes == axes:
            if x.held is not None:
                x.held.users += 1
            return x
        if not x.axes:
            to = self.new(x.dtype, axes)
            text = self.literal(x)
            kind = TYPES[stored(x.dtype)]
            self.out.call("__bang_write_value", to.text, self.count(axes), f"({kind}){atom(text)}")
            return to
        here = x
        if here.held is not None:
            here.held.users += 1
        inner = len(axes)
        while here.axes != axes:
            at = max(i for i in range(inner) if axes[i] not in here.axes)
            first = at
            while first > 0 and axes[first - 1] not in here.axes:
                first -= 1
            wider = self.repeated(here, axes, first, at + 1)
            self.give(here)
            here, inner = wider, first
        return here

    def repeated(self, x: Value, axes: tuple[str, ...], first: int, last: int) -> Value:
        """A value with axes[first:last] put in."""
        outer = tuple(a for a in axes[:first] if a in x.axes)
        inner = axes[last:]
        to = self.new(x.dtype, (*outer, *axes[first:last], *inner))
        before, times_, after = (self.count(a) for a in (outer, axes[first:last], inner))
        i, j = self.out.fresh("i"), self.out.fresh("i")
        if not inner:
            with self.out.braces(f"for (int32_t {i} = 0; {i} < {before}; ++{i})"):
                self.out.call("__bang_write_value", f"{to.text} + {i} * {atom(times_)}", times_,
                              f"{x.text}[{i}]")
            return to
        size = times(4, after)
        if not outer:
            with self.out.braces(f"for (int32_t {j} = 0; {j} < {times_}; ++{j})"):
                self.out.call("__bang_move", f"{to.text} + {j} * {atom(after)}", x.text, size)
            return to
        with self.out.braces(f"for (int32_t {i} = 0; {i} < {before}; ++{i})"):
            with self.out.braces(f"for (int32_t {j} = 0; {j} < {times_}; ++{j})"):
                self.out.call(
                    "__bang_move",
                    f"{to.text} + ({i} * {atom(times_)} + {j}) * {atom(after)}",
                    f"{x.text} + {i} * {atom(after)}", size)
        return to

    def steps(self, axis: str) -> Value:
        """0, 1, 2, ... along an axis: doubled from its beginning."""
        to = self.new("int32", (axis,))
        size, have = self.sizes[axis], 1
        self.out.line(f"{to.text}[0] = 0;")
        if isinstance(size, int):
            while have < size:
                more = min(have, size - have)
                self.out.call("__bang_add_scalar", f"{to.text} + {have}", to.text, have, more)
                have *= 2
            return to
        i = self.out.fresh("i")
        with self.out.braces(f"for (int32_t {i} = 1; {i} < {size}; {i} *= 2)"):
            self.out.call("__bang_add_scalar", f"{to.text} + {i}", to.text, i,
                          f"fl_min({i}, {atom(size)} - {i})")
        return to

    # -- memory ---------------------------------------------------------------------------------

    def raw(self, node: Node) -> Value:
        """A load as it lies in memory."""
        if node in self.fetched:
            return self.fetched[node]
        element, axes = self.layout(node)
        to = self.new(element, axes, raw=True)
        self.fetch(node, to.text, "__memcpy")
        return Value(to.text, node.dtype, axes, to.held)

    def layout(self, node: Node) -> tuple[str, tuple[str, ...]]:
        """(element type, axes) of a load's tile."""
        place = self.places[str(node.args[0])]
        _, steps = self.steps_of(linear(node.args[1], self.extents))
        axes = tuple(a.name for a in self.axes if a.name in steps)
        return "int32" if node.dtype == "int64" else place.memory.dtype, axes

    def fetch(self, node: Node, to: str, word: str) -> None:
        """Copy what a load reads to a tile."""
        place = self.places[str(node.args[0])]
        start, steps = self.start(linear(node.args[1], self.extents), place)
        dims = [(self.sizes[a.name], steps[a.name]) for a in self.axes if a.name in steps]
        self.copy(place, start, dims, to, word, True)

    def widened(self, x: Value) -> Value:
        """Bytes and shorts as int32."""
        if x.dtype == "uint8":
            to = self.new("int32", x.axes)
            self.out.call("__bang_uchar2int32", to.text, x.text, self.count(x.axes), 0)
        elif x.dtype == "uint16":
            raise self.out.refuse("sixteen bits that are not the upper half of a float")
        else:
            return x
        self.give(x)
        return Value(to.text, x.dtype, to.axes, to.held)

    def convert(self, word: str, dtype: str, x: Value, kind: str) -> Value:
        """A widening conversion; x's place is given back if this is its only use."""
        to = self.do(word, dtype, x.axes, f"({kind} *){x.text}")
        if x.dtype == "uint16":
            self.give(x)
        return to

    def start(self, total: Linear, place: Place) -> tuple[str, dict[str, int]]:
        """(where the tile's first element lies, step by axis of the tile)."""
        rest, steps = self.steps_of(total)
        return self.scalars.index(rest, place), steps

    def steps_of(self, total: Linear) -> tuple[Linear, dict[str, int]]:
        """(what is the same in the whole tile, step by axis of the tile)."""
        names = {a.name for a in self.axes}
        steps = {n: total[var(n)] for n in names if var(n) in total}
        rest = {atom_: c for atom_, c in total.items()
                if not (atom_.op == "var" and atom_.args[0] in steps)}
        if any(atom_.vars & names for atom_ in rest):
            raise self.out.refuse("an index that is no sum of axes")
        return rest, steps

    def copy(self, place: Place, start: str, dims: list[tuple[Size, int]], tile: str,
             word: str, fetch: bool) -> None:
        """Elements between global memory and a dense tile, segment by segment."""
        wide = WIDTHS[place.memory.dtype]
        narrow = 4 if place.memory.dtype == "int64" else wide
        dims = [d for d in dims if d[0] != 1]
        runs: list[tuple[Size, int]] = []
        for size, step in reversed(dims):
            if runs and isinstance(runs[0][0], int) and step == runs[0][0] * runs[0][1]:
                runs[0] = (times(size, runs[0][0]), runs[0][1])
            else:
                runs.insert(0, (size, step))
        run: Size = 1
        if runs and runs[-1][1] == 1 and narrow == wide:
            run = runs.pop()[0]
        far, near, names = start, "0", []
        dense = run
        segments = runs[-1] if runs and runs[-1][1] > 0 else None
        outer = runs[:-1] if segments else runs
        if segments:
            dense = times(segments[0], run)
        for size, step in reversed(outer):
            name = self.out.fresh("i")
            names.append((name, size))
            far += f" + {name} * {step}" if step >= 0 else f" - {name} * {-step}"
            near += f" + {name} * {atom(dense)}"
            dense = times(size, dense)
        with_ = self._copy_call(place, far, near.removeprefix("0 + "), run, segments, tile, fetch)
        self._loops(names[::-1], word, with_)

    def _copy_call(self, place: Place, far: str, near: str, run: Size,
                   segments: tuple[Size, int] | None, tile: str, fetch: bool) -> list[Size]:
        wide = WIDTHS[place.memory.dtype]
        narrow = 4 if place.memory.dtype == "int64" else wide
        gdram = place.pointer if far == "0" else f"{place.pointer} + {far}"
        nram = tile if near == "0" else f"{tile} + {near}"
        size = times(narrow, run)
        call: list[Size] = ([nram, gdram, size, "GDRAM2NRAM"] if fetch
                            else [gdram, nram, size, "NRAM2GDRAM"])
        if segments:
            count, step = segments
            strides: list[Size] = [size, wide * step]
            less: Size = count - 1 if isinstance(count, int) else f"{atom(count)} - 1"
            call += [*(strides if fetch else strides[::-1]), less]
        return call

    def _loops(self, names: list[tuple[str, Size]], word: str, call: list[Size]) -> None:
        if not names:
            self.out.call(word, *call)
            return
        (name, size), *rest = names
        with self.out.braces(f"for (int32_t {name} = 0; {name} < {size}; ++{name})"):
            self._loops(rest, word, call)

    def store(self, value: Value, index: Node, place: Place, staged: bool = False) -> None:
        """Write a tile, or one number, to global memory.

        Args:
            staged: the copy is not waited for; the caller does that before the next round.
        """
        start, steps = self.start(linear(index, self.extents), place)
        axes = tuple(a.name for a in self.axes if a.name in steps)
        whole = self.spread(value, axes) if axes else self.spread_one(value)
        if value.dtype == "bool":
            whole, old = self.cast(whole, "int32"), whole
            self.give(old)
        if place.memory.dtype == "uint8":
            real, old = self.cast(whole, "float32"), whole
            whole = self.new("uint8", real.axes, raw=True)
            self.out.call("__bang_float2uchar_tz", whole.text, real.text, self.count(real.axes))
            self.give(old)
            self.give(real)
        if staged:
            self.out.line("__sync_compute();")
        self.copy(place, start, [(self.sizes[a], steps[a]) for a in axes], whole.text,
                  "__memcpy_async" if staged else "__memcpy", False)
        self.give(whole)

    def spread_one(self, value: Value) -> Value:
        """A tile of one number."""
        if value.axes:
            raise self.out.refuse("a tile where one number is stored")
        to = self.new(value.dtype, ())
        self.out.line(f"{to.text}[0] = {self.literal(value)};")
        return to
