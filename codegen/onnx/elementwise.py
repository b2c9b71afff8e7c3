"""Rows of the elementwise primitives."""

from __future__ import annotations

import numpy as np

from firstlight.codegen.onnx.graph import KINDS, Graph
from firstlight.codegen.onnx.table import ROWS, Row, row
from firstlight.codegen.onnx.values import Val

F32, I32 = KINDS["f32"], KINDS["i32"]
ONE, ZERO = np.float32(1), np.float32(0)

SAME = {
    "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "tanh": "Tanh",
    "relu": "Relu", "cos": "Cos", "sin": "Sin", "add": "Add", "sub": "Sub",
    "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min", "lt": "Less",
    "le": "LessOrEqual", "eq": "Equal", "logical_and": "And", "logical_or": "Or",
    "select": "Where",
}
"""Primitives that ONNX has under another name."""


def _same(name: str) -> Row:
    return lambda g, out, *x: g(name, *[v.plain(g) for v in x])


ROWS.update({name: _same(other) for name, other in SAME.items()})


@row
def rsqrt(g: Graph, out: object, x: Val) -> str:
    return str(g("Reciprocal", g("Sqrt", x.plain(g))))


@row
def sigmoid(g: Graph, out: object, x: Val) -> str:
    """1 / (1 + exp(-x)): onnxruntime's Sigmoid is a fit that is wrong by 1e-8 everywhere, and what
    is normalised afterwards needs small values to be right, too."""
    return str(g("Reciprocal", g("Add", g("Exp", g("Neg", x.plain(g))), ONE)))


@row
def softplus(g: Graph, out: object, x: Val) -> str:
    """max(x, 0) + log1p(u), u = exp(-|x|). A plain Softplus loses small u, whose root the router
    takes; u * log(w) / (w - 1) with w = 1 + u does not, for the error of w is in both."""
    name = x.plain(g)
    u = g("Exp", g("Neg", g("Abs", name)))
    w = g("Add", u, ONE)
    less = g("Sub", w, ONE)
    lost = g("Equal", less, ZERO)
    log = g("Div", g("Mul", u, g("Log", w)), g("Where", lost, ONE, less))
    return str(g("Add", g("Relu", name), g("Where", lost, u, log)))


@row
def mod(g: Graph, out: object, a: Val, b: Val) -> str:
    """ONNX's Mod of whole numbers has the divisor's sign, as ours; that of floats (fmod) not."""
    x, y = a.plain(g), b.plain(g)
    if a.dtype == "i32":
        return str(g("Mod", x, y))
    rest = g("Mod", x, y, fmod=1)
    other = g("Less", g("Mul", g("Sign", rest), g("Sign", y)), ZERO)
    return str(g("Where", other, g("Add", rest, y), rest))


@row
def floordiv(g: Graph, out: object, a: Val, b: Val) -> str:
    """Exact: what remains is taken away first (ONNX's Div cuts towards zero)."""
    whole = g("Div", g("Sub", a.plain(g), mod(g, out, a, b)), b.plain(g))
    return str(whole if a.dtype == "i32" else g("Round", whole))


@row
def cast(g: Graph, out: object, x: Val, dtype: str) -> str:
    return str(g("Cast", x.plain(g), to=KINDS[dtype]))
