"""Lowerings of constants and of the primitives that only move data: maps of indices."""

from __future__ import annotations

from typing import Any

from firstlight.codegen.generic.elementwise import broadcast_index
from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.recipe import Expr, Fill, Tensor
from firstlight.codegen.generic.scalars import clip, const, store, wrap
from firstlight.codegen.generic.table import lower
from firstlight.codegen.tvm_bridge import T
from firstlight.ir.core import Op
from firstlight.ir.dims import Dim, Size


@lower("constant", kind="view")
def _(e: Emitter, op: Op) -> Tensor | Fill:
    type_, value = op.result.type, op.attrs["value"]
    if not isinstance(value, tuple):
        return Tensor(type_, lambda *i: const(value, type_.dtype))

    def emit(buffer: Any) -> None:
        # a PrimFunc has no constant arrays: the values are immediate operands of stores
        strides = _strides(type_.shape)
        with T.sblock("constant"):
            for place, number in enumerate(value):
                index = _unravel(place, type_.shape, strides)
                store(buffer, const(number, type_.dtype), index, type_.dtype)

    return Fill(type_, emit)


@lower("iota", kind="view")
def _(e: Emitter, op: Op) -> Tensor:
    axis = op.attrs["axis"]
    return Tensor(op.result.type, lambda *i: T.Cast("int32", i[axis]))


@lower("size", kind="view")
def _(e: Emitter, op: Op) -> Tensor:
    return Tensor(op.result.type, lambda: T.Cast("int32", e.extent(op.attrs["dim"])))


@lower("broadcast", kind="view")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    return Tensor(op.result.type, lambda *i: x.read(*broadcast_index(x, i)))


@lower("copy")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    return Tensor(op.result.type, x.read)


@lower("transpose", kind="view")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    perm = op.attrs["perm"]
    return Tensor(op.result.type, lambda *i: x.read(*[i[perm.index(a)] for a in range(len(i))]))


@lower("slice", kind="view")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    axis, start = op.attrs["axis"], op.attrs["start"]
    return Tensor(op.result.type,
                  lambda *i: x.read(*i[:axis], i[axis] + start, *i[axis + 1:]))


@lower("reshape", kind="view")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    """Symbolic axes keep their order; between two of them, the numbers regroup."""
    before, after = _segments(x.type.shape), _segments(op.result.type.shape)
    if [_count(s) for s in before] != [_count(s) for s in after]:
        # elements cross a symbolic axis: one segment of everything
        before, after = [list(e.extents(x.type))], [list(e.extents(op.result.type))]

    def read(*index: Expr) -> Expr:
        out: list[Expr] = []
        for source, target in zip(before, after, strict=True):
            here, index = index[:len(target)], index[len(target):]
            out += here if source == target else _regroup(here, source, target)
            if index and len(out) < len(x.type.shape):
                out, index = [*out, index[0]], index[1:]  # the symbolic axis
        return x.read(*out)

    return Tensor(op.result.type, read)


def _segments(shape: tuple[Size, ...]) -> list[list[Any]]:
    """The runs of numbers before, between and after symbolic axes."""
    runs: list[list[Any]] = [[]]
    for size in shape:
        if isinstance(size, Dim):
            runs.append([])
        else:
            runs[-1].append(size)
    return runs


def _count(run: list[Any]) -> int:
    count = 1
    for size in run:
        count *= size
    return count


def _regroup(index: tuple[Expr, ...], source: list[Any], target: list[Any]) -> list[Expr]:
    place: Expr = T.int32(0)
    for i, stride in zip(index, _strides(target), strict=True):
        place = place + i * stride
    return list(_unravel(place, source, _strides(source)))


def _strides(shape: Any) -> list[Any]:
    strides: list[Any] = []
    step: Any = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step = step * size
    return strides


def _unravel(place: Any, shape: Any, strides: list[Any]) -> tuple[Any, ...]:
    """The index of the element at `place` of a C-contiguous shape."""
    first = next((a for a, size in enumerate(shape) if not _is_one(size)), 0)
    return tuple(0 if _is_one(size) else
                 place // stride if a == first else place // stride % size
                 for a, (size, stride) in enumerate(zip(shape, strides, strict=True)))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


@lower("concat")
def _(e: Emitter, op: Op, *xs: Tensor) -> Fill:
    axis = op.attrs["axis"]

    def emit(buffer: Any) -> None:
        offset: Expr = 0
        for x in xs:
            e.write("concat", buffer, x, axis, offset)
            offset = offset + e.extent(x.type.shape[axis])

    return Fill(op.result.type, emit)


@lower("gather_rows", kind="view")
def _(e: Emitter, op: Op, x: Tensor, index: Tensor) -> Tensor:
    rows = e.extent(x.type.shape[1])
    return Tensor(op.result.type,
                  lambda *i: x.read(i[0], clip(index.read(*i[:-1]), rows), i[-1]))


@lower("take_along", kind="pointwise")
def _(e: Emitter, op: Op, x: Tensor, index: Tensor) -> Tensor:
    width = e.extent(x.type.shape[-1])
    return Tensor(op.result.type, lambda *i: x.read(*i[:-1], wrap(index.read(*i), width)))


@lower("embedding", kind="pointwise")
def _(e: Emitter, op: Op, table: Tensor, ids: Tensor) -> Tensor:
    rows = e.extent(table.type.shape[0])
    return Tensor(op.result.type, lambda *i: table.read(wrap(ids.read(*i[:-1]), rows), i[-1]))
