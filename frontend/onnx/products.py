"""Rows of products. A constant right side becomes a `linear`, whose weights are packed."""

from __future__ import annotations

import numpy as np

from firstlight.frontend.onnx.call import Call
from firstlight.frontend.onnx.errors import Refused
from firstlight.frontend.onnx.movement import pick
from firstlight.frontend.onnx.table import decomposed, row
from firstlight.frontend.onnx.values import Held, product
from firstlight.ir.array import Array, concat
from firstlight.ir.dims import Size


def multiply(c: Call, i: int, j: int) -> Array:
    """The product of inputs i and j by numpy's rules."""
    known = c.known(j)
    if known is not None and known.ndim == 2 and known.size and len(c.held(i).shape) >= 2 and str(
            known.dtype) in ("float32", "float16", "bfloat16") and c.known(i) is None:
        return linear(c.x(i), c.weights.matrix(known, True))
    a, b = c.x(i), c.x(j)
    return product_of(a, b)


def linear(x: Array, weight: Array) -> Array:
    """x[..., K] w[N, K]^T, with x as [1, tokens, K] where its sizes can say that: so is the
    input of kernels that were written for language models."""
    *lead, width = x.shape
    if len(lead) == 2 and lead[0] == 1:
        return x.emit("linear", weight)
    if sum(not isinstance(n, int) for n in lead) > 1 or (
            any(not isinstance(n, int) for n in lead) and product(tuple(
                n for n in lead if isinstance(n, int))) != 1):
        return x.emit("linear", weight)
    y = x.reshape(1, product(tuple(lead)), width).emit("linear", weight)
    return y.reshape(*lead, weight.shape[0])


def product_of(a: Array, b: Array) -> Array:
    """numpy.matmul of floats."""
    if a.dtype != "f32" or b.dtype != "f32":
        raise Refused("a product of integers: use MatMulInteger")
    first, second = len(a.shape) == 1, len(b.shape) == 1
    a = a.insert(0) if first else a
    b = b.insert(1) if second else b
    y = a.matmul(b)
    if first:
        y = y.reshape(*y.shape[:-2], y.shape[-1])
    if second:
        y = y.reshape(*y.shape[:-1])
    return y


@row("MatMul", note="linear where the right side is a constant matrix")
def _(c: Call) -> Held:
    return c.out(multiply(c, 0, 1))


@row("Gemm", note="linear where B is a constant")
def _(c: Call) -> Held:
    a = c.x(0)
    a = a.transpose(1, 0) if c.attr("transA", 0) else a
    known = c.known(1)
    if known is not None and known.ndim == 2 and str(known.dtype) == "float32":
        y = linear(a, c.weights.matrix(known, not c.attr("transB", 0)))
    else:
        y = a.matmul(c.x(1), transpose=bool(c.attr("transB", 0)))
    alpha, beta = c.attr("alpha", 1.0), c.attr("beta", 1.0)
    y = y * alpha if alpha != 1 else y
    if c.has(2) and beta != 0:
        y = y + (c.x(2) * beta if beta != 1 else c.x(2))
    return c.out(y)


@decomposed("MatMulInteger", note="exact while sums stay below 2^24, in float32")
def _(c: Call) -> Held:
    a, b = c.x(0), c.x(1)
    if c.has(2):
        zero = c.x(2)
        a = a - (zero.insert(-1) if zero.shape else zero)
    if c.has(3):
        b = b - c.x(3)
    inner = a.shape[-1]
    if isinstance(inner, int) and inner * 255 * 255 >= 1 << 24:
        # two limbs of the left side keep every partial sum exact up to 2^31
        if inner * 255 * 16 >= 1 << 24:
            raise Refused(f"sums of {inner} products are not exact in float32")
        high = a.emit("floordiv", c.number(16, "i32"))
        low = a - high * 16
        y = (product_of(high.cast("f32"), b.cast("f32")).cast("i32") * 16
             + product_of(low.cast("f32"), b.cast("f32")).cast("i32"))
        return c.out(y, "int32")
    return c.out(product_of(a.cast("f32"), b.cast("f32")).cast("i32"), "int32")


@decomposed("Einsum", note="transposes and matmul, operands two by two; no repeated letters")
def _(c: Call) -> Held:
    text = c.attr("equation", "").replace(" ", "")
    left, arrow, out = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(c.ins) or "." in text:
        raise Refused(f"the equation {text[:40]!r}")
    if not arrow:
        out = "".join(sorted(s for s in set(left) - {","} if left.count(s) == 1))
    if any(len(set(t)) != len(t) for t in (*terms, out)):
        raise Refused(f"a letter stands twice in {text[:40]!r}")
    x, have = c.x(0), terms[0]
    if len(have) != len(x.shape):
        raise Refused(f"{text[:40]!r} does not fit its operands")
    for i, term in enumerate(terms[1:], 1):
        later = set("".join(terms[i + 1:])) | set(out)
        x, have = _pair(x, have, c.x(i), term, later)
    for letter in [s for s in have if s not in out]:
        x, have = x.sum(have.index(letter)), have.replace(letter, "")
    if sorted(have) != sorted(out):
        raise Refused(f"the equation {text[:40]!r}")
    order = tuple(have.index(s) for s in out)
    return c.out(x if order == tuple(range(len(order))) else x.transpose(*order))


def _pair(a: Array, left: str, b: Array, right: str, later: set[str]) -> tuple[Array, str]:
    """The product of two operands, summed over letters that nothing later needs."""
    for letter in [s for s in left if s not in right and s not in later]:
        a, left = a.sum(left.index(letter)), left.replace(letter, "")
    for letter in [s for s in right if s not in left and s not in later]:
        b, right = b.sum(right.index(letter)), right.replace(letter, "")
    batch = [s for s in left if s in right and s in later]
    inner = [s for s in left if s in right and s not in later]
    rows, columns = [s for s in left if s not in right], [s for s in right if s not in left]

    def ordered(x: Array, text: str, groups: list[list[str]]) -> Array:
        order = tuple(text.index(s) for g in groups for s in g)
        y = x.transpose(*order) if order != tuple(range(len(order))) else x
        sizes = {s: x.shape[text.index(s)] for s in text}
        return y.reshape(*[sizes[s] for s in batch],
                         *[product(tuple(sizes[s] for s in g)) for g in groups[1:]])

    size: dict[str, Size] = {s: n for text, x in ((left, a), (right, b))
                             for s, n in zip(text, x.shape, strict=True)}
    y = ordered(a, left, [batch, rows, inner]).matmul(ordered(b, right, [batch, inner, columns]))
    return (y.reshape(*[size[s] for s in (*batch, *rows, *columns)]),
            "".join((*batch, *rows, *columns)))


@decomposed("Conv", note="a product for each place of the kernel; known sizes")
def _(c: Call) -> Held:
    x, w = c.x(0), c.x(1)
    spatial = len(x.shape) - 2
    groups, kernel = c.attr("group", 1), [w.dim(2 + i) for i in range(spatial)]
    strides = c.attr("strides", [1] * spatial)
    dilations = c.attr("dilations", [1] * spatial)
    pads = list(c.attr("pads", [0] * (2 * spatial)))
    auto = c.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(spatial):
            size, step = x.dim(2 + i), strides[i]
            need = max((-(-size // step) - 1) * step + (kernel[i] - 1) * dilations[i] + 1 - size, 0)
            small, large = need // 2, need - need // 2
            pads[i], pads[i + spatial] = ((small, large) if auto == "SAME_UPPER"
                                          else (large, small))
    if int(np.prod(kernel)) > 64:
        raise Refused(f"a kernel of {kernel}")
    zero = c.number(0.0)
    for i in range(spatial):
        for n, front in ((pads[i], True), (pads[i + spatial], False)):
            if n:
                edge = zero.broadcast(*x.shape[:2 + i], n, *x.shape[3 + i:])
                x = concat([edge, x] if front else [x, edge], 2 + i)
    out = [(x.dim(2 + i) - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
           for i in range(spatial)]
    if min(out) < 1:
        raise Refused("its kernel is larger than its input")
    batch, channels, filters = x.shape[0], x.dim(1), w.dim(0)
    total: Array | None = None
    for place in np.ndindex(*kernel):
        part, weight = x, w
        for i, k in enumerate(place):
            first = k * dilations[i]
            line = range(first, first + (out[i] - 1) * strides[i] + 1, strides[i])
            part = (part.take(2 + i, line.start, line.start + out[i]) if strides[i] == 1 else
                    pick(part, 2 + i, c.weights.array(Held("int64", np.array(line)))))
            weight = weight.take(2 + i, k, k + 1)
        part = part.reshape(batch, groups, channels // groups, int(np.prod(out)))
        weight = weight.reshape(1, groups, filters // groups, channels // groups)
        y = weight.matmul(part)
        total = y if total is None else total + y
    assert total is not None
    y = total.reshape(batch, filters, *out)
    if c.has(2):
        y = y + c.x(2).reshape(filters, *(1,) * spatial)
    return c.out(y)
