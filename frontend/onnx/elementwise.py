"""Rows of the elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from firstlight.frontend.onnx.call import Call
from firstlight.frontend.onnx.errors import Refused
from firstlight.frontend.onnx.reading import onnx_package
from firstlight.frontend.onnx.table import decomposed, row
from firstlight.frontend.onnx.values import FLOATS, NARROW, Held, kind, wrapped
from firstlight.ir.array import Array

DIRECT = {"Neg": "neg", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs",
          "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Relu": "relu",
          "Cos": "cos", "Sin": "sin"}
BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "And": "logical_and", "Or": "logical_or"}
JOIN = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


@row(*DIRECT)
def _(c: Call) -> Held:
    return c.out(wrapped(c.x().emit(DIRECT[c.op]), c.held(0).dtype))


@row(*BINARY)
def _(c: Call) -> Held:
    return c.out(wrapped(c.x(0).emit(BINARY[c.op], c.x(1)), c.held(0).dtype))


@row("Div", note="integers are divided towards zero")
def _(c: Call) -> Held:
    a, b = c.x(0), c.x(1)
    if a.dtype == "f32":
        return c.out(a / b)
    size = a.emit("abs").emit("floordiv", b.emit("abs"))
    return c.out(c.where(equal(a < 0, b < 0), size, -size))


@row(*JOIN, "Mean")
def _(c: Call) -> Held:
    total = c.x(0)
    for i in range(1, len(c.ins)):
        total = total.emit(JOIN.get(c.op, "add"), c.x(i))
    return c.out(total * (1 / len(c.ins)) if c.op == "Mean" else total)


@row("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def _(c: Call) -> Held:
    a, b = c.x(0), c.x(1)
    a, b = (b, a) if c.op.startswith("Greater") else (a, b)
    if c.op == "Equal":
        return c.out(equal(a, b), "bool")
    return c.out(a.emit("le" if c.op.endswith("OrEqual") else "lt", b), "bool")


def equal(a: Array, b: Array) -> Array:
    """a = b; bools are compared as numbers, which is what kernels can do."""
    if a.dtype == "bool":
        a, b = a.cast("i32"), b.cast("i32")
    return a.emit("eq", b)


def flip(c: Call, x: Array) -> Array:
    """not x."""
    return c.where(x, c.number(False, "bool"), c.number(True, "bool"))


@decomposed("Not", note="select")
def _(c: Call) -> Held:
    return c.out(flip(c, c.x()))


@decomposed("Xor", note="not equal")
def _(c: Call) -> Held:
    return c.out(flip(c, equal(c.x(0), c.x(1))))


@row("Where")
def _(c: Call) -> Held:
    return c.out(c.where(c.x(0), c.x(1), c.x(2)), c.held(1).dtype)


@row("Identity", "Dropout", note="Dropout of inference")
def _(c: Call) -> Held:
    if c.op == "Dropout" and (c.outs > 1 or (c.has(2) and bool(np.any(c.constant(2, "mode"))))):
        raise Refused("Dropout of training")
    return c.held(0)


def convert(c: Call, x: Array, to: str) -> Held:
    """x as another ONNX element type."""
    which, source = kind(to), c.held(0).dtype
    if to in NARROW and source in FLOATS:
        # beyond the range of the type it is undefined; within 32 bits it wraps, as in C
        return c.out(wrapped(x.cast("i32"), to), to)
    y = x.cast(which)
    return c.out(wrapped(y, to) if source not in FLOATS else y, to)


@row("Cast", note="float16 and bfloat16 are computed as float32; float64, float8, strings refused")
def _(c: Call) -> Held:
    onnx = onnx_package()
    to = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(c.attr("to", 1))))
    return convert(c, c.x(), to)


@row("CastLike")
def _(c: Call) -> Held:
    return convert(c, c.x(), c.held(1).dtype)


@decomposed("Reciprocal", note="1 / x")
def _(c: Call) -> Held:
    return c.out(c.number(1.0) / c.x())


def floor(x: Array) -> Array:
    """The largest whole number not above x."""
    return x // 1.0


@decomposed("Floor", "Ceil", "Round", note="floordiv")
def _(c: Call) -> Held:
    x = c.x()
    low = floor(x)
    if c.op == "Floor":
        return c.out(low)
    if c.op == "Ceil":
        return c.out(-floor(-x))
    return c.out(nearest(c, x))


def nearest(c: Call, x: Array) -> Array:
    """The nearest whole number, halves to the even one."""
    low = floor(x)
    part, up = x - low, low + 1.0
    even = c.where((low % 2.0).emit("eq", c.number(0.0)), low, up)
    return c.where(part < 0.5, low, c.where(part > 0.5, up, even))


@decomposed("Sign", note="select")
def _(c: Call) -> Held:
    x = c.x()
    one, zero = x.lift(1), x.lift(0)
    return c.out(c.where(x > 0, one, c.where(x < 0, -one, zero)))


@decomposed("IsNaN", "IsInf", note="comparisons with infinity")
def _(c: Call) -> Held:
    x, top = c.x(), c.number(math.inf)
    if c.op == "IsNaN":
        return c.out(flip(c, x.emit("le", top)), "bool")
    up, down = c.attr("detect_positive", 1), c.attr("detect_negative", 1)
    if up and down:
        return c.out(x.emit("abs").emit("eq", top), "bool")
    if not up and not down:
        raise Refused("it looks for neither sign")
    return c.out(x.emit("eq", top if up else c.number(-math.inf)), "bool")


@decomposed("Mod", note="floordiv; with fmod=1 the sign is the dividend's")
def _(c: Call) -> Held:
    a, b = c.x(0), c.x(1)
    fmod = bool(c.attr("fmod", 0))
    rest = a.emit("abs") % b.emit("abs") if fmod else a % b
    rest = c.where(a < 0, -rest, rest) if fmod else rest
    if a.dtype != "f32":
        return c.out(rest)
    # nothing is left of a division by infinity but the dividend, on the divisor's side
    top = c.number(math.inf)
    far = a if fmod else c.where(
        equal(a < 0, b < 0).emit("logical_or", a.emit("eq", c.number(0.0))), a, b)
    beyond = b.emit("abs").emit("eq", top) & (a.emit("abs") < top)
    return c.out(c.where(beyond, far, rest))


@decomposed("Pow", note="products for small whole exponents, else exp(y log abs(x)) with the sign")
def _(c: Call) -> Held:
    x, power = c.x(0), c.known(1)
    if power is not None and power.size == 1 and power.dtype != object:
        n = float(power.reshape(-1)[0])
        if n == 0.5 and x.dtype == "f32":
            return c.out(_ranked(x.emit("sqrt"), power.ndim))
        if n == int(n) and 1 <= n <= 16:
            y = x
            for _ in range(int(n) - 1):
                y = y * x
            return c.out(_ranked(y, power.ndim))
    if x.dtype != "f32":
        raise Refused("a power of integers with an exponent that is not known")
    y = c.x(1).cast("f32")
    size = (y * x.emit("abs").emit("log")).emit("exp")
    odd = (floor(y).emit("eq", y)) & (y % 2.0).emit("eq", c.number(1.0))
    whole = c.where((x < 0) & odd, -size, size)
    return c.out(c.where(y.emit("eq", c.number(0.0)), c.number(1.0), whole))


def _ranked(x: Array, rank: int) -> Array:
    return x.reshape(*(1,) * max(rank - len(x.shape), 0), *x.shape)


def erf(c: Call, x: Array) -> Array:
    """erf within 1.5e-7 (Abramowitz and Stegun 7.1.26), by its series where x is small."""
    size = x.emit("abs")
    t = c.number(1.0) / (size * 0.3275911 + 1.0)
    total = c.number(1.061405429)
    for k in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        total = total * t + k
    far = 1.0 - total * t * (-(x * x)).emit("exp")
    square = x * x
    near = square * (-1 / 42) + 1 / 10
    near = (near * square - 1 / 3) * square + 1.0
    return c.where(size < 0.25, x * near * (2 / math.sqrt(math.pi)), c.where(x < 0, -far, far))


@decomposed("Erf", note="a rational approximation, within 2e-7")
def _(c: Call) -> Held:
    return c.out(erf(c, c.x()))


@decomposed("Gelu", note="both forms")
def _(c: Call) -> Held:
    x = c.x()
    if c.attr("approximate", "none") == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return c.out(x * 0.5 * (inner.emit("tanh") + 1.0))
    return c.out(x * 0.5 * (erf(c, x * math.sqrt(0.5)) + 1.0))


@decomposed("Clip", note="minimum, maximum")
def _(c: Call) -> Held:
    x = c.x()
    for i, name in ((1, "maximum"), (2, "minimum")):
        if c.has(i):
            x = x.emit(name, c.x(i).reshape())
    return c.out(x)


def _expm1(x: Array) -> Array:
    return x.emit("exp") - 1.0


ACTIVATIONS: dict[str, Callable[[Call, Array], Array]] = {
    "LeakyRelu": lambda c, x: c.where(x < 0, x * c.attr("alpha", 0.01), x),
    "Elu": lambda c, x: c.where(x < 0, _expm1(x.minimum(0.0)) * c.attr("alpha", 1.0), x),
    "Selu": lambda c, x: c.where(
        x > 0, x, _expm1(x.minimum(0.0)) * c.attr("alpha", 1.6732632423543772848170429916717)
    ) * c.attr("gamma", 1.0507009873554804934193349852946),
    "HardSigmoid": lambda c, x: (x * c.attr("alpha", 0.2) + c.attr("beta", 0.5)).maximum(
        0.0).minimum(1.0),
    "Softsign": lambda c, x: x / (x.emit("abs") + 1.0),
    "ThresholdedRelu": lambda c, x: c.where(x > c.attr("alpha", 1.0), x, c.number(0.0)),
    "Tan": lambda c, x: x.emit("sin") / x.emit("cos"),
    "Sinh": lambda c, x: (x.emit("exp") - (-x).emit("exp")) * 0.5,
    "Cosh": lambda c, x: (x.emit("exp") + (-x).emit("exp")) * 0.5,
    "Asinh": lambda c, x: _odd(c, x, lambda a: (a + (a * a + 1.0).emit("sqrt")).emit("log")),
    "Acosh": lambda c, x: (x + (x * x - 1.0).emit("sqrt")).emit("log"),
    "Atanh": lambda c, x: ((x + 1.0) / (1.0 - x)).emit("log") * 0.5,
}


def _odd(c: Call, x: Array, of: Callable[[Array], Array]) -> Array:
    size = of(x.emit("abs"))
    return c.where(x < 0, -size, size)


@decomposed(*ACTIVATIONS, note="elementwise arithmetic")
def _(c: Call) -> Any:
    x = c.x()
    if x.dtype != "f32":
        raise Refused("it is defined for floats")
    return c.out(ACTIVATIONS[c.op](c, x))
