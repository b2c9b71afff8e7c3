"""Steps of a kernel as functions in the compiler's input form, one to launch after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from firstlight.codegen.nests.effects import nodes
from firstlight.codegen.nests.nodes import Node, const, make, walk
from firstlight.codegen.nests.program import (
    WIDTHS,
    Axis,
    Memory,
    Program,
    Repeat,
    Selection,
    Step,
)
from firstlight.codegen.nests.schedule import Tile, tiles
from firstlight.targets.ascend.attention import Attention
from firstlight.targets.ascend.products import Product, masked
from firstlight.targets.ascend.selection import select
from firstlight.targets.ascend.text import TYPES, Value, Writer
from firstlight.targets.ascend.values import ONLY, Place, Values

CORES = 64
"""Most blocks of a launch: vector cores of the middle SKU. They share the rounds."""
ALIGN = 64
NEUTRAL = {("sum", "float32"): 0.0, ("sum", "int32"): 0, ("max", "float32"): float("-inf"),
           ("max", "int32"): -(2**31)}


@dataclass
class Function:
    """A function's text, and what it is launched with.

    arguments  of its memories: the number of a pointer, or "w" for the workspace
    rounds     how many blocks have something to do
    """

    entry: str
    text: str
    arguments: list[int | str]
    rounds: Node


@dataclass
class Emitter:
    """Writes a program's functions.

    Attributes:
        budget: most elements of a tile.
        cube: whether products are done by the cube core.
        workspace: first place, in units of 64 bytes, of each memory without a pointer.
    """

    program: Program
    budget: int
    cube: bool = True
    workspace: dict[str, Node] = field(default_factory=dict)
    end: Node = field(default_factory=lambda: const(0))

    def __post_init__(self) -> None:
        for memory in _stored(self.program.steps):
            if memory.pointer is None and memory.name not in self.workspace:
                self.workspace[memory.name] = self.end
                size = make("mul", "int32", memory.elements, const(WIDTHS[memory.dtype]))
                units = make("floordiv", "int32", make("add", "int32", size, const(ALIGN - 1)),
                             const(ALIGN))
                self.end = make("add", "int32", self.end, units)

    def functions(self) -> list[Function]:
        """A function for each step."""
        return [self.function(f"{self.program.name}_{i}", step)
                for i, step in enumerate(self.program.steps)]

    def function(self, entry: str, step: Step) -> Function:
        body = Body(self)
        body.begin()
        body.step(step)
        head = [f"{name}: memref<?x{type_}>" for name, type_, _ in body.arguments.values()]
        head += [f"%{n}: i32" for n in ("S", "gx", "gy", "gz", "px", "py", "pz")]
        mixed = ', mix_mode = "mix"' * body.mixed
        text = [f'  func.func @{entry}({", ".join(head)}) attributes {{global_kernel = "local"'
                f"{mixed}}} {{",
                *body.out.lines, "    return", "  }", ""]
        arguments = [source for _, _, source in body.arguments.values()]
        return Function(entry, "\n".join(text), arguments, body.rounds)


class Body:
    """One function's body."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter, self.out = emitter, Writer()
        self.where = emitter.program.name
        self.arguments: dict[Any, tuple[str, str, int | str]] = {}
        self.places: dict[str, Place] = {}
        self.rounds = const(1)
        self.mixed = False

    def begin(self) -> None:
        for name, argument in (("pid", "px"), ("all", "gx"), ("tokens", "S")):
            self.out.line(f"%{name} = arith.index_cast %{argument} : i32 to index")
        self.at = {"S": "%tokens"}

    def step(self, step: Step) -> None:
        """Everything that a step does. Repeated steps are launched as one block."""
        if isinstance(step, Repeat):
            zero, one = self.out.index(0), self.out.index(1)
            count = self.out.index(step.count)
            for part in step.steps:
                self.claim(part)
            with self.out.region(f"scf.for %again = {zero} to {count} step {one} {{"):
                for part in step.steps:
                    self.step(part)
            self.rounds = const(1)
            return
        self.claim(step)
        if isinstance(step, Attention):
            step.write(self)
            return
        if isinstance(step, Selection):
            with self.rounds_of(step.axes) as at:
                select(step, self.values((), at))
            return
        for tile in tiles(step, self.emitter.budget, self.emitter.cube):
            self.tile(tile)

    def claim(self, step: Step) -> None:
        """Arguments for all that a step reads and writes, before any region begins."""
        if isinstance(step, Repeat):
            for part in step.steps:
                self.claim(part)
            return
        memories = self.emitter.program.memories
        names = [n.args[0] for node in nodes(step) for n in walk(node) if n.op == "load"]
        for name in dict.fromkeys([*names, step.buffer.name]):
            if name not in self.places:
                self.places[name] = self.place(memories[name])

    def place(self, memory: Memory) -> Place:
        element = TYPES[memory.dtype]
        if memory.pointer is not None:
            key, name, source = memory.pointer, f"%p{memory.pointer}", memory.pointer
            self.arguments[key] = (name, element, source)
            return Place(name, memory)
        name = f"%w{element}"
        self.arguments[name] = (name, element, "w")
        units = make("mul", "int32", self.emitter.workspace[memory.name],
                     const(ALIGN // WIDTHS[memory.dtype]))
        return Place(name, memory, self.values((), self.at).scalar_index(units))

    def values(self, axes: tuple[Axis, ...], at: dict[str, str], acc: tuple[Value, ...] = (),
               joined: tuple[Axis, ...] = ()) -> Values:
        return Values(self.out, self.where, self.places, axes, at, acc, joined)

    # -- loops ----------------------------------------------------------------------------------

    @contextmanager
    def rounds_of(self, axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
        """Steps of all axes, dealt out to blocks; where each axis is."""
        total = const(1)
        for axis in axes:
            total = make("mul", "int32", total, axis.extent)
        self.rounds = make("max", "int32", self.rounds, total)
        most = self.values((), self.at).scalar_index(total)
        name = self.out.fresh()
        with self.out.region(f"scf.for {name} = %pid to {most} step %all {{"):
            at, left = dict(self.at), name
            for axis in reversed(axes[1:]):
                size = self.values((), self.at).scalar_index(axis.extent)
                at[axis.name] = self.out.pure(f"arith.remui {left}, {size} : index")
                left = self.out.pure(f"arith.divui {left}, {size} : index")
            if axes:
                at[axes[0].name] = left
            yield at

    def tile(self, tile: Tile) -> None:
        """The rounds of one tile: read, compute, write."""
        nest = tile.nest
        with self.rounds_of(tile.outside(nest.axes)) as at, ExitStack() as stack:
            if nest.condition is not None:
                condition = self.values((), at).value(nest.condition).name
                stack.enter_context(self.out.region(f"scf.if {condition} {{"))
            axes = tile.inside(nest.axes)
            acc: tuple[Value, ...] = ()
            if tile.product:
                product = Product(self, tile, at)
                acc = tuple(product.total(i) for i in range(nest.totals))
                self.mixed = True
            elif nest.join:
                acc = tuple(self.reduced(tile, axes, at, i) for i in range(nest.totals))
            values = self.values(axes, at, acc)
            values.store(values.value(nest.value), nest.index, self.places[nest.buffer.name])

    # -- reductions -----------------------------------------------------------------------------

    def reduced(self, tile: Tile, axes: tuple[Axis, ...], at: dict[str, str],
                number: int) -> Value:
        """All terms of a total joined: a value for each place of the tile."""
        nest = tile.nest
        parts = [p for p in nest.parts if p.total == number]
        dtype = parts[0].term.dtype
        names = tuple(a.name for a in axes) or (ONLY,)
        sizes = tuple(a.length or 0 for a in axes) or (1,)
        neutral = self.out.constant(NEUTRAL[nest.join, dtype], dtype)
        total = self.out.fill(neutral, dtype, sizes)
        for part in parts:
            def join(term: Node, at: dict[str, str], total: Value,
                     inside: tuple[Axis, ...] = tile.inside(part.axes)) -> str:
                return self.join(nest.join, term, (axes, inside), at, total)

            total = self.part(part.term, tile.outside(part.axes), at,
                              Value(total, dtype, names, sizes), join)
        return Value(total, dtype, names, sizes)

    def part(self, term: Node, loops: tuple[Axis, ...], at: dict[str, str], total: Value,
             join: Callable[[Node, dict[str, str], Value], str]) -> str:
        """`total` and the terms of a part joined, loop by loop."""
        if not loops:
            return join(term, at, total)
        axis, *rest = loops
        zero, one = self.out.index(0), self.out.index(1)
        most = self.values((), at).scalar_index(axis.extent)
        step, running, result = (self.out.fresh() for _ in range(3))
        head = (f"{result} = scf.for {step} = {zero} to {most} step {one} iter_args({running} = "
                f"{total.name}) -> ({total.type}) {{")
        with self.out.region(head):
            inner = self.part(term, tuple(rest), {**at, axis.name: step},
                              Value(running, total.dtype, total.axes, total.sizes), join)
            self.out.line(f"scf.yield {inner} : {total.type}")
        return result

    def join(self, join: str, term: Node, axes: tuple[tuple[Axis, ...], tuple[Axis, ...]],
             at: dict[str, str], total: Value) -> str:
        """`total` and one tile of terms."""
        kept, gone = axes
        op = {"sum": "arith.addf", "max": "arith.maximumf"}[join]
        if total.dtype == "int32":
            op = {"sum": "arith.addi", "max": "arith.maxsi"}[join]
        values = self.values((*kept, *gone), at, joined=gone)
        value = values.value(term)
        for axis in gone:
            if axis.valid is not None:
                value = masked(values, value, axis, NEUTRAL[join, total.dtype])
        if gone:
            names = total.axes + tuple(a.name for a in gone)
            sizes = total.sizes + tuple(a.length or 0 for a in gone)
            value = values.spread(value, names, sizes)
            neutral = self.out.constant(NEUTRAL[join, total.dtype], total.dtype)
            empty = self.out.fill(neutral, total.dtype, total.sizes)
            dimensions = list(range(len(total.sizes), len(sizes)))
            value = Value(self.out.op(
                f"linalg.reduce {{{op}}} ins({value.name} : {value.type}) outs({empty} : "
                f"{total.type}) dimensions = {dimensions}"), total.dtype, total.axes, total.sizes)
        return values.apply(op, total.dtype, total,
                            values.spread(value, total.axes, total.sizes)).name


def _stored(steps: Sequence[Step]) -> Iterator[Memory]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _stored(step.steps)
        else:
            yield step.buffer
