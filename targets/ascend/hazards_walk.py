"""One core's way through its entry: loops, branches and calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from firstlight.targets.ascend.hazards_chip import CHIP, GRID
from firstlight.targets.ascend.hazards_events import Bits, Event, Memory, Part
from firstlight.targets.ascend.hazards_scalar import SCALAR, Value, alternatives
from firstlight.targets.ascend.hazards_views import VIEWS
from firstlight.targets.ascend.rewrite import Function
from firstlight.targets.ascend.rewrite_calls import BITS
from firstlight.targets.ascend.rewrite_ops import Op, Refused, memref, split

if TYPE_CHECKING:
    from firstlight.targets.ascend.hazards_trace import Lowered

ITERATIONS = 3
"""Of a loop, at most, or one more than there are buffers in rotation: the last meets the first."""
TOKENS = 5
"""What a kernel's scalars are taken to be."""


class Walk:
    """One core's way through its entry."""

    def __init__(self, lowered: Lowered, core: str, half: int, choices: Mapping[int, bool],
                 without: frozenset[Part]) -> None:
        self.lowered, self.core, self.half = lowered, core, half
        self.choices, self.without = choices, without
        self.values: dict[str, Value] = {}
        self.events: list[Event] = []

    def enter(self, head: Function, op: Op) -> None:
        """Walk an entry."""
        scalars = [name for name, type_ in head.arguments if not type_.startswith("memref")]
        for i, (name, type_) in enumerate(head.arguments):
            if type_.startswith("memref"):
                width = BITS[memref(type_).element]
                self.values[name] = Memory(f"gm{i}", 0, (None,), (1,), width)
            else:
                place = scalars.index(name) - len(scalars) + 3
                self.values[name] = GRID[place] if place >= 0 else TOKENS
        self.block(op.regions[0])

    def block(self, ops: Sequence[Op]) -> list[Value]:
        """Walk a region; what it yields."""
        for op in ops:
            if op.name in ("scf.yield", "func.return", "scf.condition"):
                names = op.text.partition(" : ")[0]
                return [self.value(name) for name in split(names)]
            self.op(op)
        return []

    def value(self, name: str) -> Value:
        """A value; unknown unless one was computed."""
        return self.values.get(name)

    def op(self, op: Op) -> None:
        """Walk one op."""
        if id(op) in self.without:
            return
        if op.name.startswith("hivm.hir."):
            handler = CHIP.get(op.name.removeprefix("hivm.hir."))
            if handler is None:
                raise Refused(f"an op {op.name}", op.line)
            handler(self, op)
        elif op.name in STRUCTURE:
            STRUCTURE[op.name](self, op)
        elif op.name.startswith(("arith.", "affine.", "math.", "vector.")):
            found = SCALAR[op.name](self, op) if op.name in SCALAR else None
            _bind(self, op, [found])
        elif op.name != "annotation.mark":
            raise Refused(f"an op {op.name}", op.line)

    def access(self, pipe: str, op: Op, reads: Sequence[Value], writes: Sequence[Value],
               slot: str = "") -> None:
        """Note that a pipe reads and writes memories."""
        self.events.append(Event("access", pipe, op, slot,
                                 reads=tuple(b for m in reads for b in self.bits(m, op)),
                                 writes=tuple(b for m in writes for b in self.bits(m, op))))

    def bits(self, value: Value, op: Op) -> Iterator[Bits]:
        """Bits of an operand, each vector core's UB under its own name."""
        some = alternatives(value)
        if not some:
            raise Refused(f"an operand of {op.name} whose memory is not known", op.line)
        for memory in some:
            found = memory.bits()
            yield replace(found, space=f"ub{self.half}") if found.space == "ub" else found


def _for(walk: Walk, op: Op) -> None:
    match = re.match(r"(%[\w.$-]+) = (%[\w.$-]+) to (%[\w.$-]+) step (%[\w.$-]+)"
                     r"(?: iter_args\(([^)]*)\))?", op.text)
    if match is None:
        raise Refused("a loop", op.line)
    name, first, last, step = match[1], *(walk.value(match[i]) for i in (2, 3, 4))
    carried = [pair.split(" = ") for pair in split(match[5] or "")]
    values = [walk.value(start) for _, start in carried]
    most = max(ITERATIONS, walk.lowered.rotation + 1)
    if None in (first, last, step) and (unrolled := op.attributes.get("multibuffer_unroll_factor")):
        most = int(unrolled.split(" ")[0])      # buffers of a round: it does at most so many
    count = most if None in (first, last, step) else min(most, max(0, -(-(last - first) // step)))
    for i in range(count):
        walk.values[name] = None if None in (first, step) else first + i * step
        for (inner, _), value in zip(carried, values, strict=True):
            walk.values[inner] = value
        values = walk.block(op.regions[0])
    _bind(walk, op, values)


def _bind(walk: Walk, op: Op, values: Sequence[Value]) -> None:
    for i, name in enumerate(_names(op)):
        walk.values[name] = values[i] if i < len(values) else None


def _names(op: Op) -> list[str]:
    """Results as they are used: ``%3:2`` is ``%3#0`` and ``%3#1``."""
    names = []
    for result in op.results:
        name, _, count = result.partition(":")
        names += [f"{name}#{i}" for i in range(int(count))] if count else [name]
    return names


def _if(walk: Walk, op: Op) -> None:
    condition = walk.value(op.text.split(" ")[0])
    if condition is None:
        condition = walk.choices[id(op)]
    region = 0 if condition else 1
    values = walk.block(op.regions[region]) if region < len(op.regions) else []
    _bind(walk, op, values)


def _call(walk: Walk, op: Op) -> None:
    match = re.match(r"@([\w.$-]+)\(([^)]*)\)", op.text)
    if match is None or match[1] not in walk.lowered.functions:
        raise Refused("a call", op.line)
    arguments = [walk.value(name) for name in split(match[2])]
    for i, place in walk.lowered.slots(match[1]).items():
        arguments[i] = _slot(arguments[i], arguments[place])
    reads, writes = walk.lowered.uses(match[1])
    walk.access("V", op, [arguments[i] for i in sorted(reads)],
                [arguments[i] for i in sorted(writes)])
    _bind(walk, op, [])


def _slot(memory: Value, place: Value) -> Value:
    """One of the buffers that a memory has side by side."""
    if not isinstance(memory, Memory) or not isinstance(place, int):
        return memory
    if memory.offset is None or memory.strides[0] is None:
        return memory
    return replace(memory, offset=memory.offset + place * memory.strides[0] * memory.width,
                   shape=memory.shape[1:], strides=memory.strides[1:])


STRUCTURE: dict[str, Callable[[Walk, Op], None]] = {
    "scf.for": _for, "scf.if": _if, "func.call": _call, **VIEWS,
}
