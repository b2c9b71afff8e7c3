"""Rows of the operators that move elements."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from firstlight.frontend.onnx.call import Call
from firstlight.frontend.onnx.errors import Refused
from firstlight.frontend.onnx.reading import tensor
from firstlight.frontend.onnx.table import decomposed, row
from firstlight.frontend.onnx.values import FLOATS, Held, kind, product
from firstlight.ir.array import Array, concat, constant, iota, size_of
from firstlight.ir.dims import Dim, Size

MANY = 1 << 22
"""Most comparisons of a scatter: it looks at each update from each place."""


def sizes(c: Call, i: int, what: str) -> tuple[Size, ...]:
    """Input i as sizes, some of which may be open."""
    known = c.known(i)
    if known is None:
        raise Refused(f"its {what} depends on inputs")
    return tuple(v if isinstance(v, Dim) else int(v) for v in known.reshape(-1))


def empty(c: Call, shape: tuple[Size, ...]) -> Held:
    """A tensor without elements, which is always known."""
    if any(isinstance(n, Dim) for n in shape):
        raise Refused("a tensor without elements, and with an axis of open size")
    dtype = c.held(0).dtype
    return Held(dtype, np.empty([int(str(n)) for n in shape],
                                np.float32 if dtype in FLOATS else dtype))


@row("Reshape", "Flatten", "Squeeze", "Unsqueeze", note="reshape")
def _(c: Call) -> Held:
    shape = c.held(0).shape
    rank = len(shape)
    if c.op == "Reshape":
        new = list(sizes(c, 1, "shape"))
        if not c.attr("allowzero", 0):
            new = [shape[i] if n == 0 else n for i, n in enumerate(new)]
        if new.count(-1) > 1:
            raise Refused("two sizes of its shape are -1")
        if -1 in new:
            new[new.index(-1)] = _rest(shape, [n for n in new if n != -1])
    elif c.op == "Flatten":
        axis = c.attr("axis", 1)
        axis = axis + rank if axis < 0 else axis
        new = [product(shape[:axis]), product(shape[axis:])]
    elif c.op == "Squeeze":
        given = {c.axis(a, rank) for a in c.integers(1, "axes")} if c.has(1) else {
            i for i, n in enumerate(shape) if n == 1}
        if any(shape[a] != 1 for a in given):
            raise Refused(f"it squeezes axes {sorted(given)} of {shape}")
        new = [n for i, n in enumerate(shape) if i not in given]
    else:
        axes = c.integers(1, "axes")
        at = {c.axis(a, rank + len(axes)) for a in axes}
        if len(at) != len(axes):
            raise Refused("an axis stands twice")
        left = iter(shape)
        new = [1 if i in at else next(left) for i in range(rank + len(axes))]
    if (known := c.known(0)) is not None and all(isinstance(n, int) for n in new):
        return Held(c.held(0).dtype, known.reshape([int(str(n)) for n in new]))
    return c.out(c.x().reshape(*new))


def _rest(shape: tuple[Size, ...], given: list[Size]) -> Size:
    """What -1 stands for."""
    left = list(shape)
    for n in list(given):
        if isinstance(n, Dim):
            if n not in left:
                raise Refused(f"size {n} of its shape is none of {shape}")
            left.remove(n)
            given.remove(n)
    below = math.prod(int(str(n)) for n in given)
    open_ = [n for n in left if isinstance(n, Dim)]
    above = math.prod(int(str(n)) for n in left if not isinstance(n, Dim))
    if not below or above % below:
        raise Refused(f"{shape} cannot have its shape")
    if not open_:
        return above // below
    if len(open_) > 1 or above != below:
        raise Refused(f"a size of {above // below} x {' x '.join(map(str, open_))}")
    return open_[0]


@row("Transpose")
def _(c: Call) -> Held:
    rank = len(c.held(0).shape)
    perm = tuple(c.attr("perm", list(range(rank))[::-1]))
    return c.out(c.x().transpose(*perm))


@row("Concat")
def _(c: Call) -> Held:
    axis = c.axis(c.attr("axis", 0), len(c.held(0).shape))
    parts = [c.x(i) for i in range(len(c.ins)) if 0 not in c.held(i).shape]
    if not parts:
        raise Refused("a tensor without elements")
    return c.out(concat(parts, axis))


@row("Expand", note="broadcast")
def _(c: Call) -> Held:
    from firstlight.ir.ops.elementwise import broadcast_shapes

    x = c.x()
    shape = broadcast_shapes(x.shape, sizes(c, 1, "shape"))
    return c.out(x.broadcast(*shape))


@row("Tile", note="broadcast and reshape")
def _(c: Call) -> Held:
    x, repeats = c.x(), c.integers(1, "repeats")
    if len(repeats) != len(x.shape) or min(repeats, default=1) < 1:
        raise Refused(f"repeats {repeats} of a tensor of rank {len(x.shape)}")
    for axis, n in enumerate(repeats):
        if n > 1:
            x = concat([x] * n, axis) if n <= 16 else _tiled(x, axis, n)
    return c.out(x)


def _tiled(x: Array, axis: int, n: int) -> Array:
    size, head, tail = x.dim(axis), x.shape[:axis], x.shape[axis + 1:]
    return x.insert(axis).broadcast(*head, n, size, *tail).reshape(*head, n * size, *tail)


@row("Slice", note="steps other than 1 by a gather")
def _(c: Call) -> Held:
    x = c.x()
    starts, ends = sizes(c, 1, "starts"), sizes(c, 2, "ends")
    axes = c.integers(3, "axes") if c.has(3) else tuple(range(len(starts)))
    steps = c.integers(4, "steps") if c.has(4) else (1,) * len(starts)
    for start, end, a, step in zip(starts, ends, axes, steps, strict=True):
        axis = c.axis(a, len(x.shape))
        size = x.shape[axis]
        if isinstance(size, Dim) or isinstance(start, Dim) or isinstance(end, Dim):
            whole = start == 0 and step == 1 and (end == size or (
                isinstance(end, int) and end >= 1 << 30))
            if whole:
                continue
            if isinstance(size, int) and step == 1 and isinstance(start, int):
                # [0, S) of a known axis: the places of the first S
                if start != 0 or not isinstance(end, Dim):
                    raise Refused("a part of an axis that depends on an open size")
                x = pick(x, axis, iota(c.builder, (end,), 0))
                continue
            raise Refused("a part of an axis of open size")
        line = range(size)[slice(start, end, step)]
        if not len(line):
            return empty(c, (*x.shape[:axis], 0, *x.shape[axis + 1:]))
        x = (x.take(axis, line.start, line.stop) if step == 1 else
             pick(x, axis, _places(c, np.array(line))))
    return c.out(x)


def _places(c: Call, places: np.ndarray) -> Array:  # type: ignore[type-arg]
    held = Held("int64", places.astype(np.int64))
    return c.weights.array(held)


@row("Split")
def _(c: Call) -> list[Held]:
    x = c.x()
    axis = c.axis(c.attr("axis", 0), len(x.shape))
    total = x.dim(axis)
    if c.has(1):
        parts = c.integers(1, "split")
    else:
        count = c.attr("num_outputs", c.outs)
        each = -(-total // count)
        parts = (each,) * (count - 1) + (total - each * (count - 1),)
    if sum(parts) != total or min(parts) < 0:
        raise Refused(f"it splits {total} into {parts}")
    out, at = [], 0
    for n in parts:
        out.append(c.out(x.take(axis, at, at + n)) if n else
                   empty(c, (*x.shape[:axis], 0, *x.shape[axis + 1:])))
        at += n
    return out


def pick(x: Array, axis: int, index: Array) -> Array:
    """x at the places `index` i32 [...] of an axis, which the index's axes replace."""
    rank = len(x.shape)
    order = (axis, *[a for a in range(rank) if a != axis])
    head, tail = x.shape[:axis], x.shape[axis + 1:]
    rows = x.transpose(*order) if axis else x
    width = product((*head, *tail))
    flat = rows.reshape(1, x.shape[axis], width)
    count = len(index.shape)
    got = flat.emit("gather_rows", index.insert(0)).reshape(*index.shape, *head, *tail)
    if not axis:
        return got
    back = (*range(count, count + axis), *range(count), *range(count + axis, count + rank - 1))
    return got.transpose(*back)


def counted(c: Call, index: Array, size: Size) -> Array:
    """Negative places counted from the end."""
    last = size_of(c.builder, size) if isinstance(size, Dim) else c.number(size, "i32")
    return c.where(index < 0, index + last, index)


@row("Gather", note="a place outside the axis reads the nearest one")
def _(c: Call) -> Held:
    x, index = c.x(0), c.x(1)
    axis = c.axis(c.attr("axis", 0), len(x.shape))
    if x.dtype == "bool":
        return c.out(pick(x.cast("i32"), axis, counted(c, index, x.shape[axis])).cast("bool"))
    return c.out(pick(x, axis, counted(c, index, x.shape[axis])))


def _linear(c: Call, coordinates: list[Array], shape: tuple[Size, ...]) -> Array:
    """Places in the flattened tensor of coordinates along its axes."""
    place: Array | None = None
    for at, size in zip(coordinates, shape, strict=True):
        at = counted(c, at, size)
        step = size_of(c.builder, size) if isinstance(size, Dim) else size
        place = at if place is None else place * step + at
    assert place is not None
    return place


@decomposed("GatherElements", note="gather_rows at flattened places")
def _(c: Call) -> Held:
    x, index = c.x(0), c.x(1)
    axis = c.axis(c.attr("axis", 0), len(x.shape))
    flat = _element_places(c, index, axis, x.shape)
    got = x.reshape(1, product(x.shape), 1).emit("gather_rows", flat.insert(0))
    return c.out(got.reshape(*index.shape))


def _element_places(c: Call, index: Array, axis: int, shape: tuple[Size, ...]) -> Array:
    own = [index if a == axis else iota(c.builder, index.shape, a) for a in range(len(shape))]
    return _linear(c, own, shape)


def _tuple_places(c: Call, index: Array, shape: tuple[Size, ...]) -> tuple[Array, int]:
    """Rows that an index [..., n] of coordinates names, and n."""
    n = index.dim(-1)
    parts = [index.take(-1, i, i + 1).reshape(*index.shape[:-1]) for i in range(n)]
    return _linear(c, parts, shape[:n]), n


@decomposed("GatherND", note="gather_rows at flattened places")
def _(c: Call) -> Held:
    x, index, batch = c.x(0), c.x(1), c.attr("batch_dims", 0)
    lead = product(x.shape[:batch])
    places, n = _tuple_places(c, index, x.shape[batch:])
    tail = x.shape[batch + n:]
    rows = x.reshape(lead, product(x.shape[batch:batch + n]), product(tail))
    got = rows.emit("gather_rows", places.reshape(lead, *places.shape[batch:]))
    return c.out(got.reshape(*index.shape[:-1], *tail))


@decomposed("ScatterElements", "ScatterND",
            note="each place looks for its last update, or joins all; at most 4 M comparisons")
def _(c: Call) -> Held:
    x, index, updates = c.x(0), c.x(1), c.x(2)
    if c.op == "ScatterND":
        places, n = _tuple_places(c, index, x.shape)
        width = product(x.shape[n:])
        height = product(x.shape[:n])
    else:
        places = _element_places(c, index, c.axis(c.attr("axis", 0), len(x.shape)), x.shape)
        height, width = product(x.shape), 1
    count = product(places.shape)
    if not all(isinstance(v, int) for v in (height, width, count)):
        raise Refused("a scatter of open size")
    rows, upd = x.reshape(height, width), updates.reshape(count, width)
    how = c.attr("reduction", "none")
    work = int(str(height)) * int(str(count)) * (1 if how == "none" else int(str(width)))
    if work > MANY:
        raise Refused(f"{work} comparisons, more than {MANY}")
    line = iota(c.builder, (height, count), 0)
    hit = line.emit("eq", places.reshape(1, count))
    if how == "none":
        last = c.where(hit, iota(c.builder, (height, count), 1), c.number(-1, "i32"))
        last = last.emit("reduce_max", axis=1, keepdims=True)
        which = upd.cast("i32") if x.dtype == "bool" else upd
        got = which.insert(0).emit("gather_rows", last.reshape(1, height)).reshape(height, width)
        got = got.cast(x.dtype)
        return c.out(c.where((last < 0), rows, got).reshape(*x.shape))
    hit, all_ = hit.reshape(height, count, 1), upd.reshape(1, count, width)
    if how == "add":
        got = rows + c.where(hit, all_, all_.lift(0)).sum(1)
    elif how in ("max", "min"):
        low = -math.inf if x.dtype == "f32" else -(2**31)
        if how == "min":
            rows, all_ = -rows, -all_
        got = c.where(hit, all_, all_.lift(low)).emit("reduce_max", axis=1, keepdims=False)
        got = rows.maximum(got)
        got = -got if how == "min" else got
    else:
        raise Refused(f"reduction {how!r}")
    return c.out(got.reshape(*x.shape))


@decomposed("Range", note="with an open size: iota")
def _(c: Call) -> Held:
    if c.known(1) is None or c.integers(0, "start") != (0,) or c.integers(2, "step") != (1,):
        raise Refused("a range that depends on inputs, or with an open size not from 0 by 1")
    return c.out(iota(c.builder, sizes(c, 1, "limit"), 0))


@decomposed("ConstantOfShape", note="one number everywhere")
def _(c: Call) -> Held:
    proto = c.attrs.get("value")
    value = np.zeros(1, np.float32) if proto is None else tensor(proto, Path())
    scalar = c.weights.array(Held(str(value.dtype), value)).reshape()
    return c.out(scalar.broadcast(*sizes(c, 0, "shape")), str(value.dtype))


@decomposed("OneHot", note="a comparison with iota")
def _(c: Call) -> Held:
    index, depth, values = c.x(0).cast("i32"), c.integers(1, "depth")[0], c.x(2)
    axis = c.axis(c.attr("axis", -1), len(index.shape) + 1)
    at = c.where(index < 0, index + depth, index).insert(axis)
    shape = (*index.shape[:axis], depth, *index.shape[axis:])
    hit = iota(c.builder, shape, axis).emit("eq", at)
    off, on = (values.take(0, i, i + 1).reshape() for i in (0, 1))
    return c.out(c.where(hit, on, off), c.held(2).dtype)


@decomposed("Pad", note="concat; modes constant, edge and reflect")
def _(c: Call) -> Held:
    x, pads, mode = c.x(), c.integers(1, "pads"), c.attr("mode", "constant")
    rank = len(x.shape)
    axes = [c.axis(a, rank) for a in c.integers(3, "axes")] if c.has(3) else list(range(rank))
    fill = c.x(2).reshape() if c.has(2) else constant(c.builder, 0, (), kind(c.held(0).dtype))
    for i, axis in enumerate(axes):
        before, after = pads[i], pads[i + len(axes)]
        if before < 0 or after < 0:
            size = x.dim(axis)
            x = x.take(axis, max(-before, 0), size - max(-after, 0))
            before, after = max(before, 0), max(after, 0)
        if before == after == 0:
            continue
        if mode == "constant":
            parts = [fill.broadcast(*x.shape[:axis], n, *x.shape[axis + 1:]) if n else None
                     for n in (before, after)]
            x = concat([p for p in (parts[0], x, parts[1]) if p is not None], axis)
        elif mode in ("edge", "reflect"):
            line = np.pad(np.arange(x.dim(axis)), (before, after), mode)
            x = pick(x, axis, _places(c, line))
        else:
            raise Refused(f"mode {mode!r}")
    return c.out(x)


@decomposed("Trilu", note="a comparison of iota")
def _(c: Call) -> Held:
    x = c.x(0)
    k = int(c.constant(1, "k").reshape(-1)[0]) if c.has(1) else 0
    shape = x.shape[-2:]
    rows, columns = iota(c.builder, shape, 0), iota(c.builder, shape, 1)
    keep = (columns >= rows + k) if c.attr("upper", 1) else (columns <= rows + k)
    return c.out(c.where(keep, x, x.lift(0)))

