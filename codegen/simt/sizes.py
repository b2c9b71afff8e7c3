"""Sizes of launches and workspaces: expressions of S as plain data, and back to numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.runtime.errors import FirstlightError

Size = Any
"""int | "S" | [op, Size, Size] with op in add sub mul ceildiv floordiv max min."""
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "ceildiv": lambda a, b: -(-a // b), "floordiv": lambda a, b: a // b, "max": max, "min": min,
}
EXPRESSIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "ceildiv": lambda a, b: T.floordiv(a + b - 1, b), "floordiv": T.floordiv,
    "max": T.max, "min": T.min,
}
NODES = {"Add": "add", "Sub": "sub", "Mul": "mul", "FloorDiv": "floordiv", "Div": "floordiv",
         "Max": "max", "Min": "min"}


def size_of(expr: Any) -> Size:
    """The size that a TIR expression of the parameter `S` is. Raises F453 for another variable."""
    kind = type(expr).__name__
    if isinstance(expr, int):
        return expr
    if kind == "IntImm":
        return int(expr.value)
    if kind == "Cast":
        return size_of(expr.value)
    if kind == "Var" and expr.name == "S":
        return "S"
    if kind in NODES:
        return combine(NODES[kind], size_of(expr.a), size_of(expr.b))
    raise FirstlightError(
        "F453", f"the size {expr} is not known before a kernel is launched", where="codegen.simt",
        why="a host knows the number of tokens S, and nothing else that changes",
        try_="make it a bound of the loop, and test inside",
    )


def combine(operation: str, a: Size, b: Size) -> Size:
    """[operation, a, b], computed where both are numbers."""
    if isinstance(a, int) and isinstance(b, int):
        return OPERATIONS[operation](a, b)
    for size, other in ((a, b), (b, a)):
        if (operation, other) in (("add", 0), ("mul", 1)):
            return size
    if operation == "mul" and isinstance(a, int):
        a, b = b, a
    return a if b == 1 and operation in ("ceildiv", "floordiv") else [operation, a, b]


def expression(size: Size, tokens: Any) -> Any:
    """A size as an int32 expression of `tokens`, the parameter `S`."""
    if isinstance(size, int):
        return T.int32(size)
    if size == "S":
        return tokens
    operation, *sides = size
    a, b = (expression(side, tokens) for side in sides)
    return EXPRESSIONS[operation](a, b)


def evaluate(size: Size, tokens: int) -> int:
    """The number that a size is for S = tokens."""
    if isinstance(size, int):
        return size
    if size == "S":
        return tokens
    operation, a, b = size
    return OPERATIONS[operation](evaluate(a, tokens), evaluate(b, tokens))
