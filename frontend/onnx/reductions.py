"""Rows of reductions, normalisations and selections."""

from __future__ import annotations

from firstlight.frontend.onnx.call import Call
from firstlight.frontend.onnx.errors import Refused
from firstlight.frontend.onnx.table import decomposed, row
from firstlight.frontend.onnx.values import Held
from firstlight.ir.array import Array, iota
from firstlight.ir.dims import Size


@row("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
     note="an axis after the other; products of at most 256")
def _(c: Call) -> Held:
    x = c.x()
    rank, keep = len(x.shape), c.attr("keepdims", 1)
    given = c.integers(1, "axes") if c.has(1) else tuple(c.attr("axes", []))
    if not given and c.attr("noop_with_empty_axes", 0):
        return c.held(0)
    axes = sorted({c.axis(a, rank) for a in given or range(rank)})
    truth = x.dtype == "bool"
    x = x.cast("i32") if truth else x
    y = -x if c.op == "ReduceMin" else x
    for axis in axes:
        y = _along(y, c.op, axis)
    y = -y if c.op == "ReduceMin" else y
    y = y.cast("bool") if truth else y
    if not keep:
        y = y.reshape(*[n for a, n in enumerate(x.shape) if a not in axes])
    return c.out(y)


@decomposed("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
            note="abs, squares, exp and log about a sum")
def _(c: Call) -> Held:
    x, top = c.x(), None
    rank, keep = len(x.shape), c.attr("keepdims", 1)
    given = c.integers(1, "axes") if c.has(1) else tuple(c.attr("axes", []))
    axes = [] if not given and c.attr("noop_with_empty_axes", 0) else sorted(
        {c.axis(a, rank) for a in given or range(rank)})
    if c.op == "ReduceLogSumExp":
        top = x
        for axis in axes:
            top = top.emit("reduce_max", axis=axis, keepdims=True)
        # infinities of one sign have no difference
        top = top.maximum(-3.4028234663852886e38).minimum(3.4028234663852886e38)
        x = (x - top).emit("exp")
    elif c.op == "ReduceL1":
        x = x.emit("abs")
    elif c.op in ("ReduceL2", "ReduceSumSquare"):
        x = x * x
    for axis in axes:
        x = x.emit("reduce_sum", axis=axis, keepdims=True)
    if c.op == "ReduceL2":
        x = x.cast("f32").emit("sqrt")
    elif c.op in ("ReduceLogSum", "ReduceLogSumExp"):
        x = x.emit("log")
    x = x if top is None else x + top
    if not keep:
        x = x.reshape(*[n for a, n in enumerate(x.shape) if a not in axes])
    return c.out(x)


def _along(x: Array, op: str, axis: int) -> Array:
    if op == "ReduceProd":
        if x.dim(axis) > 256:
            raise Refused(f"a product of {x.dim(axis)}")
        y = x.take(axis, 0, 1)
        for i in range(1, x.dim(axis)):
            y = y * x.take(axis, i, i + 1)
        return y
    if op == "ReduceMean" and x.dtype != "f32":
        raise Refused("a mean of integers")
    name = {"ReduceSum": "reduce_sum", "ReduceMean": "reduce_mean"}.get(op, "reduce_max")
    return x.emit(name, axis=axis, keepdims=True)


@row("Softmax")
def _(c: Call) -> Held:
    return c.out(c.x().softmax(c.axis(c.attr("axis", -1), len(c.held(0).shape))))


@decomposed("LogSoftmax", note="x - max - log(sum(exp))")
def _(c: Call) -> Held:
    x = c.x()
    axis = c.axis(c.attr("axis", -1), len(x.shape))
    x = x - x.emit("reduce_max", axis=axis, keepdims=True)
    return c.out(x - x.emit("exp").sum(axis, keepdims=True).emit("log"))


@decomposed("LayerNormalization", note="over flattened trailing axes")
def _(c: Call) -> list[Held]:
    x = c.x(0)
    axis = c.axis(c.attr("axis", -1), len(x.shape))
    mean, centred = x, x
    axes = range(axis, len(x.shape))
    for a in axes:
        mean = mean.mean(a, keepdims=True)
    centred = x - mean
    spread = centred * centred
    for a in axes:
        spread = spread.mean(a, keepdims=True)
    inverse = (spread + c.attr("epsilon", 1e-5)).emit("rsqrt")
    y = centred * inverse * c.x(1)
    if c.has(2):
        y = y + c.x(2)
    return [c.out(y), c.out(mean, "float32"), c.out(inverse, "float32")]


@decomposed("InstanceNormalization", "BatchNormalization", note="of inference")
def _(c: Call) -> Held:
    x = c.x(0)
    rank = len(x.shape)
    eps = c.attr("epsilon", 1e-5)

    def channel(i: int) -> Array:
        v = c.x(i)
        return v.reshape(v.shape[0], *(1,) * (rank - 2))

    if c.op == "BatchNormalization":
        if c.attr("training_mode", 0):
            raise Refused("BatchNormalization of training")
        y = (x - channel(3)) * (channel(4) + eps).emit("rsqrt")
    else:
        mean = x
        for a in range(2, rank):
            mean = mean.mean(a, keepdims=True)
        spread = (x - mean) * (x - mean)
        for a in range(2, rank):
            spread = spread.mean(a, keepdims=True)
        y = (x - mean) * (spread + eps).emit("rsqrt")
    return c.out(y * channel(1) + channel(2))


@decomposed("GlobalAveragePool", "GlobalMaxPool", note="reductions over the places")
def _(c: Call) -> Held:
    x = c.x(0)
    for a in range(2, len(x.shape)):
        x = x.emit("reduce_mean" if c.op == "GlobalAveragePool" else "reduce_max", axis=a,
                   keepdims=True)
    return c.out(x)


@decomposed("ArgMax", "ArgMin", note="the first (or last) place of the largest")
def _(c: Call) -> Held:
    x = c.x()
    axis = c.axis(c.attr("axis", 0), len(x.shape))
    x = -x if c.op == "ArgMin" else x
    top = x.emit("reduce_max", axis=axis, keepdims=True)
    place, last = iota(c.builder, x.shape, axis), c.attr("select_last_index", 0)
    place = place if last else -place
    found = c.where(x.emit("eq", top), place, c.number(-(2**31) + 1, "i32"))
    best = found.emit("reduce_max", axis=axis, keepdims=bool(c.attr("keepdims", 1)))
    return c.out(best if last else -best, "int64")


@row("TopK", note="of floats; sorted; -inf comes after every other number")
def _(c: Call) -> list[Held]:
    x, k = c.x(0), c.integers(1, "k")[0]
    if x.dtype != "f32":
        raise Refused("the largest of integers")
    rank = len(x.shape)
    axis = c.axis(c.attr("axis", -1), rank)
    if not 1 <= k <= x.dim(axis):
        raise Refused(f"the {k} largest of {x.dim(axis)}")
    swap = tuple(rank - 1 if a == axis else axis if a == rank - 1 else a for a in range(rank))
    y = x.transpose(*swap) if axis != rank - 1 else x
    ranked = y if c.attr("largest", 1) else -y
    # top_k leaves places of -inf out, and ONNX does not
    places = ranked.maximum(-3.4028234663852886e38).emit("top_k", k=k)
    values = y.emit("take_along", places)
    if axis != rank - 1:
        values, places = values.transpose(*swap), places.transpose(*swap)
    return [c.out(values), c.out(places, "int64")]


@decomposed("CumSum", note="a sum over the places before")
def _(c: Call) -> Held:
    x = c.x(0)
    axis = c.axis(int(c.constant(1, "axis").reshape(-1)[0]), len(x.shape))
    size: Size = x.shape[axis]
    shape = (size, size)
    mine, other = iota(c.builder, shape, 0), iota(c.builder, shape, 1)
    if c.attr("reverse", 0):
        mine, other = other, mine
    keep = (other < mine) if c.attr("exclusive", 0) else (other <= mine)
    tail = len(x.shape) - axis - 1
    keep = keep.reshape(size, size, *(1,) * tail)
    parts = x.insert(axis)
    chosen = c.where(keep, parts, parts.lift(0))
    return c.out(chosen.sum(axis + 1))


