"""The scalar unit's integers, as far as they are known."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from firstlight.targets.ascend.hazards_events import Either, Memory
from firstlight.targets.ascend.rewrite_ops import Op, Refused, split

if TYPE_CHECKING:
    from firstlight.targets.ascend.hazards_walk import Walk

Value = Any
"""An int, a bool, a `Memory`, `Either` of some, `Cells`, or None where unknown."""


def integer(walk: Walk, text: str) -> int | None:
    """A number or the value of a name; None where unknown."""
    if text.startswith("%"):
        return walk.value(text)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def alternatives(value: Value) -> tuple[Memory, ...]:
    """The memories that a value may be."""
    if isinstance(value, Either):
        return value.memories
    return (value,) if isinstance(value, Memory) else ()


def _operands(walk: Walk, op: Op) -> list[Value]:
    names = split(op.text.partition(" : ")[0])
    return [walk.value(n) if n.startswith("%") else n for n in names]


def _binary(compute: Callable[[int, int], int]) -> Callable[[Walk, Op], Value]:
    def run(walk: Walk, op: Op) -> Value:
        a, b = _operands(walk, op)
        return None if None in (a, b) else compute(int(a), int(b))
    return run


def _constant(walk: Walk, op: Op) -> Value:
    text = op.text.partition(" : ")[0]
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _cast(walk: Walk, op: Op) -> Value:
    value = walk.value(op.text.split(" ")[0])
    if value is not None and op.text.endswith(" to i1"):
        return bool(int(value) & 1)
    return int(value) if isinstance(value, bool | int) else None


COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b, "sgt": lambda a, b: a > b, "sge": lambda a, b: a >= b,
    "ult": lambda a, b: a < b, "ule": lambda a, b: a <= b, "ugt": lambda a, b: a > b,
    "uge": lambda a, b: a >= b,
}


def _cmpi(walk: Walk, op: Op) -> Value:
    how, a, b = _operands(walk, op)
    return None if None in (a, b) else COMPARE[how](int(a), int(b))


def _select(walk: Walk, op: Op) -> Value:
    condition, yes, no = _operands(walk, op)
    if condition is not None:
        return yes if condition else no
    some = [m for value in (yes, no) for m in alternatives(value)]
    return Either(tuple(some)) if some else None


def _affine(walk: Walk, op: Op) -> Value:
    name, _, rest = op.text.partition("(")
    text = walk.lowered.aliases.get(name.strip(), "")
    if not text:
        end = op.text.index(">(") + 1
        text, rest = op.text[:end], op.text[end + 1:]
    arguments = [walk.value(n) for n in re.findall(r"%[\w.$-]+(?:#\d+)?", rest)]
    match = re.fullmatch(r"affine_map<\(([^)]*)\)(?:\[([^\]]*)\])? -> \((.*)\)>", text)
    if match is None:
        raise Refused(f"a map of {op.name}", op.line)
    names = [n.strip() for n in f"{match[1]},{match[2] or ''}".split(",") if n.strip()]
    if None in arguments:
        return None
    known = dict(zip(names, arguments, strict=True))
    choose = {"affine.min": min, "affine.max": max}.get(op.name, min)
    return choose(_expression(part, known) for part in split(match[3]))


OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.MatMult: lambda a, b: -(-a // b),
}


def _expression(text: str, known: Mapping[str, int]) -> int:
    """An affine expression, read as Python's; ``@`` stands for ceildiv."""
    for word, sign in ((" floordiv ", "//"), (" ceildiv ", "@"), (" mod ", "%")):
        text = text.replace(word, sign)

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Name):
            return known[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise Refused("an affine expression", text)
    return value(ast.parse(text.strip(), mode="eval").body)


SCALAR: dict[str, Callable[[Walk, Op], Value]] = {
    "arith.constant": _constant, "arith.cmpi": _cmpi, "arith.select": _select,
    "affine.apply": _affine, "affine.min": _affine, "affine.max": _affine,
    "arith.addi": _binary(lambda a, b: a + b), "arith.subi": _binary(lambda a, b: a - b),
    "arith.muli": _binary(lambda a, b: a * b), "arith.minsi": _binary(min),
    "arith.maxsi": _binary(max), "arith.minui": _binary(min), "arith.maxui": _binary(max),
    "arith.andi": _binary(lambda a, b: a & b), "arith.ori": _binary(lambda a, b: a | b),
    "arith.xori": _binary(lambda a, b: a ^ b), "arith.shli": _binary(lambda a, b: a << b),
    "arith.shrsi": _binary(lambda a, b: a >> b), "arith.shrui": _binary(lambda a, b: a >> b),
    "arith.divsi": _binary(lambda a, b: int(a / b) if b else 0),
    "arith.divui": _binary(lambda a, b: a // b if b else 0),
    "arith.floordivsi": _binary(lambda a, b: a // b if b else 0),
    "arith.ceildivsi": _binary(lambda a, b: -(-a // b) if b else 0),
    "arith.remsi": _binary(lambda a, b: int(math.fmod(a, b)) if b else 0),
    "arith.remui": _binary(lambda a, b: a % b if b else 0),
    **{f"arith.{name}": _cast for name in ("extui", "extsi", "trunci", "index_cast",
                                           "index_castui")},
}
