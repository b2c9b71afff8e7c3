"""Dense tiles in NRAM: where they lie, how long they live, what shape they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from firstlight.codegen.nests.program import Axis
from firstlight.targets.cambricon.text import TYPES, WIDTHS, Room, Size, Writer, atom, times


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
class Tiles:
    """Writes instructions on tiles over some axes.

    Attributes:
        axes: of the tile, in the order of its rows.
        sizes: how many steps of each axis there are, by name.
        segments: elements that rows within NRAM are a multiple of, if they move at a stride.
    """

    out: Writer
    axes: tuple[Axis, ...]
    sizes: Mapping[str, Size]
    segments: int

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

    def place(self, count: int, kind: str = "float32") -> Value:
        """Room for so many numbers that are no tile of these axes."""
        room = self.out.nram.take(count * WIDTHS[kind])
        return Value(self.out.pointer(kind, room), kind, ("place",), Held(room, 1))

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
        middle, inner = axes[first:last], axes[last:]
        before, count, after = (self.count(a) for a in (outer, middle, inner))
        if not inner:
            across = self.new(x.dtype, (*middle, *outer))
            self.doubled(across.text, x.text, before, count)
            return self.turned(across, count, before, (*outer, *middle))
        to = self.new(x.dtype, (*outer, *middle, *inner))
        if not outer:
            self.doubled(to.text, x.text, after, count)
        elif isinstance(count, int) and count <= self.most(outer) and self.strided(after):
            for step in range(count):
                self.rows(f"{to.text} + {step} * {atom(after)}", times(count, after), x.text, after,
                          after, before)
        else:
            i = self.out.fresh("i")
            with self.out.braces(f"for (int32_t {i} = 0; {i} < {before}; ++{i})"):
                self.doubled(f"{to.text} + {i} * {atom(times(count, after))}",
                             f"{x.text} + {i} * {atom(after)}", after, count)
        return to

    def doubled(self, to: str, x: str, size: Size, times_: Size) -> None:
        """`x`, of `size` elements, so many times over: what is there already is copied."""
        self.out.call("__bang_move", to, x, times(4, size))
        have = 1
        if isinstance(times_, int):
            while have < times_:
                more = min(have, times_ - have)
                self.out.call("__bang_move", f"{to} + {times(have, size)}", to,
                              times(4, more, size))
                have *= 2
            return
        i = self.out.fresh("i")
        with self.out.braces(f"for (int32_t {i} = 1; {i} < {times_}; {i} *= 2)"):
            rest = times(4, f"fl_min({i}, {atom(times_)} - {i})", size)
            self.out.call("__bang_move", f"{to} + {i} * {atom(size)}", to, rest)

    def turned(self, x: Value, height: Size, width: Size, axes: tuple[str, ...]) -> Value:
        """[height, width] as [width, height], whose axes are given; x's place is given back."""
        if 1 in (height, width):
            return replace(x, axes=axes)
        to = self.new(x.dtype, axes)
        self.out.call("__bang_transpose", to.text, x.text, height, width)
        self.give(x)
        return to

    def strided(self, elements: Size) -> bool:
        """Whether rows of so many elements may move at a stride."""
        return self.segments == 1 or (isinstance(elements, int) and elements % self.segments == 0)

    def rows(self, to: str, to_stride: Size, x: str, x_stride: Size, size: Size,
             count: Size) -> None:
        """Rows of `size` elements moved, strides in elements too."""
        if count == 1:
            self.out.call("__bang_move", to, x, times(4, size))
            return
        less: Size = count - 1 if isinstance(count, int) else f"{atom(count)} - 1"
        if self.strided(size):
            self.out.call("__bang_move", to, x, times(4, size), times(4, to_stride),
                          times(4, x_stride), less)
            return
        i = self.out.fresh("i")
        with self.out.braces(f"for (int32_t {i} = 0; {i} < {count}; ++{i})"):
            self.out.call("__bang_move", f"{to} + {i} * {atom(to_stride)}",
                          f"{x} + {i} * {atom(x_stride)}", times(4, size))

    def steps(self, axis: str) -> Value:
        """0, 1, 2, ... along an axis: doubled from its beginning."""
        to = self.new("int32", (axis,))
        size = self.sizes[axis]
        self.out.line(f"{to.text}[0] = 0;")
        if isinstance(size, int):
            have = 1
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

    def spread_one(self, value: Value) -> Value:
        """A tile of one number."""
        if value.axes:
            raise self.out.refuse("a tile where one number is stored")
        to = self.new(value.dtype, ())
        self.out.line(f"{to.text}[0] = {self.literal(value)};")
        return to
