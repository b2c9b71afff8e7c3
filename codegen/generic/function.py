"""Lowering straight-line primitives inside one kernel: what is stored, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.recipe import State, Tensor
from firstlight.codegen.generic.table import LOWERINGS
from firstlight.ir.core import Function, Op, Value
from firstlight.ir.types import TensorType
from firstlight.runtime.errors import FirstlightError

WRITES = ("ring_write", "entries_append")
MOVING = ("transpose", "slice", "reshape")
"""Views that show each element at most once."""
READING_ONCE = ("reduce_sum", "reduce_max", "reduce_mean", "concat")
REPEATING = ("sigmoid", "softplus", "floordiv", "mod", "round_bf16")
"""Pointwise ops whose expression names its operand more than once."""


def lower_function(e: Emitter, function: Function, args: Sequence[Tensor | State],
                   buffers: Sequence[Any]) -> None:
    """Emit the ops of `function`; its results go to `buffers` (None for a state: it is in place).

    Raises F450 for an op without a lowering.
    """
    values = dict(zip(function.args, args, strict=True))
    places: dict[Value, Any] = {}
    for value, buffer in zip(function.results, buffers, strict=True):
        if buffer is not None:
            places.setdefault(value, buffer)
    users = function.users()
    for op in _writes_last(function, users):
        if op.name not in LOWERINGS:
            raise _no_lowering(op)
        row = LOWERINGS[op.name]
        recipe = row.function(e, op, *[values[v] for v in op.operands])
        value = op.result
        if isinstance(recipe, State):
            values[value] = recipe
        elif (isinstance(recipe, Tensor) and value not in places
              and _stays_lazy(value, row.kind, users)):
            values[value] = recipe
        else:
            values[value] = e.place(op.name, recipe, places.get(value))
    for value, buffer in zip(function.results, buffers, strict=True):
        # a result that is an argument, or stands twice
        if buffer is not None and (value in function.args or places[value] is not buffer):
            e.place("copy", values[value], buffer)


def _writes_last(function: Function, users: dict[Value, list[Op]]) -> list[Op]:
    """The ops with state writes moved behind all reads of the old state, which they overwrite."""
    late = [op for op in function.ops if op.name in WRITES and not users.get(op.result)]
    ops = [op for op in function.ops if op not in late] + late
    for i, op in enumerate(ops):
        if op.name in WRITES and any(op.operands[0] in o.operands for o in ops[i + 1:]):
            raise FirstlightError(
                "F452", f"fl.{op.name} would overwrite a state that is read after it",
                where=op.loc or f"fl.{op.name}", why="states are written in place",
                try_="read the old state before, or the new one instead",
            )
    return ops


def _stays_lazy(value: Value, kind: str, users: dict[Value, list[Op]]) -> bool:
    """Whether each use may compute the elements of `value` again."""
    if kind == "stored" or any(op.name in WRITES for op in users.get(value, [])):
        return False
    return kind == "view" or _read_once(value, users)


def _read_once(value: Value, users: dict[Value, list[Op]]) -> bool:
    """Whether every element has at most one use, so that nothing is computed twice."""
    using = users.get(value, [])
    if len(using) != 1 or using[0].operands.count(value) != 1:
        return False
    (op,) = using
    if op.name in MOVING:
        return _read_once(op.result, users)
    return op.name in READING_ONCE or (
        LOWERINGS[op.name].kind == "pointwise" and op.name not in REPEATING
        and _shape(value) == _shape(op.result))


def _shape(value: Value) -> object:
    return value.type.shape if isinstance(value.type, TensorType) else None


def _no_lowering(op: Op) -> FirstlightError:
    return FirstlightError(
        "F450", f"there is no generic kernel for fl.{op.name}", where=op.loc or f"fl.{op.name}",
        why="the lowering table has no row for this primitive",
        try_="add one in firstlight.codegen.generic",
    )
