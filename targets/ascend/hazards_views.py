"""Pieces of memories, and single elements of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from firstlight.targets.ascend.hazards_events import Either, Memory
from firstlight.targets.ascend.hazards_scalar import Value, integer
from firstlight.targets.ascend.rewrite_ops import MemRef, Op, Refused, memref, split

if TYPE_CHECKING:
    from firstlight.targets.ascend.hazards_walk import Walk


@dataclass
class Cells:
    """Memory of the scalar unit: known values by index."""

    values: dict[tuple[int | None, ...], Value] = field(default_factory=dict)


def _alloca(walk: Walk, op: Op) -> None:
    walk.values[op.results[0]] = Cells()


def _load(walk: Walk, op: Op) -> None:
    memory, place = _cell(walk, op.text)
    result = None
    if isinstance(memory, Cells):
        result = memory.values.get(place)
    else:
        walk.access("S", op, [_element(walk, memory, place)], [])
    walk.values[op.results[0]] = result


def _store(walk: Walk, op: Op) -> None:
    value, _, target = op.text.partition(", ")
    memory, place = _cell(walk, target)
    if isinstance(memory, Cells):
        if None in place:
            memory.values.clear()
        else:
            memory.values[place] = walk.value(value)
    else:
        walk.access("S", op, [], [_element(walk, memory, place)])


def _cell(walk: Walk, text: str) -> tuple[Value, tuple[int | None, ...]]:
    match = re.match(r"(%[\w.$#-]+)\[([^\]]*)\]", text)
    if match is None:
        raise Refused("an element", text)
    return walk.value(match[1]), tuple(integer(walk, i) for i in split(match[2]))


def _element(walk: Walk, memory: Value, place: Sequence[int | None]) -> Value:
    if not isinstance(memory, Memory):
        return memory
    offset = _moved(memory, place)
    return replace(memory, offset=offset, shape=(1,), strides=(1,))


def _moved(memory: Memory, place: Sequence[int | None]) -> int | None:
    if memory.offset is None or None in place:
        return None
    steps = [i * s for i, s in zip(place, memory.strides, strict=True)
             if i and s is not None]
    if any(i and s is None for i, s in zip(place, memory.strides, strict=True)):
        return None
    return memory.offset + memory.width * sum(steps)


def _lists(walk: Walk, text: str) -> list[list[int | None]]:
    """The bracketed lists of a subview or reinterpret_cast."""
    return [[integer(walk, i) for i in split(found)]
            for found in re.findall(r"\[([^\]]*)\]", text.partition(" : ")[0])]


def _source(walk: Walk, op: Op) -> Memory:
    match = re.match(r"%[\w.$#-]+", op.text)
    source = walk.value(match[0]) if match else None
    if not isinstance(source, Memory):
        raise Refused("a part of a memory that is not known", op.line)
    return source


def _subview(walk: Walk, op: Op) -> None:
    source = _source(walk, op)
    offsets, sizes, steps = _lists(walk, op.text)
    kind = memref(op.text.rpartition(" to ")[2])
    # An unknown side is at most as long as what is left of the source's.
    shape = [size if size is not None else whole
             for size, whole in zip(sizes, source.shape, strict=True)]
    strides = [None if a is None or b is None else a * b
               for a, b in zip(source.strides, steps, strict=True)]
    kept = _kept(shape, kind)
    unknown = [i for i, at in enumerate(offsets) if at is None]
    offset = _moved(source, [0 if i in unknown else at for i, at in enumerate(offsets)])
    for i in unknown:               # anywhere along this side
        shape[i], strides[i] = source.shape[i], source.strides[i]
        kept = sorted({*kept, i})
    walk.values[op.results[0]] = Memory(source.space, offset, tuple(shape[i] for i in kept),
                                        tuple(strides[i] for i in kept), source.width)


def _kept(shape: Sequence[int | None], kind: MemRef) -> list[int]:
    """Sides that a rank-reducing subview keeps: it drops sides of 1."""
    kept, surplus = [], len(shape) - kind.rank
    for i, side in enumerate(shape):
        want = kind.shape[len(kept)] if len(kept) < kind.rank else None
        if surplus and side == 1 and (want != 1 or len(kept) == kind.rank):
            surplus -= 1
        else:
            kept.append(i)
    return kept


def _reinterpret(walk: Walk, op: Op) -> None:
    source = _source(walk, op)
    (offset,), sizes, strides = _lists(walk, op.text)
    base = source.offset if source.space in ("ub", "l1", "l0c") else 0
    where = None if offset is None or base is None else base + offset * source.width
    bounds = memref(op.text.rpartition(" to ")[2]).shape
    shape = [size if size is not None else bound
             for size, bound in zip(sizes, bounds, strict=True)]
    walk.values[op.results[0]] = Memory(source.space, where, tuple(shape), tuple(strides),
                                        source.width)


def _collapse(walk: Walk, op: Op) -> None:
    source = _source(walk, op)
    shape: list[int | None] = []
    strides: list[int | None] = []
    for group in _groups(op):
        sides = [source.shape[i] for i in group]
        shape.append(None if None in sides else math.prod(sides))
        # sides of 1 may have any stride
        real = [i for i in group if source.shape[i] != 1] or group
        strides.append(source.strides[real[-1]])
    walk.values[op.results[0]] = replace(source, shape=tuple(shape), strides=tuple(strides))


def _groups(op: Op) -> list[list[int]]:
    match = re.search(r"\[((?:\[[\d, ]*\](?:, )?)*)\]", op.text)
    if match is None:
        raise Refused(f"a form of {op.name}", op.line)
    return [[int(i) for i in split(g)] for g in re.findall(r"\[([^\]]*)\]", match[1])]


def _expand(walk: Walk, op: Op) -> None:
    source = _source(walk, op)
    match = re.search(r"output_shape \[([^\]]*)\]", op.text)
    if match is None:
        raise Refused(f"a form of {op.name}", op.line)
    shape = [integer(walk, i) for i in split(match[1])]
    strides: list[int | None] = [None] * len(shape)
    for side, group in enumerate(_groups(op)):
        step = source.strides[side]
        for i in reversed(group):
            strides[i] = step
            step = None if step is None or shape[i] is None else step * shape[i]
    walk.values[op.results[0]] = replace(source, shape=tuple(shape), strides=tuple(strides))


def _same(walk: Walk, op: Op) -> None:
    walk.values[op.results[0]] = walk.value(op.text.split(" ")[0])


def _dim(walk: Walk, op: Op) -> None:
    walk.values[op.results[0]] = None


def _global(walk: Walk, op: Op) -> None:
    name, _, kind = op.text.partition(" : ")
    shape = memref(kind).shape
    walk.values[op.results[0]] = Memory(f"table {name}", 0, shape, (None,) * len(shape), 8)


Handler = Callable[["Walk", Op], None]


def _each(view: Handler) -> Handler:
    """The same of each piece that the source may be."""
    def run(walk: Walk, op: Op) -> None:
        name = re.split(r"[\[ ]", op.text)[0]
        source = walk.value(name)
        if not isinstance(source, Either):
            view(walk, op)
            return
        found = []
        for memory in source.memories:
            walk.values[name] = memory
            view(walk, op)
            found.append(walk.values[op.results[0]])
        walk.values[name] = source
        walk.values[op.results[0]] = Either(tuple(found))
    return run


VIEWS: dict[str, Handler] = {
    "memref.alloca": _alloca, "memref.load": _load, "memref.store": _store,
    "memref.subview": _each(_subview), "memref.reinterpret_cast": _each(_reinterpret),
    "memref.collapse_shape": _each(_collapse), "memref.expand_shape": _each(_expand),
    "memref.cast": _same, "memref.dim": _dim, "memref.get_global": _global,
}
