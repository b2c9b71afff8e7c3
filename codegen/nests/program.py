"""A generic kernel's structured TIR as nests: what one element is, over which axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.linear import simplified
from firstlight.codegen.nests.nodes import (
    Node,
    Reader,
    const,
    make,
    rebuild,
    substitute,
    var,
    walk,
)
from firstlight.codegen.walk import Walker

WIDTHS = {"float32": 4, "int32": 4, "uint8": 1, "uint16": 2, "float16": 2, "int64": 8}


@dataclass(frozen=True)
class Memory:
    """A buffer in global memory; `pointer` is its parameter, None for one of the workspace."""

    name: str
    dtype: str
    shape: tuple[Node, ...]
    pointer: int | None = None

    @property
    def elements(self) -> Node:
        """How many there are."""
        count = const(1)
        for size in self.shape:
            count = make("mul", "int32", count, size)
        return count


@dataclass(frozen=True)
class Axis:
    """Steps 0 .. extent - 1. `valid`: of a tile's axis, how many steps count where not all do."""

    name: str
    extent: Node
    valid: Node | None = None

    @property
    def length(self) -> int | None:
        """The extent, if it is a number."""
        return self.extent.number


@dataclass(frozen=True)
class Part:
    """Terms of a reduction, over axes of their own.

    `total`: which of a nest's results they are joined to, where several reductions became one step;
    the node ``acc`` has its number then.
    """

    axes: tuple[Axis, ...]
    term: Node
    total: int = 0


@dataclass(frozen=True)
class Nest:
    """buffer[index] = value for all steps of `axes`, where `condition` holds.

    With `join` ("sum", "max") the value has ``acc`` nodes, which stand for all terms of `parts`
    joined.
    """

    name: str
    axes: tuple[Axis, ...]
    buffer: Memory
    index: Node
    value: Node
    condition: Node | None = None
    join: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def extents(self) -> dict[str, int]:
        """Number of steps of the axes that have a fixed one."""
        axes = [*self.axes, *(a for p in self.parts for a in p.axes)]
        return {a.name: a.length for a in axes if a.length is not None}

    @property
    def totals(self) -> int:
        """How many results its parts have."""
        return 1 + max((p.total for p in self.parts), default=-1)

    def map(self, change: Any) -> Nest:
        """The nest with every expression changed."""
        parts = tuple(replace(p, term=change(p.term)) for p in self.parts)
        condition = None if self.condition is None else change(self.condition)
        return replace(self, index=change(self.index), value=change(self.value),
                       condition=condition, parts=parts)

    def simplified(self) -> Nest:
        """The nest with its quotients resolved."""
        extents = self.extents
        return self.map(lambda n: simplified(n, extents))

    def renamed(self, values: dict[str, Node]) -> Nest:
        """The nest with axes replaced."""
        return self.map(lambda n: substitute(n, values))


@dataclass(frozen=True)
class Selection:
    """For each step of `axes`: places of the `k` largest values among `candidate`, in order.

    `value` is a value by its place. Equal ones keep the order of their places; minus infinity is
    never chosen, and what is left over is -1. `index` is where the first place goes.
    """

    name: str
    axes: tuple[Axis, ...]
    candidate: Axis
    value: Node
    k: int
    buffer: Memory
    index: Node


@dataclass(frozen=True)
class Repeat:
    """Steps done `count` times, one after another."""

    count: int
    steps: tuple[Step, ...]


Step = Nest | Selection | Repeat


@dataclass
class Program:
    """The steps of a kernel, in order, and the memory they work on."""

    name: str
    pointers: list[tuple[str, str]]
    steps: list[Step] = field(default_factory=list)
    memories: dict[str, Memory] = field(default_factory=dict)


def program(kernel: Kernel) -> Program:
    """Read a generic kernel. Raises F405 for TIR that generic kernels do not have."""
    return _Nests(kernel).program


class _Nests(Walker):
    """Statements as steps; the loops around a statement are in `self.loops`."""

    def __init__(self, kernel: Kernel) -> None:
        self.where = kernel.name
        self.reader = Reader(kernel.name)
        *pointers, tokens = kernel.func.params
        self.program = Program(kernel.name, [
            (str(p.name), str(p.ty.element_type.dtype)) for p in pointers])
        self.reader.names[tokens] = var("S")
        self.pointers = {p: i for i, p in enumerate(pointers)}
        self.count = 0
        self.program.steps = self.steps(kernel.func.body.block.body)

    def steps(self, body: Any) -> list[Step]:
        """The steps of a statement."""
        found: list[Step] = []
        seq = list(body.seq) if type(body).__name__ == "SeqStmt" else [body]
        while seq:
            if _reduces(seq):
                found.append(self.reduction([], *seq[:4]))
                seq = seq[4:]
            else:
                found += self.stmt(seq.pop(0)) or ()
        return found

    def s_SeqStmt(self, s: Any) -> list[Step]:
        return self.steps(s)

    def s_DeclBuffer(self, s: Any) -> None:
        self.declare(s.buffer, self.pointers[s.data])

    def s_AllocBuffer(self, s: Any) -> None:
        self.declare(s.buffer, None)

    def declare(self, buffer: Any, pointer: int | None) -> None:
        shape = tuple(self.reader.expr(size) for size in buffer.ty.shape)
        name = f"b{len(self.program.memories)}"
        memory = Memory(name, str(buffer.ty.dtype), shape, pointer)
        self.program.memories[name] = self.reader.names[buffer] = memory

    def axis(self, variable: Any, extent: Any) -> Axis:
        """A new axis for a variable of TIR; one with a single step is the number 0."""
        size = self.reader.expr(extent)
        name = f"a{self.count}"
        self.count += 1
        self.reader.names[variable] = const(0) if size.number == 1 else var(name)
        return Axis(name, size)

    def s_For(self, s: Any) -> list[Step]:
        loops, body = [], s
        while type(body).__name__ == "For":
            loops.append(body)
            body = body.body
        if type(body).__name__ == "SBlockRealize":
            return self.stmt(body)
        if _reduces(list(body.seq)):
            return [self.reduction(loops, *body.seq)]
        if len(loops) != 1:
            self.refuse("several loops around several blocks")
        return [Repeat(int(s.extent.value), tuple(self.steps(body)))]

    def s_SBlockRealize(self, s: Any) -> list[Step]:
        axes = self.bind(s)
        body = s.block.body
        kind = type(body).__name__
        if kind == "BufferStore":
            return [self.store(s.block.name_hint, axes, body)]
        if kind == "IfThenElse":
            condition = self.reader.expr(body.condition)
            loop = body.then_case
            axes = (*axes, *_steps(self.axis(loop.loop_var, loop.extent)))
            return [replace(self.store(s.block.name_hint, axes, loop.body), condition=condition)]
        if kind == "SeqStmt" and type(body.seq[0]).__name__ == "BufferStore":
            return [self.store(s.block.name_hint, axes, part) for part in body.seq]
        if s.block.name_hint == "top_k":
            return [self.selection(axes, body)]
        return self.refuse(f"the block {s.block.name_hint}")

    def bind(self, realize: Any) -> tuple[Axis, ...]:
        """The axes of a block."""
        found = [self.axis(v.var, v.dom.extent) for v in realize.block.iter_vars]
        return tuple(a for axis in found for a in _steps(axis))

    def store(self, name: str, axes: tuple[Axis, ...], s: Any) -> Nest:
        index = self.reader.flat(s.buffer, [self.reader.expr(i) for i in s.indices])
        nest = Nest(name, axes, self.reader.names[s.buffer], index, self.reader.expr(s.value))
        return nest.simplified()

    def selection(self, axes: tuple[Axis, ...], body: Any) -> Selection:
        """A block as the lowering of top_k makes it: best values kept while all are looked at."""
        allocate, first, search = body.seq
        self.s_AllocBuffer(allocate)
        store = first.body.seq[1]
        candidate = self.axis(search.loop_var, search.extent)
        place = [self.reader.expr(i) for i in store.indices[:-1]] + [const(0)]
        return Selection("top_k", axes, candidate, self.reader.expr(search.body.seq[0].value),
                         int(first.extent.value), self.reader.names[store.buffer],
                         self.reader.flat(store.buffer, place))

    # -- reductions -----------------------------------------------------------------------------

    def reduction(self, loops: Sequence[Any], allocate: Any, start: Any, update: Any,
                  write: Any) -> Nest:
        """Loops around a start, an update and a write block, whose axes are loops or lanes."""
        outer = [self.axis(loop.loop_var, loop.extent) for loop in loops]
        self.s_AllocBuffer(allocate)
        total = self.reader.names[allocate.buffer]
        inner, block = self.descend(update)
        term = block.body.value
        join = "max" if type(term).__name__ == "Max" else "sum"
        read = self.reader.expr(term)
        mine, term_ = read.args
        if mine.op != "load" or mine.args[0] != total.name:
            self.refuse(f"the update of {block.name_hint}")
        lanes, written = self.descend(write)
        store = written.body
        across = [a for a in lanes if a.length != 1]
        value = rebuild(self.reader.expr(store.value), lambda n: _accumulated(n, total.name))
        index = self.reader.flat(store.buffer, [self.reader.expr(i) for i in store.indices])
        if across:     # the lane is a place of the result: the same axis in both blocks
            lane = inner.pop()
            index, value = (substitute(n, {across[0].name: var(lane.name)}) for n in (index, value))
            outer.append(lane)
        nest = Nest(block.name_hint, tuple(a for o in outer for a in _steps(o)),
                    self.reader.names[store.buffer], index, value, join=join,
                    parts=(Part(tuple(a for i in inner for a in _steps(i)), term_),))
        if across and len(nest.axes) > 1:
            one = merged(nest, *nest.axes[-2:])
            nest = one if _quotients(one) <= _quotients(nest.simplified()) else nest
        while len(nest.parts[0].axes) > 1:
            nest = merged(nest, *nest.parts[0].axes[-2:])
        return nest.simplified()

    def descend(self, stmt: Any) -> tuple[list[Axis], Any]:
        """The loops around a block, as axes, and the block; its own axes are those loops."""
        axes = []
        while type(stmt).__name__ == "For":
            axes.append(self.axis(stmt.loop_var, stmt.extent))
            stmt = stmt.body
        for iteration, value in zip(stmt.block.iter_vars, stmt.iter_values, strict=True):
            self.reader.names[iteration.var] = self.reader.expr(value)
        return axes, stmt.block


def merged(nest: Nest, outer: Axis, inner: Axis) -> Nest:
    """Two axes as one: what loops over vectors were cut from."""
    size = inner.length
    assert size is not None
    name = f"{outer.name}{inner.name}"
    one = Axis(name, make("mul", "int32", outer.extent, const(size)))
    values = {outer.name: make("floordiv", "int32", var(name), const(size)),
              inner.name: make("mod", "int32", var(name), const(size))}

    def axes(some: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(one if a is inner else a for a in some if a is not outer)

    nest = replace(nest, axes=axes(nest.axes), parts=tuple(
        replace(p, axes=axes(p.axes)) for p in nest.parts))
    return nest.renamed(values).simplified()


def _reduces(seq: Sequence[Any]) -> bool:
    """Whether statements begin with a total and the three blocks that make it."""
    if len(seq) < 4 or type(seq[0]).__name__ != "AllocBuffer":
        return False
    return _block_name(seq[1]).endswith("_start") and _block_name(seq[3]).endswith("_write")


def _block_name(stmt: Any) -> str:
    while type(stmt).__name__ == "For":
        stmt = stmt.body
    return str(stmt.block.name_hint) if type(stmt).__name__ == "SBlockRealize" else ""


def _quotients(nest: Nest) -> int:
    nodes = [nest.index, nest.value, *(p.term for p in nest.parts)]
    return sum(n.op in ("floordiv", "mod") for node in nodes for n in walk(node))


def _steps(axis: Axis) -> tuple[Axis, ...]:
    return () if axis.length == 1 else (axis,)


def _accumulated(node: Node, total: str) -> Node | None:
    """`acc` for a load of the total, and for joined loads of its lanes."""
    leaves = [n for n in walk(node) if n.op not in ("add", "max", "const")]
    loads = [n for n in leaves if n.op == "load" and n.args[0] == total]
    own = node.op in ("add", "max", "load") and node.dtype in ("float32", "int32")
    inside = {i for n in loads for i in walk(n.args[1])}
    if own and loads and all(n in loads or n in inside for n in leaves):
        return Node("acc", node.dtype)
    return None
