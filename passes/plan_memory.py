"""Where every value lives: an arena with lifetimes, states in place, constants as weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from firstlight.ir.core import Function, Module, Op, Value
from firstlight.ir.registry import lookup
from firstlight.ir.types import StateType, TensorType
from firstlight.passes.in_place import InPlace, end, taken_places
from firstlight.runtime.errors import FirstlightError

ALIGNMENT = 64


@dataclass(frozen=True)
class Place:
    """Where a value is: `arena` at a byte offset, or a `weight`, `constant`, `state` by name."""

    kind: str
    name: str = ""
    offset: int = 0

    def __str__(self) -> str:
        return f"arena+{self.offset}" if self.kind == "arena" else f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Step:
    """One op of the flat program. Results that are states have the place of their operand."""

    op: Op
    operands: tuple[Place, ...]
    results: tuple[Place, ...]
    path: str


@dataclass(frozen=True)
class Return:
    """The end of a call: where the results of `function` are after the first `after` steps."""

    after: int
    function: Function
    results: tuple[Place, ...]
    path: str


@dataclass(frozen=True)
class Plan:
    """The flat program of one entry."""

    steps: tuple[Step, ...]
    arena_bytes: int
    constants: Mapping[str, NDArray[Any]]
    returns: tuple[Return, ...] = ()

    def __str__(self) -> str:
        lines = [f"arena {self.arena_bytes} bytes, {len(self.steps)} steps"]
        for step in self.steps:
            ins, outs = (", ".join(map(str, p)) for p in (step.operands, step.results))
            lines.append(f"{step.op.name}({ins}) -> {outs}    {step.path}")
        return "\n".join(lines)


@dataclass
class _Frame:
    """Byte offsets of a function's own buffers, relative to its base."""

    offsets: dict[Value, int]
    size: int


@dataclass
class PlanMemory:
    """Flatten calls to a list of steps and give every value a place.

    before   %0 = "fl.rms_norm"(%arg0, %arg1) ... ; %1 = "fl.call"(%0) {callee = @"ffn"}
    after    rms_norm(arena+64, weight layers.0.attn_norm.weight) -> arena+4160
             linears(arena+4160, ...) -> arena+8256, ...

    A function's buffers are planned once, whatever the number of calls: values whose lifetimes
    overlap interfere, and buffers are placed largest first at the lowest free offset. A callee's
    frame lies above its caller's. Reshapes are views. A state result is its operand, so nothing may
    read the old state after it was written; that is checked. A result may likewise lie over an
    operand which nobody reads any more: memory that is written need not be fetched first then.

    sizes: the largest value of each symbol that is left (S: the chunk).
    in_place: op -> the operand that its first result may replace.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    in_place: InPlace = lambda op: None

    def plan(self, module: Module, entry: str, inputs: Mapping[str, int],
             output: int | Sequence[int], base: int) -> Plan:
        """The program of `entry`.

        Args:
            inputs: arena offset of each input argument by its name.
            output: arena offset of the first result (the others are states), or of all results.
            base: first free byte of the arena.
        """
        self._module, self._frames = module, dict[str, _Frame]()
        self._roots = shared_roots(module, entry, self.in_place)
        self._steps: list[Step] = []
        self._returns: list[Return] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._top = base
        function = module[entry]
        places = {}
        for arg in function.args:
            if arg.loc in inputs:
                places[arg] = Place("arena", offset=inputs[arg.loc])
            elif isinstance(arg.type, StateType):
                places[arg] = Place("state", arg.loc)
            else:
                places[arg] = Place("weight", arg.loc)
        offsets = (output,) if isinstance(output, int) else output
        results = {i: Place("arena", offset=o) for i, o in enumerate(offsets)}
        self._walk(function, places, results, base, "")
        return Plan(tuple(self._steps), _align(self._top), self._constants, tuple(self._returns))

    # -- flattening -----------------------------------------------------------------------------

    def _walk(self, function: Function, places: dict[Value, Place],
              results: Mapping[int, Place], base: int, path: str) -> list[Place]:
        """Append the steps of a call; `results` are the places its non-state results must have."""
        frame, roots = self._frame(function), self._roots[function.name]
        for index, value in enumerate(function.results):
            if index in results and roots[value] not in places:
                places[roots[value]] = results[index]
        self._top = max(self._top, base + frame.size)

        def place(value: Value) -> Place:
            root = roots[value]
            if root not in places:
                places[root] = Place("arena", offset=base + frame.offsets[root])
            return places[root]

        for op in function.ops:
            if op.name == "constant":
                places[op.result] = self._constant(op)
                continue
            if all(roots[v] is not v for v in op.results) and is_view(op):
                continue
            operands = tuple(place(v) for v in op.operands)
            outs = tuple(place(v) for v in op.results)
            if op.name == "call":
                callee = self._module[str(op.attrs["callee"])]
                self._walk(callee, dict(zip(callee.args, operands, strict=True)),
                           {i: p for i, p in enumerate(outs) if p.kind == "arena"},
                           base + frame.size, op.loc)
                self._returns.append(Return(len(self._steps), callee, outs, op.loc))
            else:
                self._steps.append(Step(op, operands, outs, ".".join(filter(None, (path, op.loc)))))
        return [place(v) for v in function.results]

    def _constant(self, op: Op) -> Place:
        reference = lookup("constant").reference
        assert reference is not None
        array = np.ascontiguousarray(reference(**op.attrs))
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:12]
        name = f"constant.{array.dtype}.{'x'.join(map(str, array.shape))}.{digest}"
        self._constants[name] = array
        return Place("constant", name)

    # -- frames ---------------------------------------------------------------------------------

    def _frame(self, function: Function) -> _Frame:
        if function.name not in self._frames:
            self._frames[function.name] = self._plan_frame(function)
        return self._frames[function.name]

    def _plan_frame(self, function: Function) -> _Frame:
        roots = self._roots[function.name]
        check_in_place(function, roots)
        outside = set(function.args) | {roots[v] for v in function.results}
        lives: dict[Value, tuple[int, int]] = {}
        for i, op in enumerate(function.ops):
            for value in (*op.results, *op.operands):
                root = roots[value]
                if root in outside or op.name == "constant":
                    continue
                lives[root] = (lives.get(root, (i, i))[0], i)
        constants = {v for op in function.ops if op.name == "constant" for v in op.results}
        lives = {v: life for v, life in lives.items() if v not in constants}
        sizes = {v: _align(self._bytes(v)) for v in lives}
        return _Frame(*assign_offsets(lives, sizes))

    def _bytes(self, value: Value) -> int:
        assert isinstance(value.type, TensorType)
        return value.type.nbytes(self.sizes)


def is_view(op: Op) -> bool:
    """Whether the result is the operand's bytes under another shape."""
    type_ = op.operands[0].type if op.operands else None
    return (op.name == "reshape" and isinstance(type_, TensorType)
            and type_.codec in ("", "f32", "i32"))


def alias_roots(function: Function, module: Module) -> dict[Value, Value]:
    """For each value the value whose bytes it shares (itself, if none)."""
    roots: dict[Value, Value] = {arg: arg for arg in function.args}
    for op in function.ops:
        for index, value in enumerate(op.results):
            if is_view(op):
                roots[value] = roots[op.operands[0]]
            elif isinstance(value.type, StateType):
                roots[value] = roots[op.operands[written_operand(op, index, module)]]
            else:
                roots[value] = value
    return roots


def shared_roots(module: Module, entry: str, in_place: InPlace) -> dict[str, dict[Value, Value]]:
    """`alias_roots` of each function, with results that take the place of an operand."""
    roots = {function.name: alias_roots(function, module) for function in module}
    taken = taken_places(module, entry, roots, in_place)
    return {name: {value: end(root, taken[name]) for value, root in own.items()}
            for name, own in roots.items()}


def written_operand(op: Op, result: int, module: Module) -> int:
    """Which operand a state result replaces."""
    if op.name == "call":
        callee = module[str(op.attrs["callee"])]
        root = alias_roots(callee, module)[callee.results[result]]
        return callee.args.index(root)
    info = lookup(op.name)
    return info.bind(len(op.operands)).index(info.outs[result])


def check_in_place(function: Function, roots: Mapping[Value, Value]) -> None:
    """No op reads a state that an earlier op has replaced."""
    current: dict[Value, Value] = {}
    for op in function.ops:
        for value in op.operands:
            if isinstance(value.type, StateType) and current.get(roots[value], value) is not value:
                raise FirstlightError(
                    "F304", f"fl.{op.name} reads a state after it was replaced", where=op.loc,
                    why="states are updated in place, so the old value is gone",
                    try_="read the state before the op that writes it",
                )
        for value in op.results:
            if isinstance(value.type, StateType):
                current[roots[value]] = value


def assign_offsets(lives: Mapping[Value, tuple[int, int]],
                   sizes: Mapping[Value, int]) -> tuple[dict[Value, int], int]:
    """Offsets such that values alive at the same time do not overlap; and the total size."""
    graph: nx.Graph[Value] = nx.Graph()
    graph.add_nodes_from(lives)
    ordered = sorted(lives, key=lambda v: lives[v])
    for i, a in enumerate(ordered):
        for b in ordered[i + 1:]:
            if lives[b][0] > lives[a][1]:
                break
            graph.add_edge(a, b)
    offsets: dict[Value, int] = {}
    for value in sorted(ordered, key=lambda v: -sizes[v]):
        taken = sorted((offsets[n], offsets[n] + sizes[n]) for n in graph[value] if n in offsets)
        offsets[value] = _lowest_gap(taken, sizes[value])
    return offsets, max((offsets[v] + sizes[v] for v in offsets), default=0)


def _lowest_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    at = 0
    for start, stop in taken:
        if start - at >= size:
            break
        at = max(at, stop)
    return at


def _align(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
