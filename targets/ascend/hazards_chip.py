"""Ops of the chip's dialect: which pipe they go to, what they touch, set and await."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from firstlight.targets.ascend.hazards_events import PIPES, Bits, Event, Memory
from firstlight.targets.ascend.hazards_scalar import Value, integer
from firstlight.targets.ascend.rewrite_calls import BITS, SIZES
from firstlight.targets.ascend.rewrite_ops import Hivm, Op, Refused, hivm, memref, split

if TYPE_CHECKING:
    from firstlight.targets.ascend.hazards_walk import Walk

GRID, BLOCK = (3, 2, 2), 1
"""The launch that is looked at: sizes of the grid and the number of the block."""


def _pointer(walk: Walk, op: Op) -> None:
    match = re.fullmatch(r"\(([^)]*)\)\s*(?:\[([^\]]*)\])? ?: (memref<.*>)", op.text)
    if match is None:
        raise Refused(f"a form of {op.name}", op.line)
    kind, sides = memref(match[3]), iter(split(match[2] or ""))
    shape = tuple(integer(walk, next(sides)) if side is None else side for side in kind.shape)
    strides: list[int | None] = [1]
    for side in reversed(shape[1:]):
        strides.insert(0, None if side is None or strides[0] is None else strides[0] * side)
    address = integer(walk, split(match[1])[0])
    if kind.space not in SIZES:
        raise Refused(f"a form of {op.name}", op.line)
    walk.values[op.results[0]] = Memory(
        kind.space, None if address is None else 8 * address, shape, tuple(strides[:len(shape)]),
        BITS[kind.element])


def _block_number(walk: Walk, op: Op) -> None:
    names = {"get_block_idx": BLOCK, "get_sub_block_idx": walk.half,
             "get_block_num": math.prod(GRID)}
    walk.values[op.results[0]] = names[op.name.removeprefix("hivm.hir.")]


def _clauses(op: Op) -> Hivm:
    key = (op.name, op.text)
    if key not in _CLAUSES:
        _CLAUSES[key] = hivm(op)
    return _CLAUSES[key]


_CLAUSES: dict[tuple[str, str], Hivm] = {}


def _group(walk: Walk, clauses: Hivm, name: str) -> list[Value]:
    return [walk.value(value) for value, _ in clauses.groups.get(name, ())]


MOVES = {("gm", "ub"): "MTE2", ("gm", "l1"): "MTE2", ("ub", "gm"): "MTE3", ("ub", "l1"): "MTE3",
         ("ub", "ub"): "V", ("l1", "ub"): "MTE1", ("l0c", "gm"): "FIX", ("l0c", "ub"): "FIX"}
"""Which pipe moves data from where to where."""


def _move(walk: Walk, op: Op) -> None:
    clauses = _clauses(op)
    (source,), (target,) = _group(walk, clauses, "ins"), _group(walk, clauses, "outs")
    kinds = [memref(clauses.groups[g][0][1]).space for g in ("ins", "outs")]
    pipe = MOVES.get((kinds[0], kinds[1]))
    if pipe is None:
        raise Refused(f"a move from {kinds[0]} to {kinds[1]}", op.line)
    walk.access(pipe, op, [source], [target])
    if clauses.options.get("dual_dst_mode", "<NO_DUAL>") != "<NO_DUAL>":
        last = walk.events[-1]
        walk.events[-1] = replace(last, writes=tuple(
            replace(last.writes[0], space=f"ub{i}") for i in range(2)))


def _vector(walk: Walk, op: Op) -> None:
    clauses = _clauses(op)
    walk.access("V", op, _group(walk, clauses, "ins") + _group(walk, clauses, "indices"),
                _group(walk, clauses, "outs") + _group(walk, clauses, "temp_buffer"))


L0 = tuple(Bits(f"half of L0, {i}", None) for i in range(2))
"""Where MTE1 brings factors, by the flag that guards it."""


def _mmad(walk: Walk, op: Op) -> None:
    """A product: MTE1 brings the factors to L0, M multiplies. Its flags are operands.

    The flags of L0's two halves are awaited and set in it, too: what has a product sets them before
    and awaits them last, also where all products are without operands (which is -1 for each). One
    with scales orders its own use of L0 then.
    """
    clauses = _clauses(op)
    scaled = op.name.endswith("mmadmxL1")
    count = 4 if scaled else 2
    factors, (total,) = _group(walk, clauses, "ins")[:count], _group(walk, clauses, "outs")
    flags = _group(walk, clauses, "sync_related_args") or ([] if scaled else [-1] * 7)
    if len(flags) not in (0, 7):
        raise Refused(f"flags of {op.name}", op.line)

    def flag(kind: str, first: str, second: str, slot: str, number: Value) -> None:
        if number != -1 and (id(op), slot) not in walk.without:
            pipe, other = (first, second) if kind == "set" else (second, first)
            walk.events.append(Event(kind, pipe, op, slot, other, number))

    for i, factor in enumerate(factors):
        if flags and i < 2:
            flag("wait", "M", "MTE1", f"free{i}", i)
            flag("wait", "MTE2", "MTE1", f"there{i}", flags[i])
        walk.access("MTE1", op, [factor], [], f"factor{i}")
        last = walk.events[-1]
        walk.events[-1] = replace(last, writes=(L0[i % 2],), after=() if flags else ("product",))
        if flags and i < 2:
            flag("set", "MTE1", "MTE2", f"read{i}", flags[2 + i])
    walk.access("M", op, [total], [total], "product")
    walk.events[-1] = replace(walk.events[-1], reads=(*walk.events[-1].reads, *L0),
                              after=tuple(f"factor{i}" for i in range(len(factors))))
    for i in range(2) if flags else ():
        flag("set", "M", "MTE1", f"used{i}", i)


def _flag_parts(walk: Walk, op: Op) -> tuple[str, str, int | None]:
    first, second, number = split(_clauses(op).options["cores"])
    match = re.fullmatch(r"<EVENT_ID(\d+)>", number)
    return _pipe(first, op), _pipe(second, op), int(match[1]) if match else walk.value(number)


def _pipe(text: str, op: Op) -> str:
    name = text.strip("<>").removeprefix("PIPE_")
    if name not in (*PIPES, "ALL"):
        raise Refused(f"a pipe {name}", op.line)
    return name


def _set(walk: Walk, op: Op) -> None:
    first, second, number = _flag_parts(walk, op)
    walk.events.append(Event("set", first, op, "", second, number))


def _wait(walk: Walk, op: Op) -> None:
    first, second, number = _flag_parts(walk, op)
    walk.events.append(Event("wait", second, op, "", first, number))


def _barrier(walk: Walk, op: Op) -> None:
    walk.events.append(Event("barrier", _pipe(_clauses(op).options["cores"], op), op))


def _between(kind: str) -> Callable[[Walk, Op], None]:
    def note(walk: Walk, op: Op) -> None:
        clauses = _clauses(op)
        _, first, second = split(clauses.options["cores"])
        pipe = first if kind == "core_set" else second
        walk.events.append(Event(kind, _pipe(pipe, op), op,
                                 flag=integer(walk, clauses.options["flag"])))
    return note


def _nothing(walk: Walk, op: Op) -> None:
    """The op orders and touches nothing."""


CHIP: dict[str, Callable[[Walk, Op], None]] = {
    "pointer_cast": _pointer, "get_block_idx": _block_number, "get_sub_block_idx": _block_number,
    "get_block_num": _block_number, "load": _move, "store": _move, "copy": _move, "nd2nz": _move,
    "load_scale": _move, "fixpipe": _move, "vsort": _vector, "vcumsum": _vector,
    "vgather": _vector, "vtranspose": _vector, "mmadL1": _mmad, "mmadmxL1": _mmad,
    "set_flag": _set, "wait_flag": _wait, "pipe_barrier": _barrier,
    "sync_block_set": _between("core_set"), "sync_block_wait": _between("core_wait"),
    "set_ctrl": _nothing, "set_mask_norm": _nothing,
}
