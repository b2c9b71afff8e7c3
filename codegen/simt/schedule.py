"""A kernel as launches: one function bound to threads for each phase of it.

A phase is a parallel loop nest, whose rounds become threads, or what lies between two of them, done
by a single thread. Launches follow each other on one queue, which makes the barrier between phases.
A kernel that binds threads itself keeps its launches as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt.halves import without_halves
from firstlight.codegen.simt.memory import Workspace, bytes_of, own, rehoused
from firstlight.codegen.simt.sizes import Size, combine, expression, size_of
from firstlight.codegen.simt.spatial import PARALLEL, SERIAL, spread
from firstlight.codegen.tvm_bridge import (
    PrimFunc,
    T,
    allocations,
    flat,
    flattened,
    sequence,
    tirx,
    variables,
)
from firstlight.passes.capabilities import Capabilities, Threads

VECTORIZED = tirx.ForKind.VECTORIZED
EXTENT = "thread_extent"
AXES = {f"{kind}Idx.{axis}": (kind, i) for kind in ("block", "thread") for i, axis in
        enumerate("xyz")}
WORKSPACE, TOKENS = "w", "S"
TURNS, STEPS = 16, 1 << 10
"""Rounds, and innermost steps, for each thread of a group up to which one group may do a loop."""


RECENT = 1 << 10
"""Kernels whose launches and texts are kept: one is often emitted, built and run here."""


@dataclass(frozen=True, eq=False)
class Phase:
    """One launch: a function of some of the kernel's pointers, the workspace and S.

    Attributes:
        entry: its name.
        func: bound to threads; TVM's generators print it.
        grid, group: groups, and threads of a group, in one to three dimensions.
        arguments: of its parameters in order: the number of a pointer, "w" or "S".
        shared: bytes of group memory that it declares.
    """

    entry: str
    func: PrimFunc
    grid: tuple[Size, ...]
    group: tuple[int, ...]
    arguments: tuple[int | str, ...]
    shared: int = 0


@dataclass(frozen=True, eq=False)
class Scheduled:
    """All launches of a kernel, in order. `workspace` is how many bytes it needs for S tokens."""

    name: str
    pointers: int
    workspace: Size
    phases: tuple[Phase, ...]

    def record(self, module: int = 0) -> dict[str, Any]:
        """The kernel's row of ``launch.json``; `module` is the number of the file of its code."""
        launches = [{"entry": p.entry, "module": module, "grid": list(p.grid),
                     "group": list(p.group), "shared": 0, "args": list(p.arguments)}
                    for p in self.phases]  # fmt: skip
        return {"pointers": self.pointers, "workspace": self.workspace, "launches": launches}

    def resources(self) -> dict[str, int]:
        """The most that a launch uses of what is limited."""
        return {"shared_bytes": max((p.shared for p in self.phases), default=0),
                "group_threads": max((math.prod(p.group) for p in self.phases), default=0)}


@lru_cache(RECENT)
def scheduled(kernel: Kernel, capabilities: Capabilities) -> Scheduled:
    """The launches of any kernel, on a chip with threads as `capabilities` say.

    Raises F453 for a launch whose size depends on more than S.
    """
    return _Scheduler(kernel, capabilities.threads or Threads()).run()


class _Scheduler:
    def __init__(self, kernel: Kernel, threads: Threads) -> None:
        self.name, self.threads = kernel.name, threads
        self.func = without_halves(flat(spread(kernel.func)))
        *self.pointers, self.tokens = self.func.params
        self.workspace = Workspace(self.tokens)
        self.phases: list[Phase] = []

    def run(self) -> Scheduled:
        declared, arrays, parts = _split(self.func.body)
        uses = [set(variables(part)) for part in parts]
        shared: dict[Any, Any] = {}
        for array in arrays:
            users = [i for i, names in enumerate(uses) if array.buffer in names]
            if len(users) == 1 and not _is_loop(parts[users[0]]) and self.fits(array.buffer):
                parts[users[0]] = sequence([array, parts[users[0]]])
            else:
                shared[array.buffer] = self.workspace.place(array.buffer)
        places = [*declared, *shared.values()]
        run: list[Any] = []
        for part in (rehoused(part, shared) for part in parts):
            if self.small(part):
                run.append(part)
                continue
            self.together(run, places)
            run = []
            if _is_bound(part):
                self.add(part, places, *_launch(part))
            else:
                self.loop(part, places)
        self.together(run, places)
        return Scheduled(self.name, len(self.pointers), self.workspace.size, tuple(self.phases))

    def small(self, part: Any) -> bool:
        """Whether one group does a part as fast as many, so that it needs no launch of its own."""
        if not _is_loop(part):
            return not _is_bound(part)
        rounds = _rounds(_nest(part)[0])
        return (isinstance(rounds, int) and rounds <= TURNS * self.threads.group
                and steps(part) <= STEPS * self.threads.group)

    def together(self, parts: Sequence[Any], places: Sequence[Any]) -> None:
        """Parts as one launch of one group, which meets at a barrier between them."""
        if not parts:
            return
        size = max(self.width(part) for part in parts)
        threads, body = _Threads(1, size, self.tokens), []
        for part in parts:
            if body:
                body.append(barrier())
            body.append(self.turns(part, threads.thread, size) if _is_loop(part) else
                        _guarded(threads.thread, 1, self.arrays(part, 1, 0), size))
        self.add(threads.bind(sequence(body)), places, (1,), (size,))

    def width(self, part: Any) -> int:
        """Threads of use for a part in one group."""
        if not _is_loop(part):
            return 1
        rounds = _rounds(_nest(part)[0])
        return min(self.threads.group, 1 << max(rounds - 1, 0).bit_length())

    def turns(self, part: Any, thread: Any, size: int) -> Any:
        """Rounds of a loop, dealt out to `size` threads."""
        nest, body = _nest(part)
        count = _rounds(nest)
        if count <= size:
            body = _numbered(nest, self.arrays(body, size, thread), thread)
            return _guarded(thread, count, body, size)
        turn = tirx.Var("turn", "int32")
        number = turn * size + thread
        body = _numbered(nest, self.arrays(body, size, thread), number)
        body = _guarded(number, count, body, 1 if count % size else count)
        return tirx.For(turn, T.int32(0), T.int32(-(-count // size)), SERIAL, body)

    def loop(self, part: Any, places: Sequence[Any]) -> None:
        """Rounds of nested parallel loops become threads, those of the innermost one side by side.

        Rounds with arrays too large for a thread take turns in as many places as can run at a time.
        """
        nest, body = _nest(part)
        count, group = _rounds(nest), self.threads.group
        rounds = expression(count, self.tokens)
        large = any(not self.fits(a.buffer) for a in allocations(body))
        running = combine("min", count, self.threads.resident) if large else count
        threads = _Threads(combine("ceildiv", running, group), group, self.tokens)
        body = self.arrays(body, running, threads.number)
        if running == count:
            known = isinstance(count, int) and count % group == 0
            body = _numbered(nest, body, threads.number)
            body = body if known else _guarded(threads.number, rounds, body)
        else:
            turn, step = tirx.Var("turn", "int32"), expression(running, self.tokens)
            number = turn * step + threads.number
            body = _guarded(number, rounds, _numbered(nest, body, number))
            body = tirx.For(turn, T.int32(0), T.floordiv(rounds + step - 1, step), SERIAL, body)
            body = _guarded(threads.number, step, body)
        self.add(threads.bind(body), places, (combine("ceildiv", running, group),), (group,))

    def arrays(self, body: Any, threads: Size, thread: Any) -> Any:
        """`body` with its arrays in a thread's own memory where they fit, else in the workspace."""
        places = {}
        for array in allocations(body):
            fits = self.fits(array.buffer)
            places[array.buffer] = (tirx.AllocBuffer(own(array.buffer)) if fits else
                                    self.workspace.place(array.buffer, threads, thread))
        return rehoused(body, places)

    def fits(self, buffer: Any) -> bool:
        size = bytes_of(buffer)
        return isinstance(size, int) and size <= self.threads.private_bytes

    def add(self, body: Any, places: Sequence[Any], grid: tuple[Size, ...],
            group: tuple[int, ...]) -> None:
        used = set(variables(body))
        body = sequence([*(p for p in places if p.buffer in used), body])
        used = set(variables(body))
        params = {v: i for i, v in enumerate(self.pointers) if v in used}
        named = {self.workspace.pointer: WORKSPACE, self.tokens: TOKENS}
        params |= {v: word for v, word in named.items() if v in used}
        func = flattened(PrimFunc(list(params), body))
        shared = sum(int(bytes_of(a.buffer)) for a in allocations(body)
                     if str(a.buffer.scope()).startswith("shared"))
        self.phases.append(Phase(f"{self.name}_{len(self.phases)}", func, grid, group,
                                 tuple(params.values()), shared))


class _Threads:
    """Groups of threads in one dimension."""

    def __init__(self, groups: Size, threads: int, tokens: Any) -> None:
        self.axes = [(tirx.Var(f"{kind}Idx.x", "int32"), f"{kind}Idx.x", expression(n, tokens))
                     for kind, n in (("block", groups), ("thread", threads))]
        block, self.thread = (var for var, *_ in self.axes)
        self.number = block * threads + self.thread if threads > 1 else block

    def bind(self, body: Any) -> Any:
        for var, tag, extent in reversed(self.axes):
            axis = tirx.IterVar((0, extent), var, tirx.IterVar.ThreadIndex, tag)
            body = tirx.AttrStmt(axis, EXTENT, extent, body)
        return body


def _split(body: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """(declarations of parameters' memory, arrays, phases) of a flat body.

    A value that is bound between statements ties all that follows into one phase.
    """
    declared: list[Any] = []
    arrays: list[Any] = []
    parts: list[Any] = []
    serial: list[Any] = []
    bound = False
    for stmt in _statements(body):
        kind = type(stmt).__name__
        bound = bound or kind == "Bind"
        if kind == "DeclBuffer" and not bound:
            declared.append(stmt)
        elif kind == "AllocBuffer" and not bound:
            arrays.append(stmt)
        elif (_is_loop(stmt) or _is_bound(stmt)) and not bound:
            parts += [*_together(serial), stmt]
            serial = []
        else:
            serial.append(stmt)
    return declared, arrays, parts + _together(serial)


def _statements(body: Any) -> list[Any]:
    if type(body).__name__ == "SeqStmt":
        return [part for stmt in body.seq for part in _statements(stmt)]
    if type(body).__name__ == "AttrStmt" and not _is_bound(body):
        return _statements(body.body)
    return [body]


def _is_loop(stmt: Any) -> bool:
    return type(stmt).__name__ == "For" and int(stmt.kind) == int(PARALLEL)


def _is_bound(stmt: Any) -> bool:
    return type(stmt).__name__ == "AttrStmt" and str(stmt.attr_key) == EXTENT


def _nest(stmt: Any) -> tuple[list[Any], Any]:
    """Parallel loops directly in each other, with a vector loop at the end; what they repeat."""
    loops: list[Any] = []
    while _is_loop(stmt):
        loops.append(stmt)
        stmt = stmt.body
    if type(stmt).__name__ == "For" and int(stmt.kind) == int(VECTORIZED):
        loops.append(stmt)
        stmt = stmt.body
    return loops, stmt


def _numbered(nest: Sequence[Any], body: Any, number: Any) -> Any:
    """`body` for one round: the loops' variables, from the number of the round."""
    binds, rest = [], number
    for loop in reversed(nest[1:]):
        binds.append(tirx.Bind(loop.loop_var, T.floormod(rest, loop.extent) + loop.min))
        rest = T.floordiv(rest, loop.extent)
    return sequence([tirx.Bind(nest[0].loop_var, rest + nest[0].min), *binds[::-1], body])


def _guarded(number: Any, count: Any, body: Any, most: Any = None) -> Any:
    """`body` where number < count; `most` numbers there are at all."""
    same = most is not None and most == count
    return body if same else tirx.IfThenElse(number < count, body, None)


def _rounds(nest: Sequence[Any]) -> Size:
    count: Size = 1
    for loop in nest:
        count = combine("mul", count, size_of(loop.extent))
    return count


def barrier() -> Any:
    """All threads of a group meet, and see what they wrote."""
    return tirx.Evaluate(T.tvm_storage_sync("shared"))


def steps(stmt: Any) -> float:
    """How often innermost statements run, about; infinite where it depends on S or on data."""
    kind = type(stmt).__name__
    if kind == "For":
        extent = stmt.extent
        return steps(stmt.body) * (int(extent.value) if type(extent).__name__ == "IntImm"
                                   else math.inf)
    if kind == "SeqStmt":
        return sum(steps(part) for part in stmt.seq)
    if kind == "IfThenElse":
        return steps(stmt.then_case) + (steps(stmt.else_case) if stmt.else_case is not None else 0)
    if kind == "AttrStmt":
        return steps(stmt.body)
    return 1


def _launch(stmt: Any) -> tuple[tuple[Size, ...], tuple[int, ...]]:
    """Grid and group of a part that is bound to threads already."""
    sizes: dict[str, list[Size]] = {"block": [1, 1, 1], "thread": [1, 1, 1]}
    while _is_bound(stmt):
        kind, axis = AXES[str(stmt.node.thread_tag)]
        sizes[kind][axis] = size_of(stmt.value)
        stmt = stmt.body
    return _trimmed(sizes["block"]), _trimmed(sizes["thread"])


def _trimmed(sizes: list[Any]) -> tuple[Any, ...]:
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return tuple(sizes)


def _together(serial: Sequence[Any]) -> list[Any]:
    """Statements as one part, or none."""
    return [sequence(serial)] if serial else []
