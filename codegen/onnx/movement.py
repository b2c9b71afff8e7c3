"""Rows of constants and of the primitives that move data."""

from __future__ import annotations

import numpy as np

from firstlight.codegen.onnx.elementwise import I32
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.table import row
from firstlight.codegen.onnx.values import Val
from firstlight.ir import dims
from firstlight.ir.dims import Dim, Size
from firstlight.ir.ops.elementwise import NUMPY
from firstlight.ir.types import TensorType

SMALL = 4096
"""Constants of one value with more elements are expanded when the graph runs."""


@row
def constant(g: Graph, out: TensorType, value: float | tuple[float, ...], shape: tuple[int, ...],
             dtype: str) -> str:
    kind = NUMPY[dtype]
    if isinstance(value, tuple):
        return g.constant(np.array(value, kind).reshape(shape))
    if dims.product(shape) <= SMALL:
        return g.constant(np.full(shape, value, kind))
    return str(g("Expand", np.array(value, kind), list(shape)))


def count(g: Graph, size: Size) -> str:
    """A size as an i32 scalar."""
    if isinstance(size, int):
        return g.constant(np.array(size, np.int32))
    return str(g("Squeeze", g("Cast", g.size(size), to=I32), [0]))


@row
def iota(g: Graph, out: TensorType, shape: tuple[Size, ...], axis: int) -> str:
    length, others = shape[axis], [i for i in range(len(shape)) if i != axis]
    if isinstance(length, int):
        line = g.constant(np.arange(length, dtype=np.int32).reshape(
            [length if i == axis else 1 for i in range(len(shape))]))
    else:
        line = g("Range", np.int32(0), count(g, length), np.int32(1))
        line = g("Unsqueeze", line, others) if others else line
    return str(line if all(shape[i] == 1 for i in others) else g("Expand", line, g.shape(shape)))


@row
def size(g: Graph, out: TensorType, dim: Size) -> str:
    return count(g, dim)


@row
def broadcast(g: Graph, out: TensorType, x: Val, shape: tuple[Size, ...]) -> str:
    return str(g("Expand", x.plain(g), g.shape(shape)))


@row
def copy(g: Graph, out: TensorType, x: Val) -> str:
    return str(g("Identity", x.plain(g)))


@row
def reshape(g: Graph, out: TensorType, x: Val, shape: tuple[Size, ...]) -> str:
    """New axes of 1 by Unsqueeze, which keeps every size known; else one unknown size is -1."""
    name = x.plain(g)
    added = _added(x.shape, shape)
    if added is not None:
        return str(g("Unsqueeze", name, added)) if added else name
    removed = _added(shape, x.shape)
    if removed is not None:
        return str(g("Squeeze", name, removed))
    if sum(isinstance(d, Dim) for d in shape) <= 1:
        return str(g("Reshape", name, [d if isinstance(d, int) else -1 for d in shape]))
    return str(g("Reshape", name, g.shape(shape)))


def _added(before: tuple[Size, ...], after: tuple[Size, ...]) -> list[int] | None:
    """The axes of 1 by which `after` is longer, or None if that is not the difference."""
    axes, rest = [], list(before)
    for axis, extent in enumerate(after):
        if rest and rest[0] == extent:
            rest.pop(0)
        elif extent == 1:
            axes.append(axis)
        else:
            return None
    return axes if not rest else None


@row
def transpose(g: Graph, out: TensorType, x: Val, perm: tuple[int, ...]) -> str:
    return str(g("Transpose", x.plain(g), perm=list(perm)))


@row
def slice_(g: Graph, out: TensorType, x: Val, axis: int, start: int, stop: int) -> str:
    return str(g("Slice", x.plain(g), [start], [stop], [axis]))


@row
def concat(g: Graph, out: TensorType, *xs: Val, axis: int) -> str:
    return str(g("Concat", *[x.plain(g) for x in xs], axis=axis))


@row
def gather_rows(g: Graph, out: TensorType, x: Val, index: Val) -> str:
    """B is 1: a Gather of the second axis, with the places held inside it."""
    length = x.shape[1]
    last = (np.int32(length - 1) if isinstance(length, int)
            else g("Sub", count(g, length), np.int32(1)))
    near = g("Max", g("Min", index.plain(g), last), np.int32(0))
    return str(g("Gather", x.plain(g), g("Squeeze", near, [0]), axis=1))


@row
def take_along(g: Graph, out: TensorType, x: Val, index: Val) -> str:
    return str(g("GatherElements", x.plain(g), index.plain(g), axis=-1))


@row
def embedding(g: Graph, out: TensorType, table: Val, ids: Val) -> str:
    return table.rows(g, ids.plain(g), len(ids.shape))

