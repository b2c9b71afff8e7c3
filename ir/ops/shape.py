"""Constants and ops that move data without computing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.builder import require
from firstlight.ir.dims import Dim, Size
from firstlight.ir.ops.elementwise import NUMPY, broadcast_shapes
from firstlight.ir.registry import cost_of, op, reference_of, shape_of
from firstlight.ir.types import TensorType

Array = NDArray[np.generic]
Shape = tuple[Size, ...]


def free(*_: object, **__: object) -> float:
    """No arithmetic."""
    return 0.0


constant = op("constant", (), attrs={"value": tuple, "shape": tuple, "dtype": str})


@shape_of(constant)
def _(value: float | tuple[float, ...], shape: tuple[int, ...], dtype: str) -> TensorType:
    if isinstance(value, tuple):
        require(len(value) == dims.product(shape), f"{len(value)} values for shape {shape}")
    return TensorType(shape, dtype)


@reference_of(constant)
def _(value: float | tuple[float, ...], shape: tuple[int, ...], dtype: str) -> Array:
    if not isinstance(value, tuple):
        return np.full(shape, value, NUMPY[dtype])
    return np.array(value, NUMPY[dtype]).reshape(shape)


iota = op("iota", (), attrs={"shape": tuple, "axis": int})


@shape_of(iota)
def _(shape: Shape, axis: int) -> TensorType:
    require(0 <= axis < len(shape), f"axis {axis} of a rank {len(shape)} tensor")
    return TensorType(shape, "i32")


@reference_of(iota)
def _(shape: tuple[int, ...], axis: int) -> Array:
    line = np.arange(shape[axis], dtype=np.int32)
    return np.broadcast_to(line.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


size = op("size", (), attrs={"dim": Dim})


@shape_of(size)
def _(dim: Size) -> TensorType:
    return TensorType((), "i32")


@reference_of(size)
def _(dim: int) -> Array:
    return np.array(dim, np.int32)


broadcast = op("broadcast", ("x",), attrs={"shape": tuple})


@shape_of(broadcast)
def _(x: TensorType, shape: Shape) -> TensorType:
    require(broadcast_shapes(x.shape, shape) == shape, f"{x.shape} does not broadcast to {shape}")
    return TensorType(shape, x.dtype)


@reference_of(broadcast)
def _(x: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(x, shape)


copy = op("copy", ("x",))


@shape_of(copy)
def _(x: TensorType) -> TensorType:
    """The same elements in memory of their own: what a result of a graph is."""
    return x.plain


@reference_of(copy)
def _(x: Array) -> Array:
    return np.array(x)


reshape = op("reshape", ("x",), attrs={"shape": tuple})


@shape_of(reshape)
def _(x: TensorType, shape: Shape) -> TensorType:
    # symbolic axes must survive unchanged, the numbers around them may regroup
    before, after = ([d for d in s if isinstance(d, Dim)] for s in (x.shape, shape))
    require(before == after, f"{x.shape} -> {shape} changes a symbolic axis")
    fixed = [dims.product(tuple(d for d in s if isinstance(d, int))) for s in (x.shape, shape)]
    require(fixed[0] == fixed[1], f"{x.shape} and {shape} differ in size")
    return TensorType(shape, x.dtype)


@reference_of(reshape)
def _(x: Array, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


transpose = op("transpose", ("x",), attrs={"perm": tuple})


@shape_of(transpose)
def _(x: TensorType, perm: tuple[int, ...]) -> TensorType:
    require(sorted(perm) == list(range(x.rank)), f"{perm} is not a permutation of the axes")
    return TensorType(tuple(x.shape[i] for i in perm), x.dtype)


@reference_of(transpose)
def _(x: Array, perm: tuple[int, ...]) -> Array:
    return x.transpose(perm)


slice_ = op("slice", ("x",), attrs={"axis": int, "start": int, "stop": int})


@shape_of(slice_)
def _(x: TensorType, axis: int, start: int, stop: int) -> TensorType:
    require(0 <= axis < x.rank, f"axis {axis} of a rank {x.rank} tensor")
    whole = x.shape[axis]
    require(isinstance(whole, int) and 0 <= start < stop <= whole,
            f"[{start}, {stop}) of an axis of {whole}")
    return TensorType((*x.shape[:axis], stop - start, *x.shape[axis + 1:]), x.dtype)


@reference_of(slice_)
def _(x: Array, axis: int, start: int, stop: int) -> Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]


concat = op("concat", ("xs*",), attrs={"axis": int})


@shape_of(concat)
def _(*xs: TensorType, axis: int) -> TensorType:
    first = xs[0]
    total: Size = 0
    for x in xs:
        require(x.dtype == first.dtype, f"parts are {x.dtype} and {first.dtype}")
        require(x.rank == first.rank
                and all(a == b for i, (a, b) in enumerate(zip(x.shape, first.shape, strict=True))
                        if i != axis), f"{x.shape} and {first.shape} differ outside axis {axis}")
        total = dims.add(total, x.shape[axis])
    return TensorType((*first.shape[:axis], total, *first.shape[axis + 1:]), first.dtype)


@reference_of(concat)
def _(*xs: Array, axis: int) -> Array:
    return np.concatenate(xs, axis)


gather_rows = op("gather_rows", ("x", "index"))


@shape_of(gather_rows)
def _(x: TensorType, index: TensorType) -> TensorType:
    """x[B, T, c], index[B, ...] -> [B, ..., c]; an index outside the rows reads the nearest row."""
    require(x.rank == 3 and index.dtype == "i32", "x is [B, T, c] and index is i32 [B, ...]")
    require(x.shape[0] == index.shape[0], "x and index differ in the batch")
    return TensorType((*index.shape, x.shape[2]), x.dtype)


@reference_of(gather_rows)
def _(x: Array, index: NDArray[np.int32]) -> Array:
    batch = np.arange(len(x)).reshape(-1, *[1] * (index.ndim - 1))
    return x[batch, np.clip(index, 0, x.shape[1] - 1)]


take_along = op("take_along", ("x", "index"))


@shape_of(take_along)
def _(x: TensorType, index: TensorType) -> TensorType:
    """x[..., E], index[..., A] i32 -> x at these places of the last axis."""
    require(x.shape[:-1] == index.shape[:-1], f"{x.shape} and {index.shape} differ in leading axes")
    return TensorType(index.shape, x.dtype)


@reference_of(take_along)
def _(x: Array, index: NDArray[np.int32]) -> Array:
    return np.take_along_axis(x, index.astype(np.int64), -1)


for _info in (constant, iota, size, broadcast, copy, reshape, transpose, slice_, concat,
              gather_rows, take_along):
    cost_of(_info)(free)
