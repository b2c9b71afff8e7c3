"""Steps as fewer: what follows a product element by element is done where the product is.

The cube core leaves a tile of sums, and vector cores of the same block go on with it: a gate, its
unit and the other factor are one kernel, and nothing of them is in global memory in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from firstlight.codegen.nests.effects import reads, writes
from firstlight.codegen.nests.linear import linear
from firstlight.codegen.nests.nodes import Node, rebuild, var, walk
from firstlight.codegen.nests.program import Nest, Program, Step

MOST = 2
"""Totals of a step: each is a tile of the accumulator and one in the vector cores' memories."""


@dataclass(frozen=True)
class Joined(Nest):
    """A step that does what the steps `apart` do."""

    apart: tuple[Nest, ...] = ()


def fused(plain: Program) -> Program:
    """The program with products and what follows them as one step each."""
    steps = list(plain.steps)
    at = 0
    while at < len(steps):
        pair = _pair(steps, at)
        if pair is None:
            at += 1
            continue
        producer, steps[at] = pair
        del steps[producer]
        at -= 1
    return plain if len(steps) == len(plain.steps) else replace(plain, steps=steps)


def _pair(steps: Sequence[Step], at: int) -> tuple[int, Nest] | None:
    """(place of a step that can go into the one at `at`, both as one)."""
    step = steps[at]
    if not isinstance(step, Nest):
        return None
    for name in dict.fromkeys(n.args[0] for n in walk(step.value) if n.op == "load"):
        writers = [i for i, s in enumerate(steps) if name in writes(s)]
        readers = [i for i, s in enumerate(steps) if name in reads(s)]
        if len(writers) != 1 or readers != [at] or writers[0] >= at:
            continue
        before = steps[writers[0]]
        between = {w for s in steps[writers[0] + 1 : at + 1] for w in writes(s)}
        if isinstance(before, Nest) and not between & set(reads(before)):
            one = _joined(before, step)
            if one is not None:
                return writers[0], one
    return None


def _joined(before: Nest, step: Nest) -> Nest | None:
    """Two nests as one, if each element of the second needs only that of the first."""
    if before.buffer.pointer is not None or before.condition is not None or not before.join:
        return None
    if [a.extent for a in before.axes] != [a.extent for a in step.axes]:
        return None
    steps = (*_apart(before), *_apart(step))
    before = before.renamed({a.name: var(b.name) for a, b in
                             zip(before.axes, step.axes, strict=True)})
    where, first = linear(before.index, step.extents), step.totals
    loads = {n for n in walk(step.value) if n.op == "load" and n.args[0] == before.buffer.name}
    if any(linear(n.args[1], step.extents) != where or n.dtype != before.value.dtype
           for n in loads):
        return None
    value = rebuild(before.value, lambda n: _moved(n, first) if n.op == "acc" else None)
    old = {f.name: getattr(step, f.name) for f in fields(Nest)}
    one = Joined(**old | {
        "join": "sum", "value": rebuild(step.value, lambda n: value if n in loads else None),
        "parts": (*step.parts, *(replace(p, total=p.total + first) for p in before.parts)),
        "apart": steps})
    others = {before.buffer.name} & set(reads(one))
    return one if one.totals <= MOST and _product(one) and not others else None


def _product(nest: Nest) -> bool:
    """Whether its sums are of products; whether they are the cube core's, is the schedule's."""
    return all(p.term.op == "mul" and p.term.dtype == "float32" for p in nest.parts)


def _apart(nest: Nest) -> tuple[Nest, ...]:
    return nest.apart if isinstance(nest, Joined) else (nest,)


def _moved(acc: Node, by: int) -> Node:
    return Node("acc", acc.dtype, by + (acc.args[0] if acc.args else 0))
