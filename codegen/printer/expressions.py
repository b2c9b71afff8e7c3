"""TIR expressions as C."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from firstlight.codegen.walk import Walker, dtype

TYPES = {
    "float32": "float", "float64": "double", "float16": "_Float16", "bool": "bool",
    "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
    "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "uint64": "uint64_t",
}  # fmt: skip
CALLS = {
    "exp": "expf", "log": "logf", "log1p": "log1pf", "sqrt": "sqrtf", "cos": "cosf", "sin": "sinf",
    "tanh": "tanhf", "fabs": "fabsf", "floor": "floorf", "nearbyint": "nearbyintf",
    "pow": "powf", "popcount": "__builtin_popcount",
}  # fmt: skip
OPERATORS = {
    "Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=",
    "EQ": "==", "NE": "!=", "And": "&&", "Or": "||", "BitwiseAnd": "&", "BitwiseOr": "|",
    "BitwiseXor": "^", "LShift": "<<", "RShift": ">>",
}  # fmt: skip
HELPERS = {"FloorDiv": "fl_div", "FloorMod": "fl_mod", "Max": "fl_max", "Min": "fl_min"}


def atomic(text: str) -> bool:
    """Whether a C expression needs no parentheses: a word, or one call or element.

    >>> atomic("x[a + f(b)]"), atomic("x[a] + x[b]"), atomic("-1")
    (True, False, False)
    """
    rest = re.sub(r"^([\d.]+e[-+]?\d+f|[\w.]+)", "", text)
    depth = 0
    for place, letter in enumerate(rest):
        depth += (letter in "([") - (letter in ")]")
        if depth == 0:
            return place == len(rest) - 1 and letter in ")]"
    return not rest


class CExpressions(Walker):
    """Expressions as C text, with parentheses around whatever has an operator.

    types       element type -> the chip's word for it
    calls       TIR intrinsic (without ``tirx.``) -> the chip's function
    """

    types: ClassVar[Mapping[str, str]] = TYPES
    calls: ClassVar[Mapping[str, str]] = CALLS

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self._taken: set[str] = set()

    def name(self, var: Any) -> str:
        """The variable's name, with a number where another variable has that name."""
        if var not in self.names:
            base = re.sub(r"\W", "_", str(var.name)) or "v"
            name, number = base, 1
            while name in self._taken:
                name, number = f"{base}_{number}", number + 1
            self._taken.add(name)
            self.names[var] = name
        return self.names[var]

    def ctype(self, element: str) -> str:
        """The chip's word for an element type."""
        return self.types.get(element) or self.refuse(f"the element type {element}")

    def operand(self, node: Any) -> str:
        """An expression as part of a larger one."""
        text = self.expr(node)
        return text if atomic(text) else f"({text})"

    def at(self, indices: Any, shape: Any) -> str:
        """The place of an element in C-contiguous memory."""
        place = self.expr(indices[0])
        for index, size in zip(indices[1:], shape[1:], strict=True):
            place = f"({place}) * {self.operand(size)} + {self.operand(index)}"
        return place

    def e_Var(self, e: Any) -> str:
        return self.name(e)

    def e_IntImm(self, e: Any) -> str:
        kind, value = dtype(e), int(e.value)
        if kind == "bool":
            return str(value)
        if kind == "int64":
            return f"INT64_C({value})"
        if kind == "int32" and value == -(2**31):
            return "(-2147483647 - 1)"
        return f"{value}u" if kind.startswith("uint") else str(value)

    def e_FloatImm(self, e: Any) -> str:
        value = float(e.value)
        if math.isnan(value):
            return "NAN"
        if math.isinf(value):
            return "INFINITY" if value > 0 else "-INFINITY"
        text = str(np.float32(value))
        return f"{text if re.search('[.e]', text) else text + '.0'}f".replace("e-0", "e-")

    def e_StringImm(self, e: Any) -> str:
        return '"' + str(e.value) + '"'

    def e_Cast(self, e: Any) -> str:
        return f"({self.ctype(dtype(e))}){self.operand(e.value)}"

    def e_Not(self, e: Any) -> str:
        return f"!{self.operand(e.a)}"

    def e_Select(self, e: Any) -> str:
        branches = (e.condition, e.true_value, e.false_value)
        condition, yes, no = map(self.operand, branches)
        return f"{condition} ? {yes} : {no}"

    def e_TensorLoad(self, e: Any) -> str:
        return f"{self.name(e.source)}[{self.at(e.indices, e.source.shape)}]"

    def e_Call(self, e: Any) -> str:
        name = str(e.op.name).rpartition(".")[2]
        if name == "reinterpret":
            return f"fl_as_{dtype(e)}({self.expr(e.args[0])})"
        if name == "if_then_else":
            condition, yes, no = map(self.operand, e.args)
            return f"{condition} ? {yes} : {no}"
        function = self.calls.get(name) or self.refuse(f"the intrinsic {name}")
        return f"{function}({', '.join(map(self.expr, e.args))})"

    def binary(self, e: Any) -> str:
        """An operator or a helper function of two operands."""
        kind = type(e).__name__
        if kind in HELPERS:
            return f"{HELPERS[kind]}({self.expr(e.a)}, {self.expr(e.b)})"
        return f"{self.operand(e.a)} {OPERATORS[kind]} {self.operand(e.b)}"


for _kind in (*OPERATORS, *HELPERS):
    setattr(CExpressions, f"e_{_kind}", CExpressions.binary)
