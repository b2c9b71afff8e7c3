"""Bytes that each launch of a kernel must move: what its nest reads and writes, each byte once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.attention import Attention
from firstlight.codegen.nests.nodes import FOLDED, Node, walk
from firstlight.codegen.nests.program import (
    WIDTHS,
    Axis,
    Memory,
    Nest,
    Program,
    Repeat,
    Selection,
    Step,
    program,
)


def kernel_traffic(kernel: Kernel, tokens: int = 1) -> list[float]:
    """Of each step of a kernel (a launch), bytes of memory that are read and written.

    An access is bounded by its memory and by the steps of the axes that its place depends on, so
    that a row chosen by an index counts as one row. Raises F405 for TIR that has no nests.
    """
    made = program(kernel)
    return [step_traffic(step, made, tokens) for step in made.steps]


def step_traffic(step: Step | Attention, made: Program, tokens: int = 1) -> float:
    """The same of one step of a program; of attention, for one token."""
    return step.moved if isinstance(step, Attention) else _bytes(step, made, {"S": tokens})


def _bytes(step: Step, made: Program, sizes: Mapping[str, int]) -> float:
    if isinstance(step, Repeat):
        return step.count * sum(_bytes(s, made, sizes) for s in step.steps)
    touched: dict[str, float] = {}
    for memory, place, axes, times in _accesses(step, made):
        steps = {a.name: _number(a.extent, sizes) for a in axes}
        count = min(times * _places(place, steps), _number(memory.elements, sizes))
        count *= WIDTHS[memory.dtype]
        touched[memory.name] = max(touched.get(memory.name, 0.0), count)
    return sum(touched.values())


def _places(place: Node, steps: Mapping[str, float]) -> float:
    """How many places there are, e.g. one of 32 for `k // 32`; at most one for each step."""
    most = math.prod(steps.get(name, 1.0) for name in place.vars)
    if place.op in ("add", "sub", "mul"):
        a, b = place.args
        return _places(a, steps) * _places(b, steps) if _apart(a, b) else most
    if place.op in ("floordiv", "mod") and place.args[1].number:
        count, by = _places(place.args[0], steps), place.args[1].number
        return max(1.0, count / by) if place.op == "floordiv" else min(count, float(by))
    return most


def _apart(a: Node, b: Node) -> bool:
    """Whether two terms step on their own: by other axes, or by `k // c` and `k % c` of one."""
    shared = a.vars & b.vars
    ours, theirs = ({p for p in _pieces(n) if p[0] in shared} for n in (a, b))
    sizes = {(name, by) for name, _, by in ours | theirs}
    return not ours & theirs and len(sizes) == len(shared) and all(by > 1 for _, by in sizes)


def _pieces(node: Node) -> set[tuple[str, str, int]]:
    """(axis, "floordiv" or "mod", by what) of a place; an axis as it is counts as by 1."""
    if node.op == "var":
        return {(node.args[0], "", 1)}
    if node.op in ("floordiv", "mod") and node.args[0].op == "var" and node.args[1].number:
        return {(node.args[0].args[0], node.op, node.args[1].number)}
    return set[tuple[str, str, int]]().union(*map(_pieces, node.parts()))


def _accesses(step: Nest | Selection, made: Program
              ) -> Iterator[tuple[Memory, Node, tuple[Axis, ...], int]]:
    """(memory, place, axes that are stepped through, elements at each place)."""
    if isinstance(step, Selection):
        yield step.buffer, step.index, step.axes, step.k
        read = [(step.value, (*step.axes, step.candidate))]
    else:
        yield step.buffer, step.index, step.axes, 1
        read = [(step.value, step.axes), *((p.term, (*step.axes, *p.axes)) for p in step.parts)]
        if step.condition is not None:
            read.append((step.condition, step.axes))
    for value, axes in read:
        for node in _loads([value]):
            yield made.memories[node.args[0]], node.args[1], axes, 1


def _loads(values: Iterable[Node]) -> Iterator[Node]:
    return (node for value in values for node in walk(value) if node.op == "load")


def _number(node: Node, sizes: Mapping[str, int]) -> float:
    """A size; what depends on data counts as nothing less than one."""
    if node.op == "const":
        return float(node.args[0])
    if node.op == "var" and node.args[0] in sizes:
        return float(sizes[node.args[0]])
    if node.op in FOLDED and len(node.args) == 2:
        a, b = (int(_number(x, sizes)) for x in node.args)
        return float(FOLDED[node.op](a, b))
    return 1.0
